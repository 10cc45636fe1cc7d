import asyncio
import logging

import pytest

from p2p.addresses.address import PeerFound
from p2p.discovery.strategy import MAX_SEEN, RETRY_FIRST, BaseStrategy, PeerDiscovery, describe

pytestmark = pytest.mark.looptime


class Steady(BaseStrategy):
    def __init__(self, name="bootstrap"):
        super().__init__()
        self.name = name
        self.starts = 0

    async def _open(self):
        self.starts += 1
        self._report("192.0.2.1", 3000, None)
        self._detail = "all is well"

    async def _run(self):
        await asyncio.sleep(1e9)


class FailsAtFirst(Steady):
    def __init__(self, name, failures):
        super().__init__(name)
        self.failures = failures
        self.times = []

    async def _open(self):
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self.failures:
            raise OSError(13, "Permission denied")
        await super()._open()


class FailsLater(Steady):
    async def _run(self):
        await asyncio.sleep(10)
        raise RuntimeError("lost its footing")


class Hangs(Steady):
    async def _open(self):
        await asyncio.sleep(1e9)


class FailsToStop(Steady):
    async def _close(self):
        raise RuntimeError("cannot let go")


@pytest.fixture
def found():
    return []


async def test_reports_without_end_are_counted_and_take_bounded_memory(found):
    strategy = Steady()
    discovery = PeerDiscovery([strategy], found.append)
    await discovery.start(settle=5)
    for n in range(2 * MAX_SEEN):
        for _ in range(2):
            strategy._report("192.0.2.2", 1024 + n % 60_000, f"{n:032x}")
    assert strategy.found_count == 2 * MAX_SEEN + 1
    assert len(strategy._seen) == MAX_SEEN
    await discovery.stop()


async def test_strategies_run_side_by_side_in_order_of_priority(found):
    names = ["exchange", "mdns", "bootstrap", "persisted", "grape"]
    discovery = PeerDiscovery([Steady(name) for name in names], found.append)
    await discovery.start(settle=5)
    order = ["persisted", "bootstrap", "mdns", "grape", "exchange"]
    assert [status.name for status in discovery.status()] == order
    assert [peer.source for peer in found] == order
    assert all(s.state == "on" and s.found == 1 for s in discovery.status())
    await discovery.stop()
    assert all(s.state == "off" for s in discovery.status())


async def test_strategies_that_fail_to_start_stop_no_other_and_are_retried_less_and_less_often(
    found, caplog
):
    bad, good = FailsAtFirst("mdns", 4), Steady()
    discovery = PeerDiscovery([bad, good], found.append)
    await discovery.start(settle=5)
    assert len(found) == 1
    status = {s.name: s for s in discovery.status()}
    assert status["mdns"].state == "failed"
    assert status["mdns"].detail == "Permission denied; retried in 5 s"
    assert status["bootstrap"].state == "on"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    await asyncio.sleep(1000)
    gaps = [b - a for a, b in zip(bad.times, bad.times[1:], strict=False)]
    assert gaps == pytest.approx([RETRY_FIRST * 2**n for n in range(4)], abs=0.1)
    status = {s.name: s for s in discovery.status()}
    assert (status["mdns"].state, status["mdns"].detail) == ("on", "all is well")
    assert good.starts == 1
    await discovery.stop()


async def test_strategies_that_fail_while_running_are_started_again(found, caplog):
    strategy = FailsLater("mdns")
    discovery = PeerDiscovery([strategy], found.append)
    await discovery.start(settle=5)
    await asyncio.sleep(12)
    (status,) = discovery.status()
    assert status.state == "failed"
    assert "lost its footing" in status.detail
    assert "lost its footing" in caplog.text
    await asyncio.sleep(RETRY_FIRST)
    assert strategy.starts == 2
    assert discovery.status()[0].state == "on"
    await discovery.stop()


async def test_hanging_strategies_delay_neither_start_nor_stop(found):
    discovery = PeerDiscovery([Hangs("persisted"), Steady()], found.append)
    began = asyncio.get_running_loop().time()
    await discovery.start(settle=3)
    assert asyncio.get_running_loop().time() - began == pytest.approx(3, abs=0.1)
    assert len(found) == 1
    await discovery.stop()


async def test_strategies_that_fail_to_stop_do_not_keep_the_others_running(found, caplog):
    steady = Steady()
    discovery = PeerDiscovery([FailsToStop("persisted"), steady], found.append)
    await discovery.start(settle=1)
    await discovery.stop()
    assert steady.state == "off"
    assert "cannot let go" in caplog.text


async def test_a_failing_receiver_is_no_fault_of_the_strategy(caplog):
    def broken(peer):
        raise RuntimeError("a fault of the receiver")

    discovery = PeerDiscovery([Steady()], broken)
    await discovery.start(settle=1)
    assert discovery.status()[0].state == "on"
    assert "a fault of the receiver" in caplog.text
    await discovery.stop()


async def test_an_address_reported_twice_counts_once(found):
    strategy = Steady()
    await strategy.start(found.append)
    strategy._report("192.0.2.1", 3000, None)
    assert strategy.found_count == 1
    assert found == [PeerFound("192.0.2.1", 3000, None, "bootstrap")] * 2
    await strategy.stop()


def test_errors_read_as_part_of_a_sentence():
    assert describe(OSError(13, "Permission denied")) == "Permission denied"
    assert describe(ValueError("no")) == "no"
    assert describe(KeyError()) == "KeyError"
