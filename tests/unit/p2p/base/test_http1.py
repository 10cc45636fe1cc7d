"""HTTP/1.1 replies: how they are delimited, what is refused, in any portions."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.base.http1 import (
    MAX_HEAD,
    BadHttp,
    Failure,
    HttpReply,
    ReplyParser,
    TooLong,
    Url,
    connection_failure,
    request,
)

NODE = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nConnection: keep-alive\r\n"
    b"Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def parsed(*portions: bytes, max_body: int = 1000, eof: bool = False) -> HttpReply | None:
    parser = ReplyParser(max_body)
    for portion in portions[:-1]:
        assert parser.feed(portion) is None
    reply = parser.feed(portions[-1])
    return parser.eof() if reply is None and eof else reply


def test_the_reply_of_a_node_worker():
    reply = parsed(NODE + b'd\r\n["r",null,{}]\r\n0\r\n\r\n')
    assert reply is not None
    assert (reply.status, reply.body, reply.reusable) == (200, b'["r",null,{}]', True)
    assert reply.idle == 5.0
    assert reply.headers[b"transfer-encoding"] == b"chunked"


@pytest.mark.parametrize(
    ("data", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", True),
        (b"HTTP/1.1 200\r\ncontent-length:2\r\n\r\nab", b"ab", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nab", b"ab", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", False),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nab",
            b"ab",
            True,
        ),
        (
            NODE + b"1;x=y\r\na\r\n0A\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
            b"a0123456789",
            True,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            b"a",
            True,
        ),
    ],
)
def test_replies_are_the_same_whole_and_byte_by_byte(data, body, reusable):
    whole = parsed(data)
    assert whole is not None
    assert (whole.body, whole.reusable) == (body, reusable)
    assert parsed(*(data[i : i + 1] for i in range(len(data)))) == whole


def test_without_a_length_the_end_of_the_connection_is_the_end():
    reply = parsed(b"HTTP/1.1 500 Oops\r\n\r\nsome", b" text", eof=True)
    assert reply is not None
    assert (reply.status, reply.body, reply.reusable) == (500, b"some text", False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        NODE + b"5\r\nab",
        NODE + b"2\r\nab\r\n",
        NODE + b"2\r\nab\r\n0\r\n",
    ],
)
def test_a_reply_that_is_cut_short_is_none(data):
    assert parsed(data, eof=True) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x03\x00\x02\x02\x46",  # a TLS alert
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",  # obsolete folding
        b"HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 0\r\n\r\n",  # bare CR
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",  # bare LF
        b"HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        NODE + b"-1\r\n",
        NODE + b"0x1\r\na\r\n",
        NODE + b"1\r\nab\r\n",
        NODE + b"1" * 300,
        NODE + b"1;" + b"x" * 2 * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD,
        NODE + b"0\r\n" + b"x: 1\r\n" * MAX_HEAD,
    ],
)
def test_malformed_replies_are_refused(data):
    with pytest.raises(BadHttp):
        parsed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",  # before a byte of it came
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        NODE + b"3e9\r\n" + b"x" * 1001,
        NODE + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\ny",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
    ],
)
def test_no_more_than_the_limit_is_taken(data):
    with pytest.raises(TooLong):
        parsed(data)


@given(st.lists(st.integers(0, 120)), st.binary(max_size=300))
def test_portions_do_not_matter(cuts, body):
    data = NODE + b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part
    )
    data += b"0\r\n\r\n"
    parser, at = ReplyParser(1000), 0
    for cut in cuts:
        if at + cut >= len(data):
            break
        assert parser.feed(data[at : at + cut]) is None
        at += cut
    reply = parser.feed(data[at:])
    assert reply is not None
    assert reply.body == body


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", NODE]))
def test_any_bytes_are_a_reply_or_refused(noise, start):
    parser = ReplyParser(100)
    try:
        reply = parser.feed(start + noise)
        if reply is None:
            reply = parser.eof()
    except (BadHttp, TooLong):
        return
    assert reply is None or len(reply.body) <= 100


def test_the_replies_of_one_connection_in_turn():
    parser = ReplyParser(10)
    for n in (b"1", b"2"):
        reply = parser.feed(b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 1\r\n\r\n%b" % (n, n))
        assert reply is not None
        assert (reply.body, reply.headers[b"x"]) == (n, n)
        parser.expect()
    with pytest.raises(BadHttp, match="follow"):
        parser.feed(2 * b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_trailers_are_not_headers():
    reply = parsed(NODE + b"0\r\nConnection: close\r\nSet-Cookie: a\r\n\r\n")
    assert reply is not None
    assert b"set-cookie" not in reply.headers
    assert reply.headers[b"connection"] == b"keep-alive"


def test_requests_are_written_and_line_breaks_in_them_refused():
    assert request("POST", "/a?b=c", {"Host": "h:1"}, b"xy") == (
        b"POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\n\r\nxy"
    )
    assert request("GET", "/", {}) == b"GET / HTTP/1.1\r\n\r\n"
    for target, value in (("/\r\nX: y", "h"), ("/", "h\r\nX: y"), ("/", "h\n")):
        with pytest.raises(ValueError, match="line break"):
            request("GET", target, {"Host": value})


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


UNREACHABLE = Failure.UNREACHABLE


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "at X"), UNREACHABLE, "connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), UNREACHABLE, "no route to host"),
        (
            socket.gaierror(-2, "Name or service not known"),
            UNREACHABLE,
            "its name does not resolve (Name or service not known)",
        ),
        (
            of_tls("WRONG_VERSION_NUMBER"),
            Failure.NO_TLS,
            "the TLS handshake failed (wrong version number)",
        ),
        (
            untrusted(),
            Failure.UNTRUSTED,
            "its certificate is not trusted (self-signed certificate)",
        ),
        (ConnectionResetError(), UNREACHABLE, "it closed the connection without an answer"),
        (OverflowError("connect(): port must be 0-65535."), UNREACHABLE, "it is not an address"),
        (TimeoutError(), Failure.NOT_IN_TIME, "no connection in time"),
        (ValueError(), UNREACHABLE, "ValueError"),
        (ValueError("x" * 500), UNREACHABLE, "x" * 120),
    ],
)
def test_the_cause_of_a_failed_connection_is_a_few_words(error, kind, words):
    failed = connection_failure(error)
    assert (failed.kind, str(failed), failed.sent) == (kind, words, False)


def test_urls_are_split_into_their_parts():
    assert Url.parse("http://user@[::1]:80/a?b=c") == (False, ("::1", 80), "[::1]:80", "/a?b=c")
    assert Url.parse("https://x.org") == (True, ("x.org", 443), "x.org", "/")
    for text in ("", "ftp://x", "http://", "http://x:99999"):
        with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
            Url.parse(text)
