import asyncio
import logging
import random

import pytest
from discovery_conformance import StrategyConformance

from p2p.discovery.bootstrap import REFRESH_MIN, RESOLVE_INTERVAL, BootstrapStrategy, resolve


class TestBootstrapConformance(StrategyConformance):
    settle = 0.05

    def make(self):
        return BootstrapStrategy([("192.0.2.1", 3000), ("localhost", 3001)])


class Resolver:
    def __init__(self, **names):
        self.names = names
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append((host, asyncio.get_running_loop().time()))
        answer = self.names[host]
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer


def make(resolver, *peers):
    return BootstrapStrategy(peers, resolver=resolver, rng=random.Random(1))


async def test_names_resolve_to_both_families(monkeypatch):
    async def getaddrinfo(host, port, **kwargs):
        return [
            (10, 1, 6, "", ("2001:db8::1", port, 0, 0)),
            (2, 1, 6, "", ("192.0.2.7", port)),
            (2, 1, 6, "", ("192.0.2.7", port)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await resolve("peer.example", 3000) == ["2001:db8::1", "192.0.2.7"]
    assert await resolve("[::ffff:192.0.2.1]".strip("[]"), 3000) == ["192.0.2.1"]


async def test_localhost_goes_to_the_systems_resolver():
    for name in ("localhost", "localhost.", "LOCALHOST."):
        assert set(await resolve(name, 3000)) <= {"127.0.0.1", "::1"}


async def test_without_peers_it_is_off_with_a_warning():
    strategy = make(Resolver())
    await strategy.start(lambda peer: None)
    assert (strategy.state, strategy.detail) == ("off", "no bootstrap peers are configured")
    await strategy.stop()


@pytest.mark.looptime
async def test_addresses_are_there_at_once_whatever_a_name_takes():
    found = []
    strategy = make(Resolver(slow=1e9), ("slow", 3000), ("192.0.2.1", 3001), ("::1", 3002))
    await strategy.start(found.append)
    assert [(p.host, p.port) for p in found] == [("192.0.2.1", 3001), ("::1", 3002)]
    await strategy.stop()


@pytest.mark.looptime
@pytest.mark.parametrize("carrier", ["tcp", "grenache"])
async def test_addresses_and_names_are_found_for_the_carrier_they_are_configured_for(carrier):
    found = []
    resolver = Resolver(**{"peer": ["192.0.2.2"], "192.0.2.1": ["192.0.2.1"]})
    peers = [("192.0.2.1", 3100), ("peer", 3100)]
    strategy = BootstrapStrategy(peers, carrier=carrier, resolver=resolver)
    await strategy.start(found.append)
    await asyncio.sleep(1)
    assert {(p.host, p.carrier) for p in found} == {("192.0.2.1", carrier), ("192.0.2.2", carrier)}
    await strategy.stop()


@pytest.mark.looptime
async def test_every_address_of_a_name_is_found_and_the_name_is_resolved_periodically():
    resolver = Resolver(peer=["192.0.2.1", "2001:db8::1"])
    found = []
    strategy = make(resolver, ("peer", 3000))
    await strategy.start(found.append)
    await asyncio.sleep(1)
    assert [p.host for p in found] == ["192.0.2.1", "2001:db8::1"]
    resolver.names["peer"] = ["192.0.2.99"]
    await asyncio.sleep(RESOLVE_INTERVAL * 1.1)
    assert found[-1].host == "192.0.2.99"
    assert len(resolver.asked) == 2
    assert strategy.found_count == 3
    await strategy.stop()


@pytest.mark.looptime
async def test_a_name_that_does_not_resolve_is_one_warning_and_is_tried_again_soon(caplog):
    resolver = Resolver(peer=OSError(-2, "Name or service not known"), other=["192.0.2.2"])
    found = []
    strategy = make(resolver, ("peer", 3000), ("other", 3000))
    await strategy.start(found.append)
    await asyncio.sleep(1)
    assert strategy.state == "on"
    assert [p.host for p in found] == ["192.0.2.2"]
    assert strategy.detail == (
        "peer:3000 (cannot be resolved: Name or service not known), other:3000"
    )
    await asyncio.sleep(60)
    assert 3 <= sum(host == "peer" for host, _ in resolver.asked) <= 6
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "peer:3000" in caplog.text
    resolver.names["peer"] = ["192.0.2.1"]
    await asyncio.sleep(90)
    assert found[-1].host == "192.0.2.1"
    assert strategy.detail == "peer:3000, other:3000"
    await strategy.stop()


@pytest.mark.looptime
async def test_a_resolver_that_never_answers_is_given_up():
    strategy = make(Resolver(slow=1e9), ("slow", 3000))
    await strategy.start(lambda peer: None)
    await asyncio.sleep(20)
    assert "no answer in time" in strategy.detail
    await strategy.stop()


@pytest.mark.looptime
async def test_refresh_looks_up_again_within_its_rate_limit():
    resolver = Resolver(peer=["192.0.2.1"])
    strategy = make(resolver, ("peer", 3000))
    await strategy.start(lambda peer: None)
    await asyncio.sleep(100)
    for _ in range(100):
        strategy.refresh()
        await asyncio.sleep(1)
    times = [at for _, at in resolver.asked]
    assert times[1] < 115
    assert 5 <= len(times) <= 2 + 100 / REFRESH_MIN
    await strategy.stop()
