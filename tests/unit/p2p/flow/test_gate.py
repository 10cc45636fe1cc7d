"""Gate: the asyncio form of governor and outbox, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from p2p.base.errors import LinkClosed, RpcError
from p2p.flow import (
    Admission,
    Busy,
    Gate,
    GateClosed,
    GateSettings,
    LoadReport,
    OutboxExpired,
    OutboxFull,
)

pytestmark = pytest.mark.looptime


def gate(**settings: Any) -> Gate:
    return Gate(
        rng=random.Random(1),
        load_of=lambda x: x if isinstance(x, LoadReport) else None,
        settings=GateSettings(**settings),
    )


class Server:
    """Ten workers of 20 ms behind `Admission`; counts what it sees."""

    def __init__(self) -> None:
        self.admission = Admission(workers=10, service_s=0.02)
        self.down = False
        self.inside = self.most = self.asked = 0

    async def ask(self) -> LoadReport:
        self.asked += 1
        await asyncio.sleep(0.005)
        if self.down:
            raise LinkClosed
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            async with self.admission.admit() as admitted:
                await asyncio.sleep(0.02)
                load = admitted.load()
        finally:
            self.inside -= 1
        await asyncio.sleep(0.005)
        return load


async def test_a_backlog_of_2000_is_warmed_up_and_not_flooded() -> None:
    server = Server()
    loop = asyncio.get_running_loop()
    async with gate() as found:
        began = loop.time()
        futures = [found.post(server.ask) for _ in range(2000)]
        await asyncio.sleep(0.02)
        assert server.asked <= 4
        await asyncio.gather(*futures)
        assert loop.time() - began < 1.3 * 4.0
    assert server.most < 60
    assert server.asked <= 1.05 * 2000


async def test_nothing_is_lost_while_the_peer_is_away() -> None:
    server = Server()
    server.down = True
    async with gate() as found:
        futures = [found.post(server.ask) for _ in range(100)]
        await asyncio.sleep(3.0)
        assert server.asked < 20  # probes, no storm
        assert found.status().breaker in ("OPEN", "HALF_OPEN")
        assert found.status().waiting >= 99
        server.down = False
        await asyncio.gather(*futures)
    assert server.asked < 130


async def test_an_answer_is_returned_and_a_refusal_on_its_merits_is_raised_once() -> None:
    asked = 0

    async def refuse() -> None:
        nonlocal asked
        asked += 1
        raise RpcError("insufficient_balance", "no")

    async with gate() as found:
        assert await found.call(lambda: asyncio.sleep(0.01, "answer")) == "answer"
        with pytest.raises(RpcError, match="insufficient_balance"):
            await found.call(refuse)
        assert asked == 1
        assert found.status().counters["delivered"] == 2  # both were answered


async def test_an_undelivered_message_has_a_reason() -> None:
    async def fail() -> None:
        raise Busy(0.5)

    async with gate() as found:
        with pytest.raises(OutboxExpired) as caught:
            await found.call(fail, ttl_s=3.0)
        assert isinstance(caught.value.__cause__, Busy)
        assert len(found.outbox) == 0


async def test_an_attempt_that_hangs_is_ended_and_tried_again() -> None:
    attempts = 0

    async def hang_once() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.sleep(1e6)
        return "answer"

    async with gate(attempt_timeout_s=1.0) as found:
        assert await found.call(hang_once) == "answer"
    assert attempts == 2


async def test_calls_without_retry_fail_with_their_first_error() -> None:
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise LinkClosed

    async with gate() as found:
        with pytest.raises(LinkClosed):
            await found.call(fail, retry=False)
    assert attempts == 1


async def test_a_full_outbox_is_an_error_of_the_caller() -> None:
    async with gate(limit=3) as found:
        for _ in range(3):
            found.post(lambda: asyncio.sleep(1))
        with pytest.raises(OutboxFull):
            await found.call(lambda: asyncio.sleep(1))


async def _cancelled_work(found: Gate, wait: float) -> list[str]:
    happened: list[str] = []

    async def work() -> None:
        happened.append("began")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            happened.append("stopped")
            raise

    caller = asyncio.create_task(found.call(work))
    await asyncio.sleep(wait)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert caller.cancelled()
    assert len(found.outbox) == 0
    assert found.governor.in_flight == 0
    return happened


async def test_cancelling_the_caller_stops_the_work() -> None:
    async with gate(attempt_timeout_s=None) as found:
        assert await _cancelled_work(found, 1.0) == ["began", "stopped"]
        assert await found.call(lambda: asyncio.sleep(0.01, "next")) == "next"


async def test_a_caller_cancelled_in_the_queue_sends_nothing() -> None:
    async with gate() as found:
        assert await _cancelled_work(found, 0.0) == []


async def test_closing_ends_running_and_waiting_requests() -> None:
    found = gate()
    stopped: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(3)
        finally:
            stopped.append(number)

    def action(number: int) -> Callable[[], Awaitable[None]]:
        return lambda: work(number)

    async with found:
        futures = [found.post(action(n)) for n in range(50)]
        await asyncio.sleep(0.5)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(r, GateClosed) for r in results)
    assert 1 <= len(stopped) <= 4
    with pytest.raises(GateClosed):
        found.post(action(1))
    assert len(asyncio.all_tasks()) == 1


async def test_closing_at_once_leaves_no_attempt_uncounted() -> None:
    found = gate()
    found.governor._next_send = 0.0  # the first may go at once
    future = found.post(lambda: asyncio.sleep(1))
    await found.close()  # its task has not run yet
    assert isinstance(future.exception(), GateClosed)
    assert found.governor.in_flight == 0
    assert len(found.outbox) == 0


async def test_shadow_mode_delays_nothing_and_counts_simulated_waits() -> None:
    server = Server()
    async with gate() as found:
        found.shadow = True
        futures = [found.post(lambda: asyncio.sleep(0.02)) for _ in range(100)]
        await asyncio.sleep(0.021)
        assert all(f.done() for f in futures)
        assert 90 <= found.would_wait <= 100
        server.down = True
        with pytest.raises(LinkClosed):  # and it changes no outcome: no retry either
            await found.call(server.ask)
        waiting = found.post(lambda: asyncio.sleep(100))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert found.governor.in_flight == 0
        assert found.status().mode == "shadow"
