"""Outbox: bounded, with expiry, one gate for first tries and retries."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.flow import Governor, LoadReport, Outbox, OutboxEntry, OutboxFull


def outbox(**options: float) -> Outbox[int]:
    governor = Governor(rng=random.Random(1))
    return Outbox(governor, rng=random.Random(2), **options)  # type: ignore[arg-type]


def next_one(box: Outbox[int], now: float) -> tuple[float, OutboxEntry[int]]:
    """The next message and when it goes."""
    for _ in range(100):
        entry = box.next(now)
        if entry is not None:
            return now, entry
        at = box.wake_at(now)
        assert now < at < inf
        now = at
    raise AssertionError("nothing goes")


def test_messages_go_in_order() -> None:
    box = outbox()
    for i in range(10):
        box.add(0.0, i)
    now, seen = 0.0, []
    for _ in range(10):
        now, entry = next_one(box, now)
        seen.append(entry.item)
        box.on_result(now + 0.01, entry, "ok")
        now += 0.01
    assert seen == list(range(10))
    assert len(box) == 0


def test_retries_pass_the_same_gate_and_go_before_younger_messages() -> None:
    box = outbox()
    for i in range(3):
        box.add(0.0, i)
    now, entry = next_one(box, 0.0)
    assert not box.on_result(now + 0.01, entry, "busy", retry_after_s=1.0)
    in_flight = box.governor.in_flight
    now, other = next_one(box, now + 0.01)
    assert other.item == 1  # the first waits its backoff, and holds up nobody
    assert box.governor.in_flight == in_flight + 1
    box.on_result(now, other, "ok")
    now, again = next_one(box, now + 2.0)
    assert again is entry
    assert again.attempts == 2
    assert box.governor.in_flight == 1


def test_an_open_breaker_keeps_messages_and_loses_none() -> None:
    box = outbox()
    for i in range(100):
        box.add(0.0, i)
    now, entry = next_one(box, 0.0)
    box.on_result(now, entry, "reset")
    assert box.next(now) is None
    assert len(box) == 100
    assert box.wake_at(now) > now
    delivered = 0
    while len(box):
        now, entry = next_one(box, now)
        now += 0.02
        box.on_result(now, entry, "ok", LoadReport(0.0, 0.01))
        delivered += 1
    assert delivered == 100


def test_a_full_outbox_refuses_and_a_settled_message_makes_room() -> None:
    box = outbox(limit=2)
    box.add(0.0, 1)
    box.add(0.0, 2)
    with pytest.raises(OutboxFull):
        box.add(0.0, 3)
    now, entry = next_one(box, 0.0)
    with pytest.raises(OutboxFull):  # under way counts
        box.add(now, 3)
    box.on_result(now, entry, "ok")
    box.add(now, 3)


def test_a_message_that_waits_too_long_expires_with_an_error() -> None:
    box = outbox(ttl_s=5.0)
    first = box.add(0.0, 1)
    box.add(0.0, 2, ttl_s=50.0)
    box.governor.on_result(0.0, box.governor.on_send(0.0), "reset")  # nothing goes for a while
    assert box.expire(4.9) == []
    assert box.expire(5.0) == [first]
    assert box.counters["expired"] == 1
    assert len(box) == 1


def test_an_attempt_under_way_is_not_expired_but_not_repeated_after_its_time() -> None:
    box = outbox(ttl_s=5.0)
    box.add(0.0, 1)
    _, entry = next_one(box, 0.0)
    assert box.expire(6.0) == []
    assert box.on_result(6.0, entry, "timeout")
    assert box.counters["expired"] == 1
    assert len(box) == 0


def test_entries_without_retry_are_settled_by_their_first_failure() -> None:
    box = outbox()
    box.add(0.0, 1, retry=False)
    now, entry = next_one(box, 0.0)
    assert box.on_result(now, entry, "timeout")
    assert box.counters == {
        "added": 1, "attempts": 1, "delivered": 0, "failed": 1, "expired": 0
    }  # fmt: skip


def test_cancelling_frees_the_place_wherever_the_message_is() -> None:
    box = outbox(limit=3)
    waiting, flying, failed = (box.add(0.0, i) for i in range(3))
    now, entry = next_one(box, 0.0)
    assert entry is waiting
    box.on_result(now, entry, "busy", retry_after_s=9.0)  # now in backoff
    now, entry = next_one(box, now)
    assert entry is flying
    for one in (waiting, flying, failed):
        box.cancel(now, one)
        box.cancel(now, one)
    assert len(box) == 0
    assert box.governor.in_flight == 0
    assert box.wake_at(now) == inf


def test_memory_stays_bounded_when_messages_are_cancelled_behind_a_closed_gate() -> None:
    box = outbox(limit=10)
    box.governor.on_result(0.0, box.governor.on_send(0.0), "reset")
    kept = box.add(0.0, -1, ttl_s=1e9)
    for i in range(5000):
        box.cancel(0.0, box.add(0.0, i))
    assert not kept.settled
    assert len(box._fresh) < 200
    assert len(box._expiries) < 200


def test_a_result_without_an_attempt_is_refused() -> None:
    box = outbox()
    with pytest.raises(ValueError):
        box.on_result(0.0, box.add(0.0, 1), "ok")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_every_message_ends_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    box = outbox(limit=30, ttl_s=3.0)
    now, added, expired, cancelled = 0.0, 0, 0, 0
    known: list[OutboxEntry[int]] = []
    flying: list[OutboxEntry[int]] = []
    for _ in range(300):
        now += rng.expovariate(30.0)
        expired += len(box.expire(now))
        action = rng.random()
        if action < 0.4:
            try:
                known.append(box.add(now, added))
                added += 1
            except OutboxFull:
                assert len(box) == 30
        elif action < 0.6:
            while (entry := box.next(now)) is not None:
                assert not entry.settled
                assert entry not in flying
                flying.append(entry)
        elif action < 0.95 and flying:
            entry = flying.pop(rng.randrange(len(flying)))
            outcome = rng.choices(("ok", "busy", "timeout", "reset"), (70, 10, 10, 10))[0]
            box.on_result(now, entry, outcome)  # type: ignore[arg-type]
        elif known:
            entry = rng.choice(known)
            if not entry.settled:
                cancelled += 1
                if entry in flying:
                    flying.remove(entry)
                box.cancel(now, entry)
        counted = box.counters
        ended = counted["delivered"] + counted["failed"] + counted["expired"] + cancelled
        assert ended + len(box) == added
        assert box.governor.in_flight == len(flying)
        assert box.waiting == len(box) - len(flying) >= 0
