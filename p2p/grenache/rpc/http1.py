"""Client half of HTTP/1.1 (RFC 9112), as far as Grenache workers use it. No I/O.

Every exchange is one POST to "/" with a small body and one reply. A general library does not report
whether a byte of the reply arrived before the connection ended, which the caller needs to know.

    parser = ReplyParser(max_body=1 << 20)
    write(request_head("127.0.0.1", 1337, len(body)) + body)
    while (reply := parser.feed(await read())) is None:
        ...
    reply.status, reply.body, reply.reusable
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from p2p.grenache.rpc.rpc_wire import COMPRESS, GZIP, TooLarge

MAX_HEAD: Final = (
    16384  # bytes of a status line with its headers, and of what follows the last chunk
)
MAX_LINE: Final = 256  # bytes of a chunk's size line
MAX_INTERIM: Final = 8  # replies of the kind "100 Continue" before the real one
MAX_IDLE_CLAIM: Final = 3600.0  # seconds that a server can claim to keep an idle connection

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;.*)?", re.DOTALL)
_KEPT = re.compile(rb"timeout=([0-9]{1,9})")


class BadHttp(ValueError):
    """The bytes are not an HTTP/1.1 reply."""


class HttpReply(NamedTuple):
    """`reusable`: the connection can carry another request; `idle`: for how many seconds the server says
    it keeps it without one, None when it does not say."""

    status: int
    encoding: bytes
    body: bytes
    reusable: bool
    idle: float | None


def request_head(host: str, port: int, length: int, *, compressed: bool = False) -> bytes:
    """The bytes before a body of `length` bytes, with the headers that the Node.js client sends."""
    kind = "" if compressed else "Content-Type: text/plain;charset=UTF-8\r\n"
    return (
        f"POST / HTTP/1.1\r\n{COMPRESS}: {GZIP if compressed else 'none'}\r\n{kind}"
        f"Accept: */*\r\nContent-Length: {length}\r\nHost: {host}:{port}\r\n"
        "Connection: keep-alive\r\n\r\n"
    ).encode("ascii")


class ReplyParser:
    """Parser of a reply, from its bytes in any portions. Each reply of a connection has a parser of its own."""

    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_interim",
        "_left",
        "_looked",
        "_max_body",
        "_state",
        "_trailers",
    )

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._body = bytearray()
        self._state = "head"  # then "length", "size", "chunk", "trailers", "close"
        self._looked = 0  # bytes of the buffer in which no end of the head was found
        self._left = 0  # bytes of the body, or of the chunk and its line end, still to come
        self._interim = 0
        self._trailers = 0
        self._head = HttpReply(0, b"", b"", False, None)

    def feed(self, data: bytes) -> HttpReply | None:
        """Take bytes; the reply when it is complete. Not to be fed again after that.

        Raises:
            BadHttp: this is no reply, or more than one.
            TooLarge: the body has more than `max_body` bytes, or says that it will have.
        """
        self._buffer += data
        while True:
            state = self._state
            if state == "head":
                done = self._take_head()
            elif state == "length":
                done = self._take_length()
            elif state == "size":
                done = self._take_size()
            elif state == "chunk":
                done = self._take_chunk()
            elif state == "trailers":
                done = self._take_trailers()
            else:
                self._add(self._buffer)
                self._buffer.clear()
                done = False
            if done is None:
                continue
            return self._complete() if done else None

    def eof(self) -> HttpReply | None:
        """Process the end of the connection: return the reply if it ends this way, None if it was
        cut short."""
        return self._complete() if self._state == "close" else None

    # Each of the following returns True when the reply is complete, None when the state changed and
    # there may be more to read, False when more bytes are needed.

    def _take_head(self) -> bool | None:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._looked - 3))
        if end < 0 or end > MAX_HEAD:
            self._looked = len(buffer)
            if len(buffer) > MAX_HEAD:
                raise BadHttp(f"the head of the reply is longer than {MAX_HEAD} bytes")
            if not b"HTTP/1.".startswith(buffer[:7]):
                raise BadHttp(f"not an HTTP/1.1 reply: {bytes(buffer[:40])!r}")
            return False
        lines = bytes(buffer[:end]).split(b"\r\n")
        del buffer[: end + 4]
        self._looked = 0
        match = _STATUS.fullmatch(lines[0])
        if match is None:
            raise BadHttp(f"not an HTTP/1.1 status line: {lines[0][:80]!r}")
        status = int(match[2])
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise BadHttp(f"HTTP {status} is not an answer to this request")
            return None
        return self._begin(status, match[1] == b"1", _headers(lines))

    def _begin(self, status: int, persistent: bool, headers: dict[bytes, bytes]) -> bool | None:
        """Determine the body's framing: RFC 9112, 6.3."""
        said = headers.get(b"connection", b"").lower()
        reusable = b"close" not in said and (persistent or b"keep-alive" in said)
        encoding = headers.get(b"content-encoding", b"").lower()
        kept = _KEPT.search(headers.get(b"keep-alive", b""))
        idle = None if kept is None else min(float(kept[1]), MAX_IDLE_CLAIM)
        transfer, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        done: bool | None = None
        if status in (204, 304):
            done = True
        elif transfer is not None:
            if transfer.lower() != b"chunked":
                raise BadHttp(f"transfer encoding {transfer[:40]!r} is not supported")
            reusable = reusable and length is None  # both: a proxy may have misread one of them
            self._state = "size"
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise BadHttp(f"{length[:40]!r} is not a length")
            self._left = int(length)
            if self._left > self._max_body:
                raise TooLarge("the reply", self._max_body)
            self._state = "length"
        else:
            self._state, reusable = "close", False
        self._head = HttpReply(status, encoding, b"", reusable, idle)
        return done

    def _take_length(self) -> bool | None:
        if len(self._buffer) < self._left:
            return False
        self._body, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        return True

    def _take_size(self) -> bool | None:
        line = self._line(MAX_LINE)
        if line is None:
            return False
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise BadHttp(f"{line[:40]!r} is not a chunk size")
        size = int(match[1], 16)
        if len(self._body) + size > self._max_body:
            raise TooLarge("the reply", self._max_body)
        self._left = size + 2
        self._state = "chunk" if size else "trailers"
        return None

    def _take_chunk(self) -> bool | None:
        buffer, left = self._buffer, self._left
        if len(buffer) < left:
            return False
        if buffer[left - 2 : left] != b"\r\n":
            raise BadHttp("a chunk is longer than its size")
        self._body += buffer[: left - 2]
        del buffer[:left]
        self._state = "size"
        return None

    def _take_trailers(self) -> bool | None:
        while True:
            line = self._line(MAX_HEAD)
            if line is None:
                return False
            if not line:
                return True
            self._trailers += len(line)
            if self._trailers > MAX_HEAD:
                raise BadHttp("the reply does not end")

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, limit + 2)
        if end < 0:
            if len(self._buffer) > limit:
                raise BadHttp(f"a line of the reply is longer than {limit} bytes")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _add(self, data: bytearray) -> None:
        if len(self._body) + len(data) > self._max_body:
            raise TooLarge("the reply", self._max_body)
        self._body += data

    def _complete(self) -> HttpReply:
        if self._buffer:
            raise BadHttp("bytes follow the reply")
        return self._head._replace(body=bytes(self._body))


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the headers by name in lower case; values of a repeated name are joined."""
    found: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise BadHttp(f"{line[:80]!r} is not a header")
        name, value = name.lower(), value.strip(b" \t")
        before = found.get(name)
        if before is not None and not (name == b"content-length" and before == value):
            value = before + b", " + value
        found[name] = value
    return found
