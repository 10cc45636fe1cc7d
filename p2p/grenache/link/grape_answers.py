"""Parsing of a Grape's answers. Pure: status and body in, a value or an error out.

A Grape reports most errors as a JSON string with status 200, so success shows in the JSON type: a
number for an announcement, a list for a lookup, a key for a put, an object for a get.

    GrapeRefused    the Grape refused, or its answer does not fit the request
    NotAGrape       the program at the URL is not a Grape
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Any, Final

import orjson

from p2p.base.reach import Reach, may_name
from p2p.grenache import bep44
from p2p.grenache.directory import Address, StoredValue
from p2p.grenache.errors import GrapeRefused

MAX_ANSWER: Final = 65536  # bytes of a body; a lookup has 100 addresses at most, a value 1000 bytes
MAX_ADDRESSES: Final = 100  # of one lookup, as the Node.js Grape
NO_NODES: Final = "No nodes to query"
ALL_FAILED: Final = "All queries failed"
NOT_FOUND: Final = "ERR_REQ_NOTFOUND"  # a request of an unknown type

_ADDRESS: Final = re.compile(r"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}):([1-9]\d{0,4})", re.ASCII)
_KEY: Final = re.compile(r"[0-9a-f]{40}")
_SHOWN: Final = 120  # characters of an answer that an error quotes
_CAS, _OLD_SEQ = 301, 302
_MEANING: Final = {
    NO_NODES: "that Grape finds no other Grape for it",
    ALL_FAILED: "the other Grapes that it asked did not answer, or refused",
    "ERR_GRAPE_PAYLOAD_SIZE": "the request is larger than that Grape allows",
}
_VERSIONS: Final = {
    _CAS: "another version is stored than the one that `cas` names; read it and try again",
    _OLD_SEQ: "a version as new as this, or newer, is stored already",
}


class NotAGrape(GrapeRefused):
    """Something answers at the URL, but it is not a Grape."""

    def __init__(self, detail: str) -> None:
        super().__init__("ERR_GRAPE_ANSWER", detail)


class VersionRefused(GrapeRefused):
    """A signed value was refused because of its `seq` or `cas`. Every Grape would refuse it."""


def value_of(status: int, body: bytes) -> Any:
    """Return the JSON value of an answer, None for an empty body.

    Raises:
        GrapeRefused, NotAGrape
    """
    if status in _VERSIONS:
        raise VersionRefused(_first_line(_json_or_text(body)), _VERSIONS[status])
    if status != 200:
        text = _first_line(_json_or_text(body))
        if status not in (413, 500) and not text.startswith("ERR_"):
            raise NotAGrape(f"HTTP status {status}, which no Grape sends")
        text = text or f"HTTP status {status}"
        raise GrapeRefused(text, _MEANING.get(text, ""))
    if not body:
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NotAGrape(f"{_first_line(body.decode('utf-8', 'replace'))!r}, not JSON") from None


def announced(value: Any) -> int:
    """Return the number of DHT nodes that stored an announcement, at least 1.

    Raises:
        GrapeRefused
    """
    if type(value) is int and value >= 1:
        return value
    raise _refusal(value)


def withdrawn(value: Any) -> int:
    """Return the number of DHT nodes that removed an announcement.

    Raises:
        GrapeRefused
    """
    if type(value) is int and value >= 0:
        return value
    raise _refusal(value)


def addresses(value: Any, by: Reach = Reach.LOOPBACK) -> list[Address]:
    """Return the addresses of a lookup at a Grape of reach `by`. Those that it may not name, repeated ones, and those
    beyond `MAX_ADDRESSES`, are left out: a Grape returns unchecked announcements.

    Raises:
        GrapeRefused
    """
    if not isinstance(value, list):
        raise _refusal(value)
    found: dict[Address, None] = {}
    for entry in value:
        address = _address(entry)
        if address is not None and may_name(by, address[0]):
            found[address] = None
            if len(found) == MAX_ADDRESSES:
                break
    return list(found)


def stored_key(value: Any, expected: str) -> str:
    """Return the key under which a Grape stored a value.

    Raises:
        GrapeRefused: also when it is not `expected`: something else was stored.
    """
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise _refusal(value)
    if value != expected:
        raise GrapeRefused("ERR_GRAPE_ANSWER", f"it stored the value as {value}, not {expected}")
    return value


def stored_value(value: Any, key: str, salt: bytes) -> StoredValue | None:
    """Return the result of a get, or None. Hash and signature are checked against `key`.

    Raises:
        GrapeRefused: also when they do not.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _refusal(value)
    try:
        return _proven(value, bytes.fromhex(key), salt)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise GrapeRefused(
            "ERR_GRAPE_ANSWER", f"what it has for {key} is no value: {_shown(value)}"
        ) from None


def _proven(found: dict[str, Any], key: bytes, salt: bytes) -> StoredValue:
    value = found["v"].encode("utf-8")
    if found.get("k") is None and found.get("sig") is None:
        if bep44.immutable_key(value) == key:
            return StoredValue(value)
        # Numbers, lists and bytes that are not text arrive as a text with another hash.
        raise GrapeRefused("ERR_GRAPE_VALUE", "the value is not the text that its key stands for")
    public_key, signature = bytes.fromhex(found["k"]), bytes.fromhex(found["sig"])
    seq = found["seq"]
    if bep44.mutable_key(public_key, salt) != key:
        raise GrapeRefused("ERR_GRAPE_VALUE", "the value is of another key, or has another salt")
    if type(seq) is not int or not bep44.signature_fits(
        public_key, signature, seq, bep44.bencoded(value), salt
    ):
        raise GrapeRefused("ERR_GRAPE_VALUE", "the value's signature is not its key's")
    return StoredValue(value, public_key, seq, signature, salt)


def _address(entry: Any) -> Address | None:
    match = _ADDRESS.fullmatch(entry) if isinstance(entry, str) else None
    if match is None or int(match[2]) > 65535:
        return None
    try:
        return str(IPv4Address(match[1])), int(match[2])
    except ValueError:
        return None


def _refusal(value: Any) -> GrapeRefused:
    if isinstance(value, str) and value:
        text = _first_line(value)
        return GrapeRefused(text, _MEANING.get(text, ""))
    return GrapeRefused("ERR_GRAPE_ANSWER", f"it answered {_shown(value)}")


def _json_or_text(body: bytes) -> str:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, str) else body.decode("utf-8", "replace")


def _first_line(text: str) -> str:
    """Return a short, printable form of any answer."""
    line = text.strip().partition("\n")[0][:_SHOWN]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _shown(value: Any) -> str:
    """Describe containers by their kind only: deep nesting cannot be printed."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return "nothing" if value is None else _first_line(orjson.dumps(value).decode())
