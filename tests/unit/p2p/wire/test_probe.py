"""Probes over real sockets: what they prove, and that they share the listener's port without weakening it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2p.base.errors import ConnectFailed
from p2p.base.identity import Identity
from p2p.peers.peer_manager import PeerManager
from p2p.wire.direct_links import DirectConnectionService
from p2p.wire.messages import Codec

HOST = "127.0.0.1"
both = pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])


@asynccontextmanager
async def node(*, secure: bool, port: int = 0) -> AsyncIterator[DirectConnectionService]:
    identity = Identity.generate()
    peers = PeerManager(identity.node_id, clock=asyncio.get_running_loop().time)
    service = DirectConnectionService(
        identity,
        network="test",
        codec=Codec(),
        handler=peers,
        secure=secure,
        agent="test",
        supported_protocols=(),
        admit=peers.admit,
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
        b.on_probe = lambda nonce, address: nonces.append((nonce, address))
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


async def test_what_is_no_node_does_not_answer_a_probe() -> None:
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


@both
@pytest.mark.parametrize("late", [True, False], ids=["dialler late", "dialler first"])
async def test_the_roles_of_a_punch_hold_whichever_side_connects_first(
    secure: bool, late: bool
) -> None:
    """Without a NAT the first connection reaches the other side's listener."""
    async with node(secure=secure) as a, node(secure=secure) as b:
        first, second = (b, a) if late else (a, b)
        dialling = asyncio.create_task(first.punch(*second.where, second.node_id, dialler=not late))  # type: ignore[attr-defined]
        if late:
            # The dialling side knows of the punch before its own connection is under way.
            a._punches[b.where] = (b.node_id, True)  # type: ignore[attr-defined]
        else:
            b._punches[a.where] = (a.node_id, False)  # type: ignore[attr-defined]
        await asyncio.wait_for(dialling, 3)
        (link_a,) = a._connections
        (link_b,) = b._connections
        assert link_a.peer.outbound
        assert not link_b.peer.outbound
        assert link_a.peer.punched
        assert link_b.peer.punched
