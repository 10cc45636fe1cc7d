"""Discovery through a Grape, against a Grape in memory; waits are in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence

import pytest
from discovery_conformance import StrategyConformance

from p2p.addresses.address import PeerFound
from p2p.base.reach import Reach
from p2p.discovery.grape_discovery import ALONE_ROUND, RETRY_MAX, SPREAD, GrapeStrategy, UsedGrapes
from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import GrapeUnreachable

TCP, RPC = "exchange-node:test:tcp", "exchange-node:test"


class MemoryGrape:
    """A Grape that records when it was asked, and can be silenced."""

    def __init__(self) -> None:
        self.workers: dict[str, list[Address]] = {}
        self.announced: list[tuple[float, str, int]] = []
        self.lookups: list[float] = []
        self.withdrawn: list[tuple[str, int]] = []
        self.silent = False

    def _hear(self) -> float:
        if self.silent:
            raise GrapeUnreachable("connection refused")
        return asyncio.get_running_loop().time()

    async def announce(self, service: str, port: int) -> int:
        self.announced.append((self._hear(), service, port))
        return 7

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        assert fresh
        self.lookups.append(self._hear())
        return self.workers.get(service, [])

    async def withdraw(self, service: str, port: int) -> int:
        self._hear()
        self.withdrawn.append((service, port))
        return 7

    async def put(self, value: bytes) -> str:
        raise NotImplementedError

    async def put_mutable(self, item: MutableItem) -> str:
        raise NotImplementedError

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        raise NotImplementedError


class Surroundings:
    """A strategy with what it needs."""

    def __init__(self, *, interval: float = 30.0, asked_for: bool = True) -> None:
        self.grape = MemoryGrape()
        self.found: list[PeerFound] = []
        self.offered: list[float] = []
        self.without_peers = False
        self.strategy = GrapeStrategy(
            UsedGrapes(lambda: self.grape, interval, "http://grape.test:30001", asked_for),
            services={TCP: "tcp", RPC: "grenache"},
            offers=self.offers,
            alone=lambda: self.without_peers,
            rng=random.Random(1),
            own_addresses=lambda: ["192.0.2.9"],
        )

    async def offers(self) -> Sequence[tuple[str, int]]:
        self.offered.append(asyncio.get_running_loop().time())
        return [(TCP, 3000), (RPC, 3100)]

    def rounds(self) -> list[float]:
        return self.grape.lookups[::2]  # two services a round


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="p2p.discovery.grape_discovery"):
        yield caplog


class TestGrapeConformance(StrategyConformance):
    settle = 1.0

    def make(self) -> GrapeStrategy:
        grape = MemoryGrape()
        grape.workers[TCP] = [("192.0.2.1", 3000)]

        async def offers() -> list[tuple[str, int]]:
            return [(TCP, 3000)]

        return GrapeStrategy(UsedGrapes(lambda: grape), services={TCP: "tcp"}, offers=offers)


@pytest.mark.looptime
async def test_addresses_found_are_reported_with_their_carrier() -> None:
    here = Surroundings()
    here.grape.workers = {TCP: [("192.0.2.1", 3000)], RPC: [("192.0.2.1", 3100)]}
    await here.strategy.start(here.found.append)
    await asyncio.sleep(0.1)
    await here.strategy.stop()
    assert here.found == [
        PeerFound("192.0.2.1", 3000, None, "grape", carrier="tcp", by=Reach.LOOPBACK),
        PeerFound("192.0.2.1", 3100, None, "grape", carrier="grenache", by=Reach.LOOPBACK),
    ]
    assert [(service, port) for _, service, port in here.grape.announced] == [
        (TCP, 3000),
        (RPC, 3100),
    ]
    assert here.strategy.answering


@pytest.mark.looptime
async def test_rounds_are_close_at_first_and_then_an_interval_apart() -> None:
    here = Surroundings(interval=30.0)
    await here.strategy.start(here.found.append)
    await asyncio.sleep(300)
    await here.strategy.stop()
    gaps = [b - a for a, b in zip(here.rounds(), here.rounds()[1:], strict=False)]
    expected = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    for gap, plan in zip(gaps, expected, strict=False):
        assert plan * (1 - SPREAD) <= gap <= plan * (1 + SPREAD)


@pytest.mark.looptime
async def test_a_node_without_peers_keeps_looking_often() -> None:
    here = Surroundings(interval=30.0)
    here.without_peers = True
    await here.strategy.start(here.found.append)
    await asyncio.sleep(120)
    await here.strategy.stop()
    gaps = [b - a for a, b in zip(here.rounds(), here.rounds()[1:], strict=False)]
    assert max(gaps) <= ALONE_ROUND * (1 + SPREAD)


@pytest.mark.looptime
async def test_a_lost_peer_brings_the_next_round_forward_but_not_without_end() -> None:
    here = Surroundings(interval=30.0)
    await here.strategy.start(here.found.append)
    await asyncio.sleep(100)
    before = len(here.rounds())
    for _ in range(100):
        here.strategy.refresh()
        await asyncio.sleep(0.01)
    assert 1 <= len(here.rounds()) - before <= 3
    await here.strategy.stop()


@pytest.mark.looptime
async def test_a_silent_grape_is_one_line_and_so_is_its_return(
    logged: pytest.LogCaptureFixture,
) -> None:
    here = Surroundings()
    here.grape.silent = True
    await here.strategy.start(here.found.append)
    await asyncio.sleep(200)
    assert here.strategy.state == "on"
    assert "no answer from http://grape.test:30001" in here.strategy.detail
    assert here.offered == []
    here.grape.silent = False
    await asyncio.sleep(RETRY_MAX * (1 + SPREAD) + 0.1)
    assert here.strategy.detail == "http://grape.test:30001: announced at 7 DHT nodes"
    here.grape.silent = True
    await asyncio.sleep(100)
    await here.strategy.stop()
    levels = [(record.levelname, "no Grape answers" in record.message) for record in logged.records]
    assert levels == [("WARNING", True), ("WARNING", False), ("WARNING", True)]


@pytest.mark.looptime
async def test_a_grape_that_is_not_configured_causes_no_warning(
    logged: pytest.LogCaptureFixture,
) -> None:
    here = Surroundings(asked_for=False)
    here.grape.silent = True
    await here.strategy.start(here.found.append)
    await asyncio.sleep(10)
    await here.strategy.stop()
    assert [record.levelname for record in logged.records] == ["INFO"]


@pytest.mark.looptime
async def test_own_announcements_are_not_found_and_are_withdrawn_at_the_end() -> None:
    here = Surroundings()
    here.grape.workers = {TCP: [("192.0.2.9", 3000), ("192.0.2.9", 3001), ("192.0.2.8", 3000)]}
    await here.strategy.start(here.found.append)
    await asyncio.sleep(0.1)
    here.found.clear()  # before the first announcement nothing was ours
    await asyncio.sleep(1.0)
    found = {(peer.host, peer.port) for peer in here.found}
    assert found == {("192.0.2.9", 3001), ("192.0.2.8", 3000)}
    await here.strategy.stop()
    assert here.grape.withdrawn == [(TCP, 3000), (RPC, 3100)]


@pytest.mark.looptime
async def test_a_grape_that_hangs_does_not_hold_up_the_end() -> None:
    here = Surroundings()

    async def hang(service: str, port: int) -> int:
        await asyncio.sleep(3600)
        return 0

    here.grape.withdraw = hang  # type: ignore[method-assign]
    await here.strategy.start(here.found.append)
    await asyncio.sleep(0.1)
    before = asyncio.get_running_loop().time()
    await here.strategy.stop()
    assert asyncio.get_running_loop().time() - before <= 1.1
