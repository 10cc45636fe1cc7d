"""Broadcasts between overlays over TCP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from link_kit import until

from p2p.base.identity import Identity
from p2p.mesh.message_budget import BROADCAST_COST, FAIR_BURST
from p2p.mesh.routed_messages import Received
from p2p.overlay import Overlay, OverlaySettings
from p2p.peers.peer_manager import PeerSettings
from p2p.wire.direct_links import LinkSettings
from p2p.wire.messages import pack

MANY = 3 * int(FAIR_BURST / BROADCAST_COST)  # a third is handled as it arrives


class Note(msgspec.Struct):
    number: int


class Member:
    def __init__(self, number: int, path: Path) -> None:
        settings = OverlaySettings(
            host="127.0.0.1",
            links=LinkSettings("test", False, "test"),
            storage_path=path / f"peers-{number}.json",
            peers=PeerSettings(reconnect_interval=60.0),
            payloads={"note": Note},
            mdns=False,
            exchange=False,
        )
        self.overlay = Overlay(Identity.from_seed(bytes([number]) * 32), settings)
        self.numbers: list[int] = []
        self.accepts = True
        self.overlay.router.handle("note", self._note, origin=lambda origin, payload: True)

    def _note(self, received: Received) -> bool:
        self.numbers.append(msgspec.msgpack.decode(received.payload, type=Note).number)
        return self.accepts

    def publish(self, count: int) -> None:
        for number in range(count):
            self.overlay.broadcast("note", pack(Note(number)))

    @property
    def links(self) -> int:
        return len(self.overlay.peers.links)


async def linked(path: Path) -> tuple[Member, Member]:
    left, right = Member(1, path), Member(2, path)
    for each in (left, right):
        await each.overlay.listen(0)
        await each.overlay.start()
    await left.overlay.peers.connect(*right.overlay.address)
    await until(lambda: left.links and right.links)
    return left, right


def test_a_flood_of_broadcasts_arrives_whole_and_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await linked(tmp_path)
        left.publish(MANY)
        await until(lambda: len(right.numbers) >= MANY)
        assert right.numbers == list(range(MANY))
        assert right.links == 1
        await asyncio.gather(left.overlay.stop(), right.overlay.stop())

    asyncio.run(run())


def test_invalid_broadcasts_that_were_put_off_end_their_link(tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await linked(tmp_path)
        left.publish(MANY // 3 + 50)
        await until(lambda: len(right.numbers) >= MANY // 3 + 50)
        right.accepts = False
        left.publish(MANY)
        await until(lambda: not right.links)
        await asyncio.gather(left.overlay.stop(), right.overlay.stop())

    asyncio.run(run())
