"""Links through real workers and clients on loopback, and whole overlays on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from link_kit import Node, nodes, number, run, until

from p2p.base.errors import Code, ConnectFailed, DeliveryError, HandshakeRefused
from p2p.base.identity import Identity
from p2p.base.limits import MAX_FRAME
from p2p.discovery.grape_discovery import UsedGrapes
from p2p.grenache.directory import Address
from p2p.grenache.errors import GrapeUnreachable
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_worker import Worker
from p2p.grenache_links.grenache_transport import GrenacheSettings, GrenacheTransport
from p2p.grenache_links.tunnel_carrier import TunnelCarrier
from p2p.mesh.routed_messages import Received
from p2p.overlay import Overlay, OverlaySettings
from p2p.peers.peer_manager import PeerSettings
from p2p.wire.connection import PeerConnection
from p2p.wire.direct_links import LinkSettings
from p2p.wire.messages import pack

SERVICE = "exchange-node:test"
Transport = Literal["http", "ws"]


class Directory:
    """A Grape in memory. `up`: whether it answers."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Address]] = {}
        self.up = True
        self.lookups = 0

    def _check(self) -> None:
        if not self.up:
            raise GrapeUnreachable("no Grape here")

    async def announce(self, service: str, port: int) -> int:
        self._check()
        entries = self.entries.setdefault(service, [])
        if ("127.0.0.1", port) not in entries:
            entries.append(("127.0.0.1", port))
        return 1

    async def withdraw(self, service: str, port: int) -> int:
        return 0

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        self._check()
        self.lookups += 1
        return list(self.entries.get(service, []))

    async def put(self, value: bytes) -> str:
        raise NotImplementedError

    async def put_mutable(self, item: Any) -> str:
        raise NotImplementedError

    async def get(self, key: str, *, salt: bytes = b"") -> Any:
        raise NotImplementedError


# Links


class Over:
    """Two nodes; `left` can dial `right`, whose worker listens at `address`."""

    def __init__(self, left: Node, right: Node, transport: Transport) -> None:
        self.left, self.right = left, right
        self.clients = [Client(Directory(), transport=transport) for _ in range(2)]
        self.left_carrier, self.right_carrier = (
            TunnelCarrier(node.service, client, SERVICE)
            for node, client in zip((left, right), self.clients, strict=True)
        )
        self.worker = Worker()
        self.address: Address = ("127.0.0.1", 0)

    async def start(self) -> None:
        self.worker = Worker()
        self.worker.serve(SERVICE, self.right_carrier.answer)
        self.address = await self.worker.start(*self.address)

    async def dial(self, expect: str | None = None) -> tuple[PeerConnection, PeerConnection]:
        link = await self.left_carrier.dial(*self.address, expect)
        await until(lambda: self.right.handler.up)
        other = self.right.handler.up[0]
        assert isinstance(link, PeerConnection)
        assert isinstance(other, PeerConnection)
        return link, other

    async def stop(self) -> None:
        await asyncio.gather(self.left.service.stop(), self.right.service.stop())
        await asyncio.gather(self.left_carrier.stop(), self.right_carrier.stop())
        await asyncio.gather(*(client.close() for client in self.clients))
        await self.worker.stop(0.1)


@contextlib.asynccontextmanager
async def over(transport: Transport, *, secure: bool = True) -> AsyncIterator[Over]:
    async with nodes(secure=secure) as made:
        one, two = await made.node(1, listen=None), await made.node(2, listen=None)
        both = Over(one, two, transport)
        await both.start()
        try:
            yield both
        finally:
            await both.stop()


def every_transport(test: Callable[[Over], Any]) -> Callable[[Transport, bool, bool], None]:
    def body(transport: Transport, secure: bool, fast: bool) -> None:
        async def inside() -> None:
            async with over(transport, secure=secure) as both:
                await test(both)

        run(inside(), fast=fast)

    body.__name__, body.__doc__ = test.__name__, test.__doc__
    ways = pytest.mark.parametrize(
        ("transport", "secure", "fast"),
        [("ws", True, True), ("ws", False, False), ("http", True, False), ("http", False, True)],
        ids=["ws-tls-uvloop", "ws-plain-asyncio", "http-tls-asyncio", "http-plain-uvloop"],
    )
    return ways(body)


@every_transport
async def test_messages_of_every_size_go_both_ways(both: Over) -> None:
    near, far = await both.dial(expect=both.right.node_id)
    assert (near.peer.address, far.peer.address) == ("127.0.0.1", "127.0.0.1")
    for n, size in enumerate([0, 1000, MAX_FRAME - 1000, 5]):
        near.send(both.left.envelope(n, size=size))
        far.send(both.right.envelope(n, size=size))
    for node in (both.left, both.right):
        await until(lambda node=node: len(node.handler.messages) == 4)
        assert [number(each) for each in node.handler.messages] == [0, 1, 2, 3]


@every_transport
async def test_another_node_than_expected_is_refused(both: Over) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        await both.dial(expect="a" * 32)
    assert caught.value.code is Code.WRONG_IDENTITY


@every_transport
async def test_a_worker_that_restarts_on_its_port_keeps_its_links(both: Over) -> None:
    near, far = await both.dial()
    await both.worker.stop(0)
    near.send(both.left.envelope(1))
    far.send(both.right.envelope(2))
    await both.start()
    await until(lambda: both.left.handler.messages and both.right.handler.messages)
    assert both.left.handler.down == both.right.handler.down == []


@every_transport
async def test_goodbyes_of_the_answering_node_are_read(both: Over) -> None:
    await both.dial()
    await both.right.service.stop()
    await both.right_carrier.stop()
    await both.worker.stop(0.1)
    await until(lambda: both.left.handler.down)
    assert both.left.handler.codes == [Code.SHUTDOWN]


@every_transport
async def test_a_closed_port_is_reported_at_once(both: Over) -> None:
    await both.worker.stop(0)
    async with asyncio.timeout(2):
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{both.address[1]} over Grenache"):
            await both.dial()


# Overlays


class Note(msgspec.Struct):
    text: str


class Member:
    def __init__(
        self, number: int, path: Path, grape: Directory | None, mode: str, **options: Any
    ) -> None:
        identity = Identity.from_seed(bytes([number]) * 32)
        way = None
        if grape is not None:
            way = GrenacheTransport(
                GrenacheSettings("test", UsedGrapes(lambda: grape, interval=1.0), host="127.0.0.1")
            )
        settings = OverlaySettings(
            host="127.0.0.1",
            links=LinkSettings("test", True, "test"),
            storage_path=path / f"peers-{number}.json",
            peers=PeerSettings(reconnect_interval=1.0),
            direct=mode != "grenache",
            payloads={"note": Note},
            **{"mdns": False, "exchange": False, **options},
        )
        self.id = identity.node_id
        self.mode = mode
        self.lost: list[str | None] = []
        self.heard: list[Received] = []
        self.overlay = Overlay(
            identity,
            settings,
            grenache=way,
        )
        self.overlay.peers.on_peer_down(lambda peer: self.lost.append(peer.node_id))
        self.overlay.router.handle("note", self._note, origin=lambda origin, payload: True)

    def _note(self, received: Received) -> bool:
        self.heard.append(received)
        return True

    async def start(self) -> None:
        if self.mode != "grenache":
            await self.overlay.listen(0)
        await self.overlay.start()

    def carriers(self) -> set[str]:
        return {link.peer.carrier for link in self.overlay.peers.links.values()}


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Callable[..., Member]]:
    made: list[Member] = []

    def make(number: int, grape: Directory | None, mode: str = "hybrid", **options: Any) -> Member:
        made.append(Member(number, tmp_path, grape, mode, **options))
        return made[-1]

    yield make
    await asyncio.gather(*(each.overlay.stop() for each in made))


async def double(caller: str, body: object) -> int:
    assert isinstance(body, int)
    return 2 * body


def linked(*members: Member) -> bool:
    """Each with every other, and what was dialled twice is settled: no message is lost with a link."""
    others = len(members) - 1
    return all(
        len(each.overlay.peers.links) == others == len(each.overlay.links._connections)
        and not each.overlay.peers._dials.busy
        for each in members
    )


async def test_with_grenache_alone_everything_reaches_all_nodes(member: Any) -> None:
    grape = Directory()
    members = [member(n, grape, "grenache") for n in (1, 2, 3)]
    for each in members:
        await each.start()
    await until(lambda: linked(*members), 10)
    a, b, c = members
    assert a.carriers() == b.carriers() == c.carriers() == {"grenache"}
    assert a.overlay.address[1] == 0
    a.overlay.broadcast("note", pack("to all"))
    a.overlay.send(b.id, "note", pack("to one"))
    await until(lambda: len(b.heard) == 2 and len(c.heard) == 1)
    assert {r.payload for r in b.heard} == {pack("to all"), pack("to one")}
    assert a.overlay.router.counters["sent_grenache"] == 1
    b.overlay.rpc.serve("double", double)
    assert await a.overlay.rpc.call(b.id, "double", 21, timeout=2.0, result_type=int) == 42


async def test_beside_direct_links_grenache_is_not_used(member: Any) -> None:
    grape = Directory()
    members = [member(n, grape) for n in (1, 2, 3)]
    for each in members:
        await each.start()
    await until(lambda: linked(*members), 10)
    assert all(each.carriers() == {"tcp"} for each in members)
    assert sorted(grape.entries) == ["exchange-node-tcp:test", "exchange-node:test"]


async def test_a_node_without_direct_links_joins_those_that_have_them(member: Any) -> None:
    grape = Directory()
    a, b, c = member(1, grape), member(2, grape), member(3, grape, "grenache")
    await a.start()
    await b.start()
    await until(lambda: linked(a, b))
    await c.start()  # it dials the others: it has nothing better to wait for
    await until(lambda: linked(a, b, c))
    assert c.carriers() == {"grenache"}
    assert a.overlay.peers.links[b.id].peer.carrier == "tcp"
    assert a.overlay.peers.links[c.id].peer.carrier == "grenache"
    c.overlay.broadcast("note", pack("hello"))
    await until(lambda: a.heard and b.heard)


async def test_a_grape_that_dies_and_returns_ends_no_link_and_brings_new_nodes(member: Any) -> None:
    grape = Directory()
    a, b, c = (member(n, grape, "grenache") for n in (1, 2, 3))
    await a.start()
    await b.start()
    await until(lambda: linked(a, b), 10)
    grape.up = False
    grape.entries.clear()
    await c.start()
    a.overlay.send(b.id, "note", pack("still here"))
    await until(lambda: b.heard)
    with pytest.raises(DeliveryError) as caught:
        c.overlay.send(a.id, "note", pack("anybody?"))
    assert dict(caught.value.tried)["grenache"] == "no Grape answers"
    assert c.overlay.grenache is not None
    assert c.overlay.grenache.address is None  # nothing listens before it can be told to anyone
    grape.up = True
    await until(lambda: linked(a, b, c), 15)
    assert a.lost == b.lost == []


def dead() -> Directory:
    grape = Directory()
    grape.up = False
    return grape


async def taking_requests(each: Member) -> Address:
    """Start a node in Grenache-only mode; where it takes requests, from now on and without a Grape."""
    await each.start()
    assert each.overlay.grenache is not None
    return await each.overlay.grenache.listen()


async def test_with_grenache_alone_bootstrap_addresses_need_no_grape(member: Any) -> None:
    a = member(1, dead(), "grenache")
    address = await taking_requests(a)
    # With mDNS asked for: it has nothing to say here, and opens no socket.
    b = member(2, dead(), "grenache", bootstrap=[address], mdns=True)
    await b.start()
    await until(lambda: linked(a, b), 10)
    assert b.carriers() == {"grenache"}
    assert b.overlay.peers.get_peer(a.id).source == "bootstrap"
    assert [s.name for s in b.overlay.discovery.strategies] == ["persisted", "bootstrap", "grape"]


async def test_with_grenache_alone_peers_are_remembered_over_a_restart_without_a_grape(
    member: Any,
) -> None:
    grape = Directory()
    a, b = member(1, grape, "grenache"), member(2, dead(), "grenache")
    grape.entries[SERVICE] = [await taking_requests(b)]
    await a.start()
    await until(lambda: linked(a, b), 10)
    await a.overlay.stop()
    await until(lambda: not b.overlay.peers.links)
    again = member(1, dead(), "grenache")
    await again.start()
    await until(lambda: linked(again, b), 10)
    assert again.carriers() == {"grenache"}
    assert again.overlay.peers.links[b.id].peer.outbound


async def test_with_grenache_alone_peers_exchange_addresses_that_no_grape_has(
    member: Any,
) -> None:
    b = member(2, dead(), "grenache", exchange=True)
    a = member(1, dead(), "grenache", exchange=True, bootstrap=[await taking_requests(b)])
    grape = Directory()
    grape.entries[SERVICE] = [await taking_requests(a)]
    await until(lambda: linked(a, b), 10)
    c = member(3, grape, "grenache", exchange=True)
    await c.start()
    await until(lambda: linked(a, b, c), 15)
    assert c.overlay.peers.get_peer(b.id).source == "exchange"
    assert c.overlay.peers.links[b.id].peer.outbound


async def test_errors_name_the_reason_that_grenache_cannot_deliver(member: Any) -> None:
    grape = Directory()
    a, none = member(1, grape, "grenache"), member(2, None)
    await a.start()
    await none.start()
    await until(lambda: a.overlay.grenache.address is not None)
    for each, text in ((a, "not found through Grenache"), (none, "no Grape is used")):
        with pytest.raises(DeliveryError) as caught:
            each.overlay.send("b" * 32, "note", pack(1))
        assert dict(caught.value.tried)["grenache"] == text


async def test_a_node_that_stops_is_missed_at_once_and_leaves_no_tunnel(member: Any) -> None:
    grape = Directory()
    a, b = (member(n, grape, "grenache") for n in (1, 2))
    await a.start()
    await b.start()
    await until(lambda: linked(a, b), 10)
    await b.overlay.stop()
    await until(lambda: not a.overlay.peers.links)
    assert a.lost == [b.id]
    peer = a.overlay.peers.get_peer(b.id)
    assert peer is None or "the node is stopping" in (peer.last_error or "")
    await until(lambda: a.overlay.grenache.tunnels == 0)


async def test_a_port_that_is_taken_gives_way_to_the_next(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with nodes(secure=False) as made:
        node = await made.node(1, listen=None)
        way = GrenacheTransport(
            GrenacheSettings("test", UsedGrapes(Directory), host="127.0.0.1", ports=[port, 0])
        )
        way.start(node.service)
        address, again = await asyncio.gather(way.listen(), way.listen())
        assert address[1] != port
        assert again == address == way.address
        await way.stop()
        await way.stop()
        way = GrenacheTransport(
            GrenacheSettings("test", UsedGrapes(Directory), host="127.0.0.1", ports=[port])
        )
        way.start(node.service)
        with pytest.raises(OSError):
            await way.listen()
        await way.stop()
    taken.close()
    await taken.wait_closed()
