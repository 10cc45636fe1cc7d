"""Requests and responses as bytes (RFC 9112), without I/O.

The parser is llhttp, strict in everything. A client repeats its heads, so a head is parsed and routed once and remembered
with what follows from it. The connection needs no parser then: it knows where a head and a body end. A proxy
before the node must see the same requests in the same bytes, so a head that leaves the length of its body in doubt is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools

from node.http import limits
from p2p.ground.bounded_map import BoundedMap

if TYPE_CHECKING:
    from node.http.router import Route

    Find = Callable[[str, tuple[str, ...]], Route]  # of a method and the parts of a path

HEAD_END: Final = b"\r\n\r\n"
_NONE: Final = frozenset[str]()
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON: Final = "application/json"
COMMON: Final = (  # lines of every response
    "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\nServer: exchange-node\r\n"
)
_CACHE: Final = "Cache-Control"  # no-store, unless the response says otherwise
_UNCACHED: Final = f"{_CACHE}: no-store\r\n{COMMON}"
# Two of one of these would be two meanings.
_SINGLE: Final = frozenset(
    {"content-length", "content-type", "host", "transfer-encoding", "user-agent"}
)


class Malformed(ValueError):
    """The bytes are not a request of HTTP/1.1 or 1.0."""


class Response(NamedTuple):
    """A response. `problem` is the code of a refusal; `close` ends the connection."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = {}
    problem: str = ""
    close: bool = False

    def encode(self, more: str, *, body: bool = True) -> bytes:
        """Encode it with `more` lines of the head, each with its CRLF; `body`: not of a response to HEAD."""
        lines = more + _UNCACHED
        if self.headers:
            lines = more + COMMON if _CACHE in self.headers else lines
            for name, value in self.headers.items():
                lines += f"{name}: {value}\r\n"
        date, raw = _date(int(time.time())), self.body
        if self.status == HTTPStatus.NOT_MODIFIED:
            return f"{_status_line(self.status)}{lines}{date}".encode()
        head = (
            f"{_status_line(self.status)}Content-Type: {self.content_type}\r\n{lines}"
            f"Content-Length: {len(raw)}\r\n{date}"
        )
        return head.encode() + raw if body else head.encode()


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n\r\n"


class Target:
    """Target of requests: `raw_path` as it was sent, `path` decoded, names and values of the `query`, and the route."""

    __slots__ = ("path", "query", "raw_path", "route")

    def __init__(self, method: str, target: str, find: Find) -> None:
        self.raw_path, query = _split(target)
        self.query = tuple(parse_qsl(query, keep_blank_values=True)) if query else ()
        parts = tuple(map(_decoded, self.raw_path.split("/")))
        self.path = "/".join(parts)
        self.route = find(method, parts)


class Head:
    """Head of a request. It may be that of many: nothing in it changes.

    Attributes:
        raw: its bytes, with the empty line.
        target: path, query and route.
        headers: by name in lower case; the first of those with one name.
        repeated: names that came more than once.
        length: of the body, unless it is `chunked`.
        expects: what the client waits for before it sends the body.
        upgrade: the client asks for another protocol.
        old: the client speaks HTTP/1.0.
    """

    __slots__ = (
        "chunked",
        "expects",
        "headers",
        "keep_alive",
        "length",
        "method",
        "old",
        "raw",
        "repeated",
        "target",
        "upgrade",
    )

    def __init__(self, raw: bytes, find: Callable[[str, str], Target]) -> None:
        _Judge().check(raw)
        lines = iter(str(raw, "latin-1")[: -len(HEAD_END)].split("\r\n"))
        try:
            method, target, version = next(lines).split(" ")
        except ValueError:
            raise Malformed("the first line is not of three words") from None
        count, headers = 0, dict[str, str]()
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), value.strip(" \t"))
            count += 1
        repeated = _NONE
        if len(headers) < count:
            repeated = _repeated(raw)
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise Malformed(version)
        self.old = version == "HTTP/1.0"
        if not self.old and "host" not in headers:
            raise Malformed("no Host header")
        if repeated and not repeated.isdisjoint(_SINGLE):
            raise Malformed("a header is there twice")
        self.chunked = "transfer-encoding" in headers
        if self.chunked and (self.old or headers["transfer-encoding"].lower() != "chunked"):
            raise Malformed("a transfer encoding that is not known")
        self.raw = raw
        self.method = method
        self.headers: Mapping[str, str] = headers
        self.repeated = repeated
        self.keep_alive, self.upgrade = not self.old, False
        if "connection" in headers:
            words = {word.strip() for word in headers["connection"].lower().split(",")}
            asked = "keep-alive" in words if self.old else "close" not in words
            self.keep_alive = asked and "connection" not in repeated
            self.upgrade = "upgrade" in words and "upgrade" in headers
        self.length = int(headers.get("content-length", 0))
        self.expects = headers["expect"].lower() if "expect" in headers else ""
        self.target = find(method, target)


def _repeated(raw: bytes) -> frozenset[str]:
    """Names of headers that are there more than once."""
    names = [line.partition(b":")[0].lower() for line in raw.split(b"\r\n")[1:-2]]
    return frozenset(name.decode("ascii") for name in names if names.count(name) > 1)


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request's target, as they were sent.

    Raises:
        Malformed: the target is neither a path nor a URL.
    """
    target = target.partition("#")[0]
    if target.startswith("/") and target.isascii():
        path, _, query = target.partition("?")
        return path, query
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise Malformed("the target is neither a path nor a URL")
    return parts.path or "/", parts.query


def _decoded(part: str) -> str:
    """A part of a path. An escape that is not UTF-8 stays as it is."""
    if "%" in part:
        with suppress(UnicodeDecodeError):
            return unquote(part, errors="strict")
    return part


class _Judge:
    """Callbacks of llhttp for one head, which judges it. Its lines are taken apart afterwards: a callback for each costs
    twice as much."""

    __slots__ = ("complete", "more")

    def __init__(self) -> None:
        self.complete = False
        self.more = False

    def check(self, raw: bytes, *, whole: bool = True) -> None:
        """Check a head; without `whole` the beginning of one.

        Raises:
            Malformed: it is not a head, or more than one.
        """
        try:
            httptools.HttpRequestParser(self).feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise Malformed(str(error)) from None
        if whole and (self.more or not self.complete):
            raise Malformed("not one head")

    def on_message_begin(self) -> None:
        self.more = self.complete

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_body(self, body: bytes) -> None:
        self.more = True


def check_beginning(data: bytes) -> None:
    """Check the beginning of a head, so that what is not HTTP need not be waited for.

    Raises:
        Malformed: nothing that may follow makes it a head.
    """
    _Judge().check(data, whole=False)


class HeadReader:
    """Reads heads, and remembers the last ones, and their targets, which heads share that are signed each anew."""

    def __init__(self, find: Find) -> None:
        self._heads = BoundedMap[bytes, Head](limits.HEADS)
        self._target = lru_cache(limits.HEADS)(lambda method, target: Target(method, target, find))

    def read(self, raw: bytes) -> Head:
        """Return a head with its empty line.

        Raises:
            Malformed: it is not one.
        """
        head = self._heads.get(raw)
        if head is None:
            head = Head(raw, self._target)
            if len(raw) <= limits.MAX_REMEMBERED and not head.target.route.signed:
                self._heads[raw] = head
        return head


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1), of a head that says so."""

    def __init__(self, head: Head) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []
        self.size = 0
        self.complete = False
        self.more = False  # bytes followed it: their place is not known any more
        self._parser.feed_data(head.raw)

    def feed(self, data: bytes) -> None:
        """Take bytes, until `complete`.

        Raises:
            Malformed: they are not chunks.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            if not self.complete:
                raise Malformed(str(error)) from None
            self.more = True

    def body(self) -> bytes:
        return b"".join(self._parts)

    def on_message_begin(self) -> None:
        self.more = self.complete

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._parts.append(body)
            self.size += len(body)

    def on_message_complete(self) -> None:
        self.complete = True
