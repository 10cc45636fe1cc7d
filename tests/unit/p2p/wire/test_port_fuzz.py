"""Any bytes on the peer port: a reason or a hang-up, bounded memory, and a node that still works.

The same bytes are sent to a plain port, to a TLS port raw, and to a TLS port inside TLS, before a
handshake and (framed, so that they get further) after one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_kit import Node, Nodes, fed, framed, until

from p2p.base.errors import Code
from p2p.base.identity import Identity
from p2p.base.limits import MAX_FRAME, MAX_HANDSHAKE_FRAME, READ_BUFFER
from p2p.wire import tls
from p2p.wire.connection import PeerConnection
from p2p.wire.framing import HEADER, FrameDecoder
from p2p.wire.messages import Capabilities, Codec, Envelope, Handshake, HandshakeAck, pack

FUZZ = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STRANGER, FRIEND = (Identity.from_seed(bytes([n]) * 32) for n in (5, 6))


class Target:
    """One node under attack, on its own loop for the whole of a test, and a friend of it."""

    def __init__(self, *, secure: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self.nodes = Nodes(secure)
        self.secure = secure
        self.node: Node = self.run(self.nodes.node(1))

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))

    def close(self) -> None:
        async def stop() -> None:
            await asyncio.gather(*(node.service.stop() for node in self.nodes.made))

        self.run(stop())
        self.loop.close()

    async def attack(self, data: bytes, *, inside_tls: bool, splits: int = 1) -> bytes:
        """Send `data` in some pieces, say no more, and return all that was answered."""
        context: ssl.SSLContext | None = tls.client_context(STRANGER) if inside_tls else None
        hostname = "" if inside_tls else None
        answer = b""
        # A stranger that is hung up on sees resets and TLS alerts: those are answers too.
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                *self.node.address, ssl=context, server_hostname=hostname
            )
            try:
                step = max(1, len(data) // splits)
                for begin in range(0, len(data), step):
                    writer.write(data[begin : begin + step])
                    await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                else:
                    writer.close()
                answer = await asyncio.wait_for(reader.read(), 5)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return answer

    async def still_works(self) -> None:
        await until(lambda: not self.node.service._pending)
        for connection in self.node.service._connections:
            room = max(READ_BUFFER, MAX_HANDSHAKE_FRAME + HEADER)
            assert connection._decoder.capacity <= room
        if len(self.nodes.made) == 1:
            await self.nodes.node(0, listen=None, identity=FRIEND)
        friend = self.nodes.made[1]
        before = len(self.node.handler.messages)
        link = await friend.service.dial(*self.node.address, expect=self.node.node_id)
        link.send(friend.envelope())
        await until(lambda: len(self.node.handler.messages) == before + 1)
        link.close(Code.SHUTDOWN)
        assert isinstance(link, PeerConnection)
        await link.wait_closed()
        await until(lambda: not self.node.service._connections)


@pytest.fixture(params=["plain", "tls"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    made = Target(secure=request.param == "tls")
    yield made
    made.close()
    assert made.faults == []


def codes_of(answer: bytes) -> list[str]:
    """The goodbyes among the frames of an answer; every frame has to be a well-formed message."""
    codec = Codec()
    codes = []
    for frame in fed(FrameDecoder(), answer):
        envelope = codec.decode(frame)
        payload = codec.payload(envelope.type, envelope.payload)
        if envelope.type == "goodbye":
            codes.append(Code(payload.code).value)
            assert payload.reason
    return codes


def frame_of(kind: str, payload: object, **more: Any) -> bytes:
    envelope = Envelope(kind, STRANGER.node_id, "", 0, msgspec.Raw(pack(payload)), **more)
    return framed(Codec().encode(envelope, as_json=kind.startswith("handshake")))


HELLO = frame_of(
    "handshake",
    Handshake(
        STRANGER.node_id, STRANGER.public_key, "1.0.0", "test", 0, bytes(32), Capabilities("1.0.0")
    ),
)
PIECES = st.one_of(
    st.binary(max_size=200),
    st.binary(min_size=1, max_size=200).map(framed),
    st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "big")),
    st.sampled_from(
        [
            HELLO,
            HELLO[:-1],
            framed(b"{}"),
            framed(b"{" * 3000),
            frame_of("handshake_ack", HandshakeAck(STRANGER.node_id, bytes(64))),
            frame_of("heartbeat", {"sequence": -1}),
            frame_of("goodbye", {"code": "\x00", "reason": "\n" * 500}),
            frame_of("order", {}),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x15\x03\x01\x00\x02\x02\x46",
            (MAX_FRAME + 1).to_bytes(4, "big"),
        ]
    ),
)


@FUZZ
@given(st.lists(PIECES, max_size=6).map(b"".join), st.integers(1, 20), st.booleans())
def test_any_bytes_of_a_stranger_are_answered_or_hung_up_on(
    target: Target, data: bytes, splits: int, inside: bool
) -> None:
    inside_tls = target.secure and inside
    answer = target.run(target.attack(data, inside_tls=inside_tls, splits=splits))
    if inside_tls == target.secure:
        assert len(codes_of(answer)) <= 1
    target.run(target.still_works())
    assert target.faults == []


@FUZZ
@given(st.lists(PIECES, min_size=1, max_size=6).map(b"".join), st.integers(1, 20))
def test_any_bytes_of_a_proven_peer_are_answered_or_hung_up_on(
    target: Target, data: bytes, splits: int
) -> None:
    async def attack() -> None:
        attackers = Nodes(target.secure)
        attacker = await attackers.node(0, listen=None, identity=STRANGER)
        link = await attacker.service.dial(*target.node.address)
        assert isinstance(link, PeerConnection)
        assert link._transport is not None
        step = max(1, len(data) // splits)
        for begin in range(0, len(data), step):
            link._transport.write(data[begin : begin + step])
            await asyncio.sleep(0)
        await until(lambda: target.node.handler.up)
        theirs = target.node.handler.up[-1]
        assert isinstance(theirs, PeerConnection)
        await asyncio.sleep(0.002)
        assert theirs._decoder.capacity <= MAX_FRAME + HEADER
        link.close(Code.SHUTDOWN)
        await until(lambda: target.node.handler.down)
        await attacker.service.stop()
        assert set(attacker.handler.codes) <= {None, *Code}

    target.run(attack())
    target.run(target.still_works())
    target.node.handler.up.clear()
    target.node.handler.down.clear()
    assert target.faults == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff" * 8, "oversized"),
        (bytes(4), "malformed"),
        (framed(b"{}"), "malformed"),
        (framed(b"nonsense"), "malformed"),
        (frame_of("order", {}), "unexpected"),
        (HELLO + HELLO, "unexpected"),
        (HELLO + frame_of("handshake_ack", HandshakeAck(STRANGER.node_id, b"")), "wrong_identity"),
        ((MAX_HANDSHAKE_FRAME + 1).to_bytes(4, "big"), "oversized"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
    ],
)
def test_errors_of_a_client_are_answered_by_code(target: Target, data: bytes, code: str) -> None:
    if target.secure:

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection(
                *target.node.address, ssl=tls.client_context(STRANGER), server_hostname=""
            )
            writer.write(data)
            answer = b""
            async with asyncio.timeout(5):
                while b"goodbye" not in answer:
                    answer += await reader.read(65536)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return answer

        answer = target.run(ask())
    else:
        answer = target.run(target.attack(data, inside_tls=False))
    assert codes_of(answer) == [code]
