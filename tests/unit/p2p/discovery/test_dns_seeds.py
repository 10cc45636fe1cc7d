from __future__ import annotations

import asyncio
import random

import pytest
from discovery_conformance import StrategyConformance
from dns_kit import DnsServer

from p2p.base.identity import Identity
from p2p.discovery.dns_seeds import (
    MAX_INTERVAL,
    MAX_RECORDS,
    MIN_INTERVAL,
    DnsLookup,
    DnsSeedStrategy,
    SeedPeer,
    ServiceRecord,
    seed_peers,
)

ID = Identity.from_seed(b"1" * 32).node_id
OTHER = Identity.from_seed(b"2" * 32).node_id
SEED = "_exchange-node._tcp.seed.example"


class FixedLookup:
    """Answers from dicts; a value that is an OSError is raised."""

    def __init__(self, services=(), texts=(), addresses=None, *, ttl=300.0):
        self.answers = {"services": list(services), "texts": list(texts)}
        self.hosts = addresses or {}
        self.ttl = ttl
        self.times = []

    async def services(self, name):
        self.times.append(asyncio.get_running_loop().time())
        return self._answer(self.answers["services"])

    async def texts(self, name):
        return self._answer(self.answers["texts"])

    async def addresses(self, name):
        found = self.hosts.get(name, [name] if name[0].isdigit() else [])
        return self._answer(found)

    def _answer(self, value):
        if isinstance(value, OSError):
            raise value
        return value, self.ttl


class TestDnsSeedConformance(StrategyConformance):
    settle = 0.05

    def make(self):
        return DnsSeedStrategy(
            ["seed.example"], FixedLookup(addresses={"seed.example": ["192.0.2.1"]})
        )


# Records


def test_services_come_by_priority_and_then_weight():
    records = [
        ServiceRecord(20, 1, 3000, "late.example"),
        ServiceRecord(10, 1, 3001, "light.example"),
        ServiceRecord(10, 9, 3002, "heavy.example."),
    ]
    assert [peer.host for peer in seed_peers(records, [])] == [
        "heavy.example",
        "light.example",
        "late.example",
    ]


def test_a_text_adds_the_id_to_its_service_and_names_nodes_of_its_own():
    records = [ServiceRecord(0, 0, 3000, "A.example")]
    texts = [f"node={ID}@a.example:3000", f"node={OTHER}@[2001:db8::1]:4000"]
    assert seed_peers(records, texts) == [
        SeedPeer("a.example", 3000, ID),
        SeedPeer("2001:db8::1", 4000, OTHER),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 -all",
        "node=",
        f"node={ID}",
        f"node={ID}@",
        f"node={ID}@host",
        f"node={ID}@host:0",
        f"node={ID[:-1]}@host:3000",
        f"{ID}@host:3000",
        "node=\ufffd@host:3000",
    ],
)
def test_a_text_that_is_none_is_left_out(text):
    assert seed_peers([], [text]) == []


@pytest.mark.parametrize(("port", "target"), [(0, "host.example"), (3000, ".")])
def test_a_service_that_is_not_offered_is_left_out(port, target):
    assert seed_peers([ServiceRecord(0, 0, port, target)], []) == []


def test_records_are_bounded_in_number():
    records = [ServiceRecord(0, 0, 3000, f"h{n}.example") for n in range(1000)]
    texts = [f"node={ID}@t{n}.example:3000" for n in range(1000)]
    assert len(seed_peers(records, texts)) == 2 * MAX_RECORDS


# Strategy


async def found_by(strategy, seconds=1.0):
    peers = []
    await strategy.start(peers.append)
    await asyncio.sleep(seconds)
    return peers


@pytest.mark.looptime
async def test_every_address_of_every_host_is_found_with_its_id():
    lookup = FixedLookup(
        [ServiceRecord(0, 0, 3001, "a.example")],
        [f"node={ID}@a.example:3001", f"node={OTHER}@198.51.100.7:3002"],
        {"a.example": ["2001:db8::1", "192.0.2.1"]},
    )
    strategy = DnsSeedStrategy(["seed.example"], lookup)
    peers = await found_by(strategy)
    assert [(p.host, p.port, p.node_id, p.source) for p in peers] == [
        ("2001:db8::1", 3001, ID, "dns"),
        ("192.0.2.1", 3001, ID, "dns"),
        ("198.51.100.7", 3002, OTHER, "dns"),
    ]
    assert strategy.detail == "seed.example (3 addresses)"
    await strategy.stop()


@pytest.mark.looptime
async def test_a_name_without_records_is_a_host_at_the_default_port():
    lookup = FixedLookup(addresses={"seed.example": ["192.0.2.1"]})
    strategy = DnsSeedStrategy(["seed.example"], lookup)
    assert [(p.host, p.port, p.node_id) for p in await found_by(strategy)] == [
        ("192.0.2.1", 3000, None)
    ]
    await strategy.stop()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("ttl", "least", "most"),
    [
        (1.0, MIN_INTERVAL, 1.1 * MIN_INTERVAL),
        (300.0, 300.0, 330.0),
        (1e9, MAX_INTERVAL, 1.1 * MAX_INTERVAL),
    ],
)
async def test_lookups_are_repeated_when_records_expire_within_bounds(ttl, least, most):
    lookup = FixedLookup(addresses={"seed.example": ["192.0.2.1"]}, ttl=ttl)
    strategy = DnsSeedStrategy(["seed.example"], lookup, rng=random.Random(1))
    await found_by(strategy, 2 * MAX_INTERVAL)
    first, second, *_ = lookup.times
    assert least <= second - first <= most
    await strategy.stop()


@pytest.mark.looptime
async def test_failures_are_reported_and_retried_sooner():
    lookup = FixedLookup(addresses={"seed.example": ["192.0.2.1"]})
    lookup.answers["services"] = OSError("no DNS server answers this name")
    strategy = DnsSeedStrategy(["seed.example"], lookup, rng=random.Random(1))
    assert await found_by(strategy) == []
    assert "cannot be looked up: no DNS server answers this name" in strategy.detail
    lookup.answers["services"] = []
    await asyncio.sleep(120)
    assert strategy.detail == "seed.example (1 addresses)"
    await strategy.stop()


@pytest.mark.looptime
async def test_one_host_that_cannot_be_looked_up_does_not_hide_the_others():
    lookup = FixedLookup(
        [ServiceRecord(0, 0, 3000, "bad.example"), ServiceRecord(1, 0, 3000, "good.example")],
        addresses={"bad.example": OSError("no answer"), "good.example": ["192.0.2.1"]},
    )
    strategy = DnsSeedStrategy(["seed.example"], lookup)
    assert [p.host for p in await found_by(strategy)] == ["192.0.2.1"]
    await strategy.stop()


# A real server


async def test_a_server_is_asked_for_services_texts_and_both_kinds_of_address():
    server = DnsServer(
        {
            (SEED, "SRV"): ["0 5 3001 a.example."],
            (SEED, "TXT"): [f'"node={ID}@a.example:3001"', '"something else"'],
            ("a.example", "A"): ["192.0.2.1"],
            ("a.example", "AAAA"): ["2001:db8::1"],
        }
    )
    strategy = DnsSeedStrategy(["seed.example"], DnsLookup([await server.start()]))
    peers = []
    try:
        await strategy.start(peers.append)
        async with asyncio.timeout(5):
            while len(peers) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await strategy.stop()
        server.close()
    assert [(p.host, p.port, p.node_id) for p in peers] == [
        ("2001:db8::1", 3001, ID),
        ("192.0.2.1", 3001, ID),
    ]


async def test_a_name_that_does_not_exist_names_no_node():
    server = DnsServer({("other.example", "A"): ["192.0.2.1"]})
    lookup = DnsLookup([await server.start()])
    try:
        assert await lookup.services("missing.example") == ([], MAX_INTERVAL)
        assert await lookup.addresses("missing.example") == ([], MAX_INTERVAL)
    finally:
        server.close()


async def test_a_silent_server_is_an_error():
    server = DnsServer({})
    server.silent = True
    lookup = DnsLookup([await server.start()])
    lookup._resolver.lifetime = 0.2
    try:
        with pytest.raises(OSError, match="no DNS server answered"):
            await lookup.services("seed.example")
    finally:
        server.close()
