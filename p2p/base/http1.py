"""Client half of HTTP/1.1 (RFC 9112): requests, and a strict parser of replies on llhttp. No I/O.

    parser = ReplyParser(max_body=1 << 20)
    write(request("POST", "/", {"Host": "127.0.0.1:1337"}, body))
    while (reply := parser.feed(await read())) is None:
        ...
    reply.status, reply.body, reply.reusable

llhttp is lenient in places where this parser is not: transfer encodings other than `chunked` are refused, and the bytes
of heads, trailers and chunk extensions are bounded.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httptools

MAX_HEAD: Final = 16384  # bytes of a status line with its headers; also between two parts of a body
MAX_INTERIM: Final = 8  # replies such as "100 Continue" before the final one
MAX_IDLE_CLAIM: Final = 3600.0  # seconds that a server can claim to keep an idle connection
MAX_CAUSE: Final = 120  # characters of a library's or server's text

_KEPT = re.compile(rb"timeout=([0-9]{1,9})")
_NO_BODY: Final = (204, 304)


class Failure(Enum):
    """Kinds of failed exchanges."""

    CLOSED = "this client was closed"
    BUSY = "too many requests to this server are under way"
    UNREACHABLE = "no connection"
    NOT_IN_TIME = "no connection in time"
    UNTRUSTED = "the server's certificate is not trusted"
    NO_TLS = "the TLS handshake failed"
    LOST = "the connection ended before a byte of the reply"
    CUT_SHORT = "the connection ended within the reply"
    NO_REPLY = "no reply in time"
    MALFORMED = "the bytes are not an HTTP/1.1 reply"
    TOO_LARGE = "the reply's body is larger than the limit"


class Url(NamedTuple):
    """Parts of an http or https URL."""

    secure: bool
    address: tuple[str, int]
    netloc: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """
        Raises:
            ValueError: it is not such a URL.
        """
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is not an http URL")
        secure = parts.scheme == "https"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        address = parts.hostname, parts.port or (443 if secure else 80)
        return cls(secure, address, parts.netloc.rpartition("@")[2], target)


class HttpReply(NamedTuple):
    """`headers`: by name in lower case, values of a repeated name joined. `reusable`: the connection can carry another
    request."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    reusable: bool

    @property
    def idle(self) -> float | None:
        """Seconds for which the server announces to keep the connection without requests."""
        kept = _KEPT.search(self.headers.get(b"keep-alive", b""))
        return None if kept is None else min(float(kept[1]), MAX_IDLE_CLAIM)


class HttpFailed(Exception):
    """An exchange without a reply. `sent`: the server may have received the request; `reply`: the one that refused a
    WebSocket."""

    def __init__(
        self, kind: Failure, why: str = "", *, sent: bool = True, reply: HttpReply | None = None
    ) -> None:
        super().__init__(why or kind.value)
        self.kind = kind
        self.sent = sent
        self.reply = reply


class BadHttp(HttpFailed):
    """The bytes are not an HTTP/1.1 reply."""

    def __init__(self, why: str) -> None:
        super().__init__(Failure.MALFORMED, why)


class TooLong(HttpFailed):
    """The body of a reply is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(Failure.TOO_LARGE, f"the reply is larger than {limit} bytes")


def connection_failure(error: BaseException) -> HttpFailed:
    """Convert an error of connecting, of any library."""
    if isinstance(error, TimeoutError) and not error.errno:
        return HttpFailed(Failure.NOT_IN_TIME, sent=False)
    kind, why = Failure.UNREACHABLE, str(error)[:MAX_CAUSE] or type(error).__name__
    if isinstance(error, ssl.CertificateError):
        why = f"its certificate is not trusted ({error.verify_message or why})"
        kind = Failure.UNTRUSTED
    elif isinstance(error, ssl.SSLError):
        why = error.reason.replace("_", " ").lower() if error.reason else why
        kind, why = Failure.NO_TLS, f"the TLS handshake failed ({why})"
    elif isinstance(error, socket.gaierror):
        why = f"its name does not resolve ({error.strerror or why})"
    elif isinstance(error, ConnectionResetError | BrokenPipeError):
        why = "it closed the connection without an answer"
    elif isinstance(error, UnicodeError | OverflowError):
        why = "it is not an address"
    elif isinstance(error, OSError) and error.errno and error.errno > 0:
        why = os.strerror(error.errno).lower()
    return HttpFailed(kind, why, sent=False)


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Encode a request; `headers` lack Content-Length only.

    Raises:
        ValueError: a line break in one of them.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if "\r" in target or "\n" in target or lines.count("\n") != len(headers):
        raise ValueError("a header of a request has no line breaks")
    length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
    return f"{method} {target} HTTP/1.1\r\n{lines}{length}\r\n".encode("latin-1") + body


class ReplyParser:
    """Parser of the replies of one connection, one after the other, from bytes in any portions.

    `upgrade` accepts a 101 reply; its body is then what follows the head. A stream takes the parts of a body by `take`
    before the reply is complete.
    """

    __slots__ = (
        "_body",
        "_complete",
        "_framing",
        "_head_size",
        "_headers",
        "_interim",
        "_llhttp",
        "_max_body",
        "_reusable",
        "_upgrade",
        "status",
    )

    def __init__(self, max_body: int, *, upgrade: bool = False) -> None:
        self._max_body = max_body
        self._upgrade = upgrade
        self._llhttp = httptools.HttpResponseParser(self)
        self.expect()

    def expect(self, max_body: int | None = None) -> None:
        """Prepare for the next reply, after a reusable one."""
        self._max_body = self._max_body if max_body is None else max_body
        self._body = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._framing = 0  # bytes since the last part of the body
        self._interim = 0
        self._complete = self._reusable = False
        self.status = 0  # once the head is complete

    def feed(self, data: bytes) -> HttpReply | None:
        """Take bytes; return the reply when it is complete. Not to be fed again after that.

        Raises:
            BadHttp: the bytes are not a reply, or more than one.
            TooLong: the body has more than `max_body` bytes, or says that it will have.
        """
        before = len(self._body)
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            return HttpReply(self.status, self._headers, data[upgraded.args[0] :], reusable=False)
        except httptools.HttpParserError as error:
            raised = error.__context__
            if isinstance(raised, HttpFailed):
                raise raised from None
            raise BadHttp(f"not an HTTP/1.1 reply: {error}") from None
        if self._complete:
            return self._reply()
        self._framing = 0 if len(self._body) > before else self._framing + len(data)
        if self._framing > MAX_HEAD:
            raise BadHttp(f"the head of the reply is longer than {MAX_HEAD} bytes")
        return None

    def eof(self) -> HttpReply | None:
        """Process the end of the connection: return the reply if it ends this way, None if it was cut short."""
        headers = self._headers
        delimited = b"content-length" in headers or b"transfer-encoding" in headers
        return None if delimited or not self.status else self._reply()

    def take(self) -> bytes:
        """Return and forget the part of the body received so far."""
        part = bytes(self._body)
        self._body.clear()
        return part

    def _reply(self) -> HttpReply:
        return HttpReply(self.status, self._headers, bytes(self._body), self._reusable)

    # Callbacks of llhttp

    def on_message_begin(self) -> None:
        if self._complete:
            raise BadHttp("bytes follow the reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > MAX_HEAD:
            raise BadHttp(f"the head of the reply is longer than {MAX_HEAD} bytes")
        if self.status:
            return  # a trailer
        name = name.lower()
        before = self._headers.get(name)
        self._headers[name] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        llhttp, headers = self._llhttp, self._headers
        if llhttp.get_http_version() not in ("1.1", "1.0"):
            raise BadHttp(f"HTTP/{llhttp.get_http_version()} is not supported")
        status = llhttp.get_status_code()
        if status < 200 and not (self._upgrade and status == 101):
            self._interim += 1
            if status == 101 or status < 100 or self._interim > MAX_INTERIM:
                raise BadHttp(f"HTTP {status} is not an answer to this request")
            headers.clear()
            return
        transfer = headers.get(b"transfer-encoding")
        if transfer is not None and transfer.lower() != b"chunked":
            raise BadHttp(f"transfer encoding {transfer[:40]!r} is not supported")
        if (
            transfer is None
            and status not in _NO_BODY
            and int(headers.get(b"content-length", 0)) > self._max_body
        ):
            raise TooLong(self._max_body)
        self.status = status

    def on_body(self, part: bytes) -> None:
        if len(self._body) + len(part) > self._max_body:
            raise TooLong(self._max_body)
        self._body += part

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self._reusable = self._llhttp.should_keep_alive()
