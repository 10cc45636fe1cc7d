"""Admission: the server's bounded queue."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.flow import Admission, AdmissionCore, Busy, Expired, LoadReport


@given(
    seed=st.integers(0, 10_000),
    workers=st.integers(1, 8),
    load=st.floats(0.2, 5.0),
    patience=st.floats(0.01, 1.0),
)
def test_nothing_is_started_after_its_wait_or_its_deadline_and_every_request_has_one_end(
    seed: int, workers: int, load: float, patience: float
) -> None:
    rng = random.Random(seed)
    core = AdmissionCore(workers, service_s=0.02)
    now, offered, ended = 0.0, 0, 0
    busy_until: list[tuple[float, object]] = []
    for _ in range(150):
        now += rng.expovariate(load * workers / 0.02)
        for end, ticket in sorted(busy_until, key=lambda x: x[0]):
            if end <= now:
                busy_until.remove((end, ticket))
                core.done(end, ticket)  # type: ignore[arg-type]
                ended += 1
        for late in core.overdue(now):
            core.refusal(now, late)
            ended += 1
        offered += 1
        try:
            core.offer(now, now + rng.uniform(0.0, patience))
        except (Busy, Expired):
            ended += 1
        while (ticket := core.start(now)) is not None:
            assert now - ticket.arrived <= 0.1
            assert now < ticket.deadline
            busy_until.append((now + rng.expovariate(50.0), ticket))
        assert core.serving <= workers
    assert ended + core.in_flight == offered
    assert sum(core.counters.values()) == ended


def test_work_beyond_100_ms_of_waiting_is_refused_with_when_to_come_back() -> None:
    core = AdmissionCore(workers=2, service_s=0.02)
    for _ in range(2 + 10):  # ten more are 100 ms of work for two workers
        core.offer(0.0)
        core.start(0.0)
    with pytest.raises(Busy) as caught:
        core.offer(0.0)
    assert 0.02 <= caught.value.retry_after_s <= 0.1
    assert core.counters["busy"] == 1


def test_expired_work_is_dropped_and_not_served() -> None:
    core = AdmissionCore(workers=1, service_s=0.01)
    running = core.offer(0.0)
    assert core.start(0.0) is running
    core.offer(0.0, deadline=0.03)
    kept = core.offer(0.0, deadline=9.0)
    assert [type(core.refusal(0.05, t)) for t in core.overdue(0.05)] == [Expired]
    core.done(0.05, running)
    assert core.start(0.05) is kept
    with pytest.raises(Expired):
        core.offer(1.0, deadline=1.0)


def test_a_request_whose_deadline_is_nearer_than_its_turn_is_refused_now() -> None:
    core = AdmissionCore(workers=1, service_s=0.05)
    core.offer(0.0)
    core.start(0.0)
    with pytest.raises(Busy):
        core.offer(0.0, deadline=0.02)


def test_the_report_has_the_waiting_and_serving_times_of_the_reply() -> None:
    core = AdmissionCore(workers=1, service_s=0.02)
    first, second = core.offer(1.0), core.offer(1.0)
    core.start(1.0)
    assert core.done(1.03, first) == (0.0, pytest.approx(0.03), 1)
    core.start(1.03)
    report = core.done(1.05, second)
    assert report == (pytest.approx(0.03), pytest.approx(0.02), 0)


def test_the_service_time_is_learned() -> None:
    core = AdmissionCore(workers=1, service_s=0.001)
    now = 0.0
    for _ in range(100):
        ticket = core.offer(now)
        core.start(now)
        now += 0.05
        core.done(now, ticket)
    assert core.service_s == pytest.approx(0.05, rel=0.05)


@pytest.mark.looptime
async def test_the_async_form_bounds_the_wait_and_reports_the_load() -> None:
    admission = Admission(workers=2, service_s=0.02)
    loop = asyncio.get_running_loop()
    reports: list[LoadReport] = []
    refused: list[float] = []

    async def request() -> None:
        began = loop.time()
        try:
            async with admission.admit(loop.time() + 5.0) as admitted:
                assert loop.time() - began <= 0.1001
                await asyncio.sleep(0.02)
                reports.append(admitted.load())
        except Busy:
            refused.append(loop.time() - began)

    await asyncio.gather(*(request() for _ in range(50)))
    assert len(reports) in (10, 11, 12)  # the turn of the last two comes after just 100 ms
    assert len(reports) + len(refused) == 50
    assert sum(wait == 0.0 for wait in refused) == 38  # told at once
    assert max(r.waited_s for r in reports) == pytest.approx(0.1, abs=0.03)
    assert admission.core.in_flight == 0


@pytest.mark.looptime
async def test_a_stalled_server_refuses_waiting_requests_after_their_deadline() -> None:
    admission = Admission(workers=1, service_s=0.02)
    loop = asyncio.get_running_loop()

    async def hold() -> None:
        async with admission.admit():
            await asyncio.sleep(10.0)

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    began = loop.time()
    with pytest.raises(Busy):
        async with admission.admit():
            pass
    assert loop.time() - began == pytest.approx(0.1, abs=0.01)
    with pytest.raises(Expired):
        async with admission.admit(loop.time() + 0.05):
            pass
    waiting = asyncio.create_task(hold())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.core.in_flight == 1
    await holding
    assert admission.core.in_flight == 0
    assert admission.core.counters == {"served": 1, "busy": 1, "expired": 1}


@pytest.mark.looptime
async def test_work_that_raises_frees_its_worker() -> None:
    admission = Admission(workers=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with admission.admit():
                raise ZeroDivisionError
    assert admission.core.in_flight == 0
    assert admission.core.counters["served"] == 0


@pytest.mark.looptime
async def test_after_a_stall_of_the_loop_expired_requests_are_not_started() -> None:
    admission = Admission(workers=1, service_s=0.02)
    served: list[int] = []

    async def request(number: int) -> None:
        async with admission.admit():
            served.append(number)
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(request(n)) for n in range(2)]
    await asyncio.sleep(0.01)
    late = admission.core._waiting[0]
    late.limit -= 10.0  # as if the loop had stood still, and its timer were yet to run
    admission.core._soonest = late.limit
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [0]
    assert isinstance(results[1], Busy)
    assert admission.core.in_flight == 0


@pytest.mark.looptime
async def test_with_no_wait_a_request_is_served_if_a_worker_is_free_and_refused_if_not() -> None:
    admission = Admission(workers=2, max_wait_s=0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends: list[float] = []

    async def request() -> None:
        async with admission.admit(loop.time() + 5.0):
            await asyncio.sleep(0.5)
            ends.append(loop.time() - began)

    for _ in range(3):  # again when the workers are free again
        results = await asyncio.gather(*(request() for _ in range(5)), return_exceptions=True)
        assert [type(r) for r in results] == [type(None)] * 2 + [Busy] * 3
    assert ends == pytest.approx([0.5, 0.5, 1.0, 1.0, 1.5, 1.5])
    assert admission.core.in_flight == 0
    assert admission.core.counters == {"served": 6, "busy": 9, "expired": 0}
