"""Decisions about hole punching: with whom, how often, and what is refused."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from p2p.reachability.hole_punching import (
    BUSY,
    FIRST_PAUSE,
    HOST_INTERVAL,
    MAX_PAUSE,
    MAX_PUNCHED,
    NOT_YET,
    SOON,
    UNDER_WAY,
    PunchEndpoint,
    PunchPlan,
    PunchTarget,
)

OWN = PunchEndpoint("11.9.0.1", 3000, "port_restricted")
THEIRS = "11.8.0.1"


def plan() -> PunchPlan:
    return PunchPlan("m", random.Random(1))


def target(node: str = "z", host: str = THEIRS, since: float = 0.0) -> PunchTarget:
    return PunchTarget(node, host, 3000, b"n", since)


def test_the_smaller_id_offers() -> None:
    assert plan().next_peer(["a", "z"], 0, 0.0) == "z"
    assert plan().next_peer(["a", "b"], 0, 0.0) is None


def test_one_punch_at_a_time() -> None:
    it = plan()
    it.begin(target())
    assert it.next_peer(["y"], 0, 1.0) is None
    assert it.refusal(OWN, "11.7.0.1", 3000, "unknown", 1.0) == BUSY
    assert it.next_peer(["y"], 0, UNDER_WAY) == "y"


def test_a_bounded_number_of_punched_links() -> None:
    assert plan().next_peer(["z"], MAX_PUNCHED, 0.0) is None


def test_a_peer_that_failed_waits_twice_as_long_each_time() -> None:
    it, now, waits = plan(), 0.0, []
    for _ in range(10):
        it.ended("z", "no answer", now)
        begin = now
        while it.next_peer(["z"], 0, now) is None:
            now += 5.0
        waits.append(now - begin)
    assert waits[0] <= FIRST_PAUSE * 1.3
    assert MAX_PAUSE <= waits[-1] <= MAX_PAUSE * 1.3
    assert it.reason("z") == "no answer"
    it.ended("z", "", now)
    assert it.reason("z") == ""
    assert it.next_peer(["z"], 0, now) == "z"


def test_a_peer_that_does_not_know_its_address_yet_is_asked_again_soon() -> None:
    it = plan()
    it.ended("z", NOT_YET, 0.0)
    assert it.next_peer(["z"], 0, 2 * SOON) == "z"
    it.ended("z", "no answer", 2 * SOON)
    assert it.next_peer(["z"], 0, 4 * SOON) is None


@pytest.mark.parametrize(
    ("own", "host", "port", "nat", "reason"),
    [
        (None, THEIRS, 3000, "port_restricted", "not known"),
        (OWN, THEIRS, 3000, "symmetric", "symmetric"),
        (PunchEndpoint("11.9.0.1", 1, "symmetric"), THEIRS, 3000, "unknown", "symmetric"),
        (OWN, "192.168.1.9", 3000, "unknown", "no public address"),
        (OWN, "127.0.0.1", 3000, "unknown", "no public address"),
        (OWN, "victim.example", 3000, "unknown", "no public address"),
        (OWN, THEIRS, 0, "unknown", "not a port of a node"),
        (OWN, "11.9.0.1", 3000, "unknown", "same router"),
        (OWN, THEIRS, 3000, "port_restricted", ""),
        (OWN, THEIRS, 3000, "a kind of the future", ""),
    ],
)
def test_punches_are_refused_with_the_reason(
    own: PunchEndpoint | None, host: str, port: int, nat: str, reason: str
) -> None:
    found = plan().refusal(own, host, port, nat, 0.0)
    assert (reason in found) if reason else not found


def test_no_host_is_dialled_more_than_once_a_minute_for_all_peers_together() -> None:
    it, rng = plan(), random.Random(2)
    now, dialled = 0.0, []
    while now < 3600.0:
        now += rng.expovariate(2.0)
        node = f"attacker {rng.randrange(50)}"
        if not it.refusal(OWN, THEIRS, rng.randrange(1, 65_536), "unknown", now):
            it.begin(target(node, since=now))
            dialled.append(now)
            it.ended(node, "failed", now + 0.1)
    assert len(dialled) > 30
    assert min(b - a for a, b in pairwise(dialled)) >= HOST_INTERVAL


def test_a_sync_belongs_to_its_punch() -> None:
    it = plan()
    it.begin(target())
    assert it.synced("z", b"n") is not None
    assert it.synced("z", b"other") is None
    assert it.synced("y", b"n") is None
    it.ended("y", "", 1.0)
    assert it.synced("z", b"n") is not None
    it.ended("z", "", 1.0)
    assert it.synced("z", b"n") is None


@pytest.mark.parametrize("offers", [11, 100])
@pytest.mark.parametrize("offered", [True, False])
def test_offers_that_name_an_honest_router_are_not_held_against_it(
    offers: int, offered: bool
) -> None:
    it = plan()
    now = 0.0
    for n in range(offers):  # in six hours
        now = n * 6 * 3600 / offers
        assert not it.refusal(OWN, THEIRS, 3000, "port_restricted", now, offered=offered)
        it.begin(PunchTarget(f"bad{n}", THEIRS, 3000, b"n", now, offered))
        it.ended(f"bad{n}", "did not meet", now + 10.0)
    # Nor is one that this node offers held up by one that was offered to it a moment ago.
    assert not it.refusal(OWN, THEIRS, 3000, "port_restricted", now + 11.0, offered=not offered)
    assert not it.refusal(OWN, THEIRS, 3000, "port_restricted", now + 61.0, offered=offered)


@pytest.mark.parametrize(("syncs", "turns"), [(False, 80), (True, 150)])
def test_offers_without_end_leave_this_node_turns_of_its_own(syncs: bool, turns: int) -> None:
    it, own, others = plan(), 0, 0
    until = 0.0
    for now in range(600):  # an offer of another identity and router each second
        if until and now >= until:
            it.ended(f"bad{others}", "did not meet", now)
            until = 0.0
        host = f"11.{now % 250}.0.{now // 250 + 1}"
        if it.next_peer(["z"], 0, now) is not None:
            own += 1
        if not it.refusal(OWN, host, 3000, "port_restricted", now, offered=True):
            others += 1
            it.begin(PunchTarget(f"bad{others}", host, 3000, b"n", now, True))
            if syncs:
                assert it.synced(f"bad{others}", b"n") is not None
                until = now + 12.0
    assert own >= turns  # seconds in which it may offer
    assert others >= 30


def test_behind_another_router_every_peer_is_tried_again() -> None:
    it = plan()
    it.refusal(OWN, THEIRS, 3000, "port_restricted", 0.0)
    it.begin(PunchTarget("z", THEIRS, 3000, b"n", 0.0))
    it.ended("z", "did not meet", 5.0)
    assert it.reason("z")
    it.moved(PunchEndpoint("11.9.0.77", 3000, "port_restricted"))
    assert not it.reason("z")
