"""Replies of servers to the HTTP and WebSocket clients."""

from __future__ import annotations

from p2p.base.http1 import HttpFailed, HttpReply, ReplyParser
from p2p.base.websocket import BadFrame, FrameParser
from tests.fuzz.targets import Pieces, piece

MAX_BODY = 64


def parsed(data: bytes, step: int) -> HttpReply | None:
    """The first reply in `data`; None if it is cut short."""
    parser = ReplyParser(MAX_BODY, upgrade=True)
    for start in range(0, len(data), step):
        if (reply := parser.feed(data[start : start + step])) is not None:
            return reply
    return parser.eof()


def fuzz_replies(data: bytes) -> None:
    """A reply is the same in any portions, is within its limits, and has one reading; frames too."""
    source = Pieces(data)
    how, reply, frames = source.byte(), source.piece(), source.rest()
    try:
        whole = parsed(reply, max(1, len(reply)))
        single = parsed(reply, 1 + (how & 7))
    except HttpFailed:
        pass
    else:
        if whole is not None and whole.status != 101:
            assert single is not None
            assert (single.status, single.body) == (whole.status, whole.body)
            assert len(whole.body) <= MAX_BODY
            assert not {b"content-length", b"transfer-encoding"} <= whole.headers.keys()
    outcomes = []
    for step in (max(1, len(frames)), 1 + (how >> 5)):
        parser, found = FrameParser(MAX_BODY), []
        try:
            for start in range(0, len(frames), step):
                found += parser.feed(frames[start : start + step])
        except BadFrame as error:
            outcomes.append((error.code, None))
        else:
            outcomes.append((0, found))
        assert all(len(payload) <= 125 for _, payload in found)
    assert outcomes[0] == outcomes[1]


def seeds_replies() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    upgrade = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    return [
        b"\x00" + piece(head + b"Content-Length: 2\r\n\r\nab") + b"\x81\x02hi",
        b"\x03" + piece(chunked + b"1;x=y\r\na\r\n0\r\nTrailer: 1\r\n\r\n") + b"\x01\x01a\x80\x01b",
        b"\x41"
        + piece(b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"\r\nuntil the end")
        + b"\x89\x00",
        b"\xe1" + piece(upgrade + b"\x81\x00") + b"\x88\x02\x03\xe8",
    ]
