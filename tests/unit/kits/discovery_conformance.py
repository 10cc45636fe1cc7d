"""Conformance kit for discovery strategies. Subclass `StrategyConformance`, give it `make`, and name
the class so that pytest collects it.

`make()` returns a strategy, not started, in surroundings where it finds at least one address once
`trigger()` has been called after its start; `settle` seconds are enough for that. A strategy whose
start can fail passes `StartFailureConformance` too: its `break_it()` makes the next start fail.
"""

import asyncio

import pytest

from p2p.addresses.address import SOURCE_PRIORITY
from p2p.base.host_port import is_ip
from p2p.discovery.strategy import DiscoveryStrategy


class StrategyConformance:
    settle = 0.5

    def make(self) -> DiscoveryStrategy:
        raise NotImplementedError

    async def trigger(self, strategy):
        """Make the surroundings show something to find."""

    async def until_found(self, strategy, peers):
        await self.trigger(strategy)
        async with asyncio.timeout(10):
            while not peers:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def test_the_strategy_is_off_before_the_start(self):
        strategy = self.make()
        assert strategy.state == "off"
        assert strategy.detail
        assert strategy.found_count == 0

    async def test_the_strategy_has_a_place_in_the_order_of_priority(self):
        assert self.make().name in SOURCE_PRIORITY

    async def test_addresses_found_carry_the_name_of_the_strategy(self):
        strategy, peers = self.make(), []
        await strategy.start(peers.append)
        try:
            assert strategy.state == "on"
            await self.until_found(strategy, peers)
            assert strategy.detail
            assert strategy.found_count == len({(p.host, p.port, p.node_id) for p in peers})
            for peer in peers:
                assert peer.source == strategy.name
                assert is_ip(peer.host)
                assert 1 <= peer.port <= 65535
        finally:
            await strategy.stop()

    async def test_after_stop_it_is_off_and_leaves_nothing_running(self):
        before = asyncio.all_tasks()
        strategy, peers = self.make(), []
        await strategy.start(peers.append)
        await self.until_found(strategy, peers)
        await strategy.stop()
        assert strategy.state == "off"
        async with asyncio.timeout(3):  # the surroundings may have short tasks of their own
            while not asyncio.all_tasks() <= before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        count = len(peers)
        await self.trigger(strategy)
        await asyncio.sleep(self.settle)
        assert len(peers) == count

    async def test_the_strategy_can_be_started_again(self):
        strategy, peers = self.make(), []
        for _ in range(2):
            await strategy.start(peers.append)
            await self.until_found(strategy, peers)
            await strategy.stop()
            peers.clear()

    async def test_stopping_is_harmless_without_a_start_and_twice(self):
        strategy = self.make()
        await strategy.stop()
        await strategy.start(lambda peer: None)
        await strategy.stop()
        await strategy.stop()
        assert strategy.state == "off"

    async def test_a_second_start_changes_nothing(self):
        strategy, peers = self.make(), []
        await strategy.start(peers.append)
        await strategy.start(lambda peer: pytest.fail("the first listener was replaced"))
        await self.until_found(strategy, peers)
        await strategy.stop()


class StartFailureConformance(StrategyConformance):
    def break_it(self, strategy, monkeypatch):
        raise NotImplementedError

    async def test_a_failed_start_names_the_reason_and_can_be_repeated(self, monkeypatch):
        strategy, peers = self.make(), []
        before = asyncio.all_tasks()
        with monkeypatch.context() as patch:
            self.break_it(strategy, patch)
            with pytest.raises(OSError):
                await strategy.start(peers.append)
            assert strategy.state == "failed"
            assert "broken for the test" in strategy.detail
            assert asyncio.all_tasks() <= before
        await strategy.stop()
        await strategy.start(peers.append)
        await self.until_found(strategy, peers)
        assert strategy.state == "on"
        await strategy.stop()
