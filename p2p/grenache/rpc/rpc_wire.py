"""Wire format of Grenache RPC, the same over HTTP and WebSocket. No I/O.

A request is the JSON array `[rid, key, payload]`, its reply `[rid, error, result]`: `rid` is the caller's
own text for matching the two, `key` the name of the service, `error` null or a text. A result may come with
an error. With gzip, which only HTTP has, the same bytes are compressed.

    body = encode_request(new_rid(), "rpc_test", {"a": 1})
    rid, key, payload = decode_request(body)
    reply = decode_reply(encode_reply(rid, None, payload))
    assert reply.result == {"a": 1}
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from typing import Any, Final, NamedTuple

import orjson

from p2p.grenache.errors import BadInput, GrenacheError

MAX_PAYLOAD: Final = 1 << 20  # bytes of one body or frame, after decompression
COMPRESS: Final = "grc-compress"  # header: the body is compressed, and so shall the reply be
GZIP: Final = "gzip"
OVERRIDE: Final = "_gr"  # header `[rid, key]`: takes the place of those in the body

DRAWN: Final = 256  # ids that are drawn at once

ERR_BUSY: Final = "ERR_BUSY"  # not executed; `retry_after` returns the wait

Rid = str | int | float | None
"""Node.js sends UUID text. Workers echo whatever scalar came, so other callers may number theirs."""


class Malformed(GrenacheError):
    """The received bytes are not a valid request or reply. `rid`: the request's id, when it could
    be read."""

    def __init__(self, code: str, detail: str = "", *, rid: Rid = None) -> None:
        super().__init__(code, detail)
        self.rid = rid


class TooLarge(Malformed):
    """More bytes than the limit, before or after decompression."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__("ERR_PAYLOAD_SIZE", f"{what} is larger than {limit} bytes")
        self.limit = limit


class RpcReply(NamedTuple):
    """`error` is None or the worker's text; `result` may come with an error."""

    rid: Rid
    error: str | None
    result: Any


class _RandomIds:
    """UUID 4 texts, made in bulk: a system call costs as much as the rest of an id, and `uuid.uuid4` ten times as
    much. Those drawn together have their first 74 random bits in common, and 48 each of its own."""

    __slots__ = ("at", "drawn", "first")

    def __init__(self) -> None:
        self.first = self.drawn = ""
        self.at = 0
        os.register_at_fork(after_in_child=self.drop)

    def drop(self) -> None:
        """Draw anew: what was drawn is the other process's, too."""
        self.drawn = ""

    def take(self) -> str:
        at = self.at
        if at >= len(self.drawn):
            self.first, self.drawn, at = str(uuid.uuid4())[:-12], os.urandom(6 * DRAWN).hex(), 0
        self.at = at + 12
        return self.first + self.drawn[at : at + 12]


new_rid: Final = _RandomIds().take
"""Return a new request id: UUID 4 text, as the Node.js clients send."""


def encode_request(rid: Rid, key: str, payload: Any) -> bytes:
    """Raises `BadInput` (ERR_NOT_JSON) for a payload that JSON cannot hold."""
    return dumps([rid, key, payload])


def encode_reply(rid: Rid, error: str | None, result: Any) -> bytes:
    """Raises `BadInput` (ERR_NOT_JSON) for a result that JSON cannot hold."""
    return dumps([rid, error, result])


def decode_request(data: bytes | str, override: str | None = None) -> tuple[Rid, str, Any]:
    """The `(rid, key, payload)` of a body or frame; a payload left out is None.

    Args:
        override: text of the header `OVERRIDE`, whose rid and key win over those of the body.

    Raises:
        Malformed: ERR_REQUEST_NOT_JSON, ERR_REQUEST_SHAPE for JSON that is no such array,
            ERR_HEADER_PARSE_GR for a header that is not JSON.
    """
    try:
        parts = loads(data)
    except ValueError as error:
        detail = str(error) if data else "the request is empty"
        raise Malformed("ERR_REQUEST_NOT_JSON", detail) from None
    if type(parts) is not list:
        raise Malformed("ERR_REQUEST_SHAPE", "a request is an array [rid, key, payload]")
    if len(parts) != 3:
        parts = [*parts, None, None, None][:3]
    rid, key, payload = parts
    if override is not None:
        rid, key = _overridden(override, rid, key)
    if type(rid) in (list, dict):
        raise Malformed("ERR_REQUEST_SHAPE", "rid is a text")
    if type(key) is not str or not key:
        raise Malformed("ERR_REQUEST_SHAPE", "key is the name of a service", rid=rid)
    return rid, key, payload


def decode_override(header: str) -> tuple[Any, Any]:
    """The `(rid, key)` of the header `OVERRIDE`, None where it says nothing.

    Raises:
        Malformed: ERR_HEADER_PARSE_GR, it is not JSON.
    """
    try:
        wanted = loads(header)
    except ValueError as error:
        raise Malformed("ERR_HEADER_PARSE_GR", str(error)) from None
    if type(wanted) is not list:
        return None, None
    wanted += [None, None]
    return wanted[0] or None, wanted[1] or None


def _overridden(header: str, rid: Any, key: Any) -> tuple[Any, Any]:
    wanted_rid, wanted_key = decode_override(header)
    return wanted_rid or rid, wanted_key or key


def decode_reply(data: bytes | str) -> RpcReply:
    """Raises `Malformed` (ERR_REPLY_EMPTY, as Node.js says) for what is no reply.

    Like the Node.js client, this takes anything that is not empty, zero or false as an error; what is no
    text is given as its JSON.
    """
    try:
        parts = loads(data)
    except ValueError as wrong:
        raise Malformed("ERR_REPLY_EMPTY", f"the reply is not JSON: {wrong}") from None
    if type(parts) is not list or not parts:
        raise Malformed("ERR_REPLY_EMPTY", "a reply is an array [rid, error, result]")
    rid = parts[0]
    if type(rid) in (list, dict):
        raise Malformed("ERR_REPLY_EMPTY", "rid is a text")
    error = parts[1] if len(parts) > 1 else None
    if error is not None and type(error) is not str:
        error = dumps(error).decode() if error or isinstance(error, list | dict) else None
    return RpcReply(rid, error or None, parts[2] if len(parts) > 2 else None)


def busy(retry_after_s: float) -> str:
    """Return the error of an overloaded worker: not executed, try again later."""
    return f"{ERR_BUSY}: try again in {retry_after_s:.3f} s"


def retry_after(error: str) -> float | None:
    """Return the seconds to wait if `error` was made by `busy`, else None."""
    words = error.split(" ")
    if words[0] != f"{ERR_BUSY}:" or len(words) < 2:
        return None
    try:
        seconds = float(words[-2])
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < 3600.0 else None


def dumps(value: Any) -> bytes:
    """JSON. NaN and infinities become null, as in JavaScript.

    Raises:
        BadInput: ERR_NOT_JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Supported by JavaScript but not by orjson: long integers, half surrogate pairs.
        try:
            return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput("ERR_NOT_JSON", f"JSON cannot hold this: {error}") from None


def loads(data: bytes | str) -> Any:
    """Raises `ValueError` for what is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # JavaScript writes half surrogate pairs as \\udXXX, which orjson refuses.
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        if "\\u" not in text:
            raise
        try:
            return json.loads(text, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def gzip(data: bytes) -> bytes:
    """Compress at a fast level."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def gunzip(data: bytes, limit: int = MAX_PAYLOAD) -> bytes:
    """Decompress `data`; never produces more than `limit` bytes.

    Raises:
        TooLarge: it holds more.
        Malformed: ERR_ENCODING_COMPRESSION, not gzip, cut short, or more than one gzip member.
    """
    unpacker = zlib.decompressobj(31)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise Malformed("ERR_ENCODING_COMPRESSION", str(error)) from None
    if len(unpacked) > limit:
        raise TooLarge("the decompressed body", limit)
    if not unpacker.eof:
        raise Malformed("ERR_ENCODING_COMPRESSION", "the gzip data is cut short")
    if unpacker.unused_data:
        raise Malformed("ERR_ENCODING_COMPRESSION", "bytes follow the gzip data")
    return unpacked
