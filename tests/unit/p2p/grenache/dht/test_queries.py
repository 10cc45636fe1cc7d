"""Queries: measured, repeated, hedged, given up in time; and the timers under them."""

from __future__ import annotations

import random

import pytest

from p2p.grenache.dht import queries
from p2p.grenache.dht.krpc import KrpcFailure, KrpcQuery, KrpcReply, PingQuery, decode
from p2p.grenache.dht.queries import TRIES, Late, Queries, Rtt
from p2p.ground.timers import Timers

ID = b"i" * 20
THERE = ("10.0.0.1", 4000)


class Bench:
    """Queries, the time, and what came of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers = Timers()
        self.sent: list[tuple[float, bytes, tuple[str, int]]] = []
        self.events: list[tuple[str, float]] = []
        self.queries = Queries(
            random.Random(1),
            self.timers,
            lambda data, address: self.sent.append((self.now, data, address)),
            lambda now, address, reply: self.events.append(("answered", now)),
            lambda now, address: self.events.append(("unanswered", now)),
        )

    def ask(self, address=THERE, **more):
        query = self.queries.ask(
            self.now,
            address,
            ID,
            PingQuery(),
            replied=lambda now, reply: self.events.append(("replied", now)),
            failed=lambda now, failure: self.events.append(
                ("failed" if failure is None else f"error {failure.code}", now)
            ),
            on_late=lambda now: self.events.append((query.late.name, now)),
            **more,
        )
        return query

    def transaction(self, index: int = -1) -> bytes:
        message = decode(self.sent[index][1])
        assert isinstance(message, KrpcQuery)
        return message.transaction

    def reply(self, index: int = -1, source=THERE) -> bool:
        return self.queries.message(self.now, source, KrpcReply(self.transaction(index), b"n" * 20))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.timers.next()) <= end:
            self.now = deadline
            self.timers.run(deadline)
        self.now = end

    def round_trip(self, seconds: float, address=THERE) -> None:
        first = len(self.sent)
        self.ask(address)
        self.wait(seconds)
        assert self.reply(first, address)


def kinds(bench: Bench) -> list[str]:
    return [kind for kind, _ in bench.events]


def test_a_reply_is_matched_once():
    bench = Bench()
    bench.ask()
    bench.wait(0.01)
    assert bench.reply()
    assert not bench.reply()
    bench.wait(10)
    assert bench.events == [("answered", 0.01), ("replied", 0.01)]
    assert bench.queries.under_way == 0
    assert not bench.queries._pending


def test_a_younger_slow_query_does_not_hide_that_an_older_one_stalled():
    bench = Bench()
    bench.round_trip(0.01)
    first = bench.ask()
    bench.wait(first.timeout * 1.5)
    second = bench.ask()
    bench.wait(first.timeout)  # the first one has stalled, the second one is slow
    assert (first.late, second.late) == (Late.STALLED, Late.SLOW)
    assert bench.queries.path(THERE).stalled


def test_an_error_is_an_answer():
    bench = Bench()
    bench.ask()
    assert bench.queries.message(0.0, THERE, KrpcFailure(bench.transaction(), 203, "no"))
    assert kinds(bench) == ["error 203"]
    assert bench.queries.path(THERE).answered


def test_silence_is_met_with_repetition_and_then_given_up():
    bench = Bench()
    bench.ask()
    bench.wait(10)
    assert [round(at, 3) for at, _, _ in bench.sent] == [0.0, 0.07, 0.14, 0.28]
    assert len({data for _, data, _ in bench.sent}) == TRIES  # a transaction each
    assert [(kind, round(at, 3)) for kind, at in bench.events] == [
        ("SLOW", 0.07),
        ("SILENT", 0.14),
        ("unanswered", 1.05),
        ("failed", 1.05),
    ]
    assert not bench.queries._pending
    assert bench.queries.path(THERE).hopeless  # it never answered


def test_a_dead_node_that_was_near_costs_tens_of_milliseconds():
    bench = Bench()
    for _ in range(10):
        bench.round_trip(0.001)
    bench.events.clear()
    began = bench.now
    bench.ask()
    bench.wait(5)
    events = {kind: at - began for kind, at in bench.events}
    assert events["SLOW"] == pytest.approx(0.025)
    assert events["STALLED"] == pytest.approx(0.05)
    assert events["SILENT"] == pytest.approx(0.14)
    assert events["failed"] == pytest.approx(1.0)


def test_an_address_that_never_answered_is_silent_two_timeouts_after_the_first_query():
    bench = Bench()
    bench.ask()
    bench.wait(0.1)
    young = bench.ask()
    assert young.late is Late.NO
    bench.wait(0.041)
    assert young.late is Late.SILENT
    assert bench.queries.path(THERE).silent
    bench.queries.alive(THERE)  # its time begins again
    query = bench.ask()
    bench.wait(0.1)
    assert query.late is Late.SLOW


def test_an_address_that_spoke_after_a_stall_is_not_silent():
    bench = Bench()
    bench.round_trip(0.001)
    bench.ask()
    bench.wait(0.1)
    path = bench.queries.path(THERE)
    assert path.stalled
    bench.queries.alive(THERE)
    bench.wait(0.1)
    assert kinds(bench)[-1] == "SILENT"
    assert not path.stalled
    assert not path.silent


def test_a_new_address_is_expected_to_be_as_fast_as_others():
    bench = Bench()
    for n in range(50):
        bench.round_trip(0.2, ("10.0.1.1", 1000 + n))
    bench.events.clear()
    began = bench.now
    bench.ask(("10.0.2.1", 1))
    bench.wait(5)
    events = {kind: at - began for kind, at in bench.events}
    assert 0.2 < events["SLOW"] < 0.22


def test_an_address_that_stalled_is_not_awaited_until_it_answers():
    bench = Bench()
    bench.round_trip(0.001)
    bench.ask()
    bench.wait(0.2)
    assert bench.ask().late is Late.STALLED
    bench.queries.alive(THERE)
    assert bench.ask().late is Late.NO
    bench.wait(0.2)
    assert bench.ask().late is Late.STALLED
    assert bench.reply()
    assert bench.ask().late is Late.NO


def test_a_single_try_is_not_repeated():
    bench = Bench()
    bench.ask(tries=1)
    bench.wait(5)
    assert len(bench.sent) == 1
    assert kinds(bench)[0] == "STALLED"
    assert kinds(bench)[-2:] == ["unanswered", "failed"]


def test_queries_under_way_are_bounded(monkeypatch):
    monkeypatch.setattr(queries, "MAX_PENDING", 100)
    bench = Bench()
    assert all(bench.ask(("10.0.0.1", 1 + n)) for n in range(100))
    assert bench.ask() is None
    bench.wait(10)
    assert bench.queries.under_way == 0
    assert bench.ask() is not None


def test_timeouts_follow_measured_latencies_within_bounds():
    rtt = Rtt()
    assert rtt.timeout(4.0) is None
    for _ in range(50):
        rtt.sample(0.0001)
    assert rtt.timeout(4.0) == 0.025
    for _ in range(100):
        rtt.sample(0.3)
    assert rtt.timeout(4.0) == pytest.approx(0.3, rel=0.01)
    for _ in range(100):
        rtt.sample(30.0)
    assert rtt.timeout(4.0) == 1.0
