"""Probes over real sockets: what they prove, and that they share the listener's port without weakening it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from p2p.base.errors import Code, ConnectFailed
from p2p.base.identity import Identity
from p2p.peers.peer_manager import PeerManager
from p2p.wire import punch_confirmation
from p2p.wire.connection import StreamOrigin
from p2p.wire.direct_links import DirectConnectionService, ExpectedPunch, LinkSettings
from p2p.wire.messages import Codec
from p2p.wire.probe import ProbeTarget, open_connection
from p2p.wire.punch_confirmation import MAGIC

HOST = "127.0.0.1"
both = pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])


@asynccontextmanager
async def node(*, secure: bool, port: int = 0) -> AsyncIterator[DirectConnectionService]:
    identity = Identity.generate()
    peers = PeerManager(identity.node_id)
    service = DirectConnectionService(
        identity, peers, Codec(), LinkSettings("test", secure, "test")
    )
    service.node_id = identity.node_id  # type: ignore[attr-defined]
    service.where = await service.start(HOST, port)  # type: ignore[attr-defined]
    try:
        yield service
    finally:
        await service.stop()


@both
async def test_a_probe_brings_its_nonce_and_shows_the_senders_address(secure: bool) -> None:
    async with node(secure=secure) as a, node(secure=secure) as b:
        nonces: list[tuple[bytes, str]] = []
        b.follow(
            SimpleNamespace(
                probed=lambda nonce, address: nonces.append((nonce, address)),
                announced_port=lambda address, port: port,
            )
        )
        host, port = await a.probe(*b.where, b.node_id, b"n" * 16)  # type: ignore[attr-defined]
        assert host == HOST
        assert port != a.where[1]  # type: ignore[attr-defined]
        assert nonces == [(b"n" * 16, HOST)]


@both
async def test_probes_from_the_listening_port_show_it_again_and_again(secure: bool) -> None:
    async with node(secure=secure) as a, node(secure=secure) as b:
        for _ in range(3):
            seen = await a.probe(*b.where, b.node_id, from_listener=True)  # type: ignore[attr-defined]
            assert seen == a.where  # type: ignore[attr-defined]


async def test_another_node_at_the_address_is_noticed() -> None:
    async with node(secure=True) as a, node(secure=True) as b:
        with pytest.raises(ConnectFailed, match="another node"):
            await a.probe(*b.where, a.node_id)  # type: ignore[attr-defined]


async def test_a_second_node_on_the_port_is_still_refused() -> None:
    async with node(secure=False) as a:
        with pytest.raises(OSError, match="in use"):
            async with node(secure=False, port=a.where[1]):  # type: ignore[attr-defined]
                pass


async def test_probes_of_other_servers_fail() -> None:
    async with node(secure=False) as a:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0)
        where = server.sockets[0].getsockname()
        with pytest.raises(ConnectFailed):
            await a.probe(where[0], where[1], "x" * 32)
        server.close()


@pytest.mark.parametrize("answer", [b"\x00\x00\x00\x02{}", b"\xff\xff\xff\xff", b"GET / "])
async def test_answers_are_read_within_bounds(answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read(10_000)
        writer.close()

    async with node(secure=False) as a:
        server = await asyncio.start_server(reply, HOST, 0, family=socket.AF_INET)
        where = server.sockets[0].getsockname()
        with pytest.raises(ConnectFailed):
            await a.probe(where[0], where[1], "x" * 32)
        server.close()


def expect(
    a: DirectConnectionService, b: DirectConnectionService, nonce_of_b: bytes = b"n" * 16
) -> None:
    """Both know of a punch, in which `a` dials."""
    for own, other, dialler, nonce in ((a, b, True, b"n" * 16), (b, a, False, nonce_of_b)):
        own.expect_punch(*other.where, ExpectedPunch(other.node_id, dialler, nonce))  # type: ignore[attr-defined]


@both
async def test_another_nonce_is_another_punch(secure: bool) -> None:
    async with node(secure=secure) as a, node(secure=secure) as b:
        expect(a, b, b"m" * 16)
        with pytest.raises(ConnectFailed):
            await asyncio.wait_for(a.punch(*b.where), 5)  # type: ignore[attr-defined]
        assert not a._connections
        assert not b._connections


@both
async def test_an_ordinary_connection_from_there_is_accepted_as_any_other(secure: bool) -> None:
    """Whatever role the punch would give to the accepting side."""
    async with node(secure=secure) as a, node(secure=secure) as b:
        for dialler in (True, False):
            dialled = await open_connection(ProbeTarget(*b.where, "", (HOST, 0)))  # type: ignore[attr-defined]
            expected = ExpectedPunch(a.node_id, dialler, b"n" * 16)  # type: ignore[attr-defined]
            b.expect_punch(*dialled.getsockname(), expected)
            origin = StreamOrigin(b.where)  # type: ignore[attr-defined]
            link = await a._handshake(dialled, "there", b.node_id, origin)  # type: ignore[attr-defined]
            assert link.peer.outbound
            (other,) = b._connections
            assert not other.peer.outbound
            assert not other.peer.punched
            link.close(Code.SHUTDOWN)
            await other.wait_closed()
            await asyncio.sleep(0.05)


@both
async def test_silent_or_stopping_connections_from_there_are_closed(
    secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_confirmation, "TIMEOUT", 0.2)
    async with node(secure=secure) as a, node(secure=secure) as b:
        for begin in (b"", MAGIC[:3], MAGIC + b"x" * 10, MAGIC + b"x" * 32):
            sock = await open_connection(ProbeTarget(*b.where, "", (HOST, 0)))  # type: ignore[attr-defined]
            b.expect_punch(*sock.getsockname(), ExpectedPunch(a.node_id, True, b"n" * 16))  # type: ignore[attr-defined]
            sock.setblocking(True)
            sock.sendall(begin)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(5)
            await asyncio.to_thread(_read_to_the_end, sock)
            sock.close()
        assert not b._connections


def _read_to_the_end(sock: socket.socket) -> None:
    try:
        while sock.recv(1000):
            pass
    except ConnectionResetError:
        pass


@both
@pytest.mark.parametrize("late", [True, False], ids=["dialler late", "dialler first"])
async def test_the_roles_of_a_punch_hold_whichever_side_connects_first(
    secure: bool, late: bool
) -> None:
    """Without a NAT the first connection reaches the other side's listener."""
    async with node(secure=secure) as a, node(secure=secure) as b:
        expect(a, b)
        first, second = (b, a) if late else (a, b)
        await asyncio.wait_for(first.punch(*second.where), 3)  # type: ignore[attr-defined]
        (link_a,) = a._connections
        (link_b,) = b._connections
        assert link_a.peer.outbound
        assert not link_b.peer.outbound
        assert link_a.peer.punched
        assert link_b.peer.punched
