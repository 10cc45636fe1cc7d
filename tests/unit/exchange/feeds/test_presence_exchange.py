"""Presences handed on: a newcomer's leases end no later than those of its neighbours, and claims cost little."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Network

from exchange.feeds import presence as presence_module
from exchange.feeds import presence_exchange
from exchange.feeds.exchange_messages import (
    FeedDigest,
    KeptPresence,
    Presence,
    PresencePart,
    PresenceRequest,
    unpack,
)
from exchange.feeds.presence import MAX_KNOWN, PresenceLeases
from exchange.feeds.presence_exchange import (
    MAX_PRESENCE_BYTES,
    MAX_TRIES,
    MAX_UNDER_WAY,
    ROUND_INTERVAL,
    PresenceExchange,
    PresenceTable,
)

A, B = Keys(11).node_id, Keys(12).node_id
MANY = 2000


def signed(seed: int, *, lease_ms: int = 9000, count: int = 1, heads: Any = ()) -> Presence:
    leases = PresenceLeases(Keys(seed), NETWORK, incarnation=1, lease_ms=lease_ms)
    for _ in range(count - 1):
        leases.make(0.0, [])
    return leases.make(0.0, list(heads))


def unsigned(number: int, heads: int = 0) -> Presence:
    key = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return Presence(key, 1, 1, 9000, [(M, 1)] * heads, bytes(64))


class Local:
    """An exchange alone, with `present` owners."""

    def __init__(self, *neighbours: str, present: int = 0) -> None:
        self.table = PresenceTable()
        self.neighbours = set(neighbours)
        self.present = present
        self.it = PresenceExchange(self.table, self.neighbours, lambda: self.present)

    def sent(self) -> list[tuple[str, Any]]:
        return [(s.to, unpack(s.type, s.payload)) for s in self.it.take_outgoing()]

    def ticked(self, now: float) -> list[tuple[str, Any]]:
        self.it.tick(now)
        return self.sent()


# What is kept


def test_kept_presences_are_passed_on_with_the_rest_of_their_lease() -> None:
    table = PresenceTable()
    table.put("a", unsigned(1), 20.0)
    assert table.part(11.0, 0, 1) == [KeptPresence(9000, unsigned(1))]
    assert table.part(19.5, 0, 1) == [KeptPresence(500, unsigned(1))]
    assert table.part(20.0, 0, 1) == []


def test_the_parts_together_are_all_owners_each_once() -> None:
    table = PresenceTable()
    owners = [unsigned(number) for number in range(1, 200)]
    for presence in owners:
        table.put(presence.key.hex(), presence, 9.0)
    found = [kept.presence.key for part in range(8) for kept in table.part(0.0, part, 8)]
    assert sorted(found) == sorted(presence.key for presence in owners)


def test_a_dropped_or_replaced_presence_leaves_nothing_behind() -> None:
    table = PresenceTable()
    for _ in range(2):
        table.put("a", unsigned(1), 9.0)
    assert len(table) == 1
    size = table.bytes
    assert size == len(msgspec.msgpack.encode(unsigned(1)))
    for _ in range(2):
        table.drop("a")
    assert (len(table), table.bytes, table._groups) == (0, 0, {})


def test_kept_presences_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    table = PresenceTable()
    table.put("long", unsigned(1, heads=MAX_PRESENCE_BYTES // 10), 9.0)
    assert len(table) == 0
    monkeypatch.setattr(presence_exchange, "MAX_KEPT_BYTES", 1000)
    for number in range(100):
        table.put(str(number), unsigned(number), 9.0)
    assert 0 < table.bytes <= 1000
    monkeypatch.setattr(presence_exchange, "MAX_KNOWN", len(table))
    monkeypatch.setattr(presence_exchange, "MAX_KEPT_BYTES", MAX_KNOWN * 1000)
    before = len(table)
    table.put("more", unsigned(1000), 9.0)
    assert len(table) == before
    table.put("0", unsigned(0), 10.0)  # that of a known owner is replaced
    assert len(table) == before


# Requests


def test_nothing_is_requested_in_a_small_network_or_with_nearly_as_many() -> None:
    small, enough = Local(A), Local(A, present=1800)
    small.it.stated(0.0, A, 500)
    enough.it.stated(0.0, A, MANY)
    assert small.ticked(0.0) == enough.ticked(0.0) == []
    assert not small.it.busy
    assert not enough.it.busy


def test_a_stranger_is_neither_asked_nor_answered() -> None:
    local = Local(A)
    local.it.stated(0.0, B, MANY)
    local.it.on_request(0.0, B, PresenceRequest(0, 1))
    assert local.ticked(0.0) == []


def test_an_answer_counts_once_and_only_from_where_it_was_requested() -> None:
    local = Local(A, B)
    local.it.stated(0.0, A, MANY)
    ((_, request), *_) = local.ticked(0.0)
    answer = PresencePart(request.part, request.parts, [KeptPresence(5000, unsigned(1))])
    assert local.it.on_part(0.1, B, answer) == []
    assert local.it.on_part(0.1, A, msgspec.structs.replace(answer, parts=1)) == []
    assert len(local.it.on_part(0.1, A, answer)) == 1
    assert local.it.on_part(0.1, A, answer) == []


def test_requests_to_a_lost_neighbour_move_to_another() -> None:
    local = Local(A, B)
    local.it.stated(0.0, A, MANY)
    assert len(local.ticked(0.0)) == MAX_UNDER_WAY
    local.it.stated(0.0, B, MANY)
    local.it.neighbour_down(A)
    assert {to for to, _ in local.ticked(0.0)} == {B}


def test_a_false_claim_costs_one_round_of_requests_in_a_minute() -> None:
    local = Local(A)
    requests = 0
    now = 0.0
    while now < ROUND_INTERVAL:
        local.it.stated(now, A, 2**62)
        requests += len(local.ticked(now))
        now += 0.25
    assert 0 < requests <= presence_exchange.MAX_PARTS * MAX_TRIES
    assert not local.it.busy
    local.it.stated(ROUND_INTERVAL, A, 2**62)
    assert len(local.ticked(ROUND_INTERVAL)) == MAX_UNDER_WAY


# Answers


@pytest.mark.parametrize(("part", "parts"), [(0, 0), (0, 3), (2, 2), (-1, 2), (0, 2048), (0, -4)])
def test_a_request_without_sense_has_no_answer(part: int, parts: int) -> None:
    local = Local(A)
    local.it.on_request(0.0, A, PresenceRequest(part, parts))
    assert local.sent() == []


def test_answers_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_exchange, "ANSWER_BURST", 10 * 1100)
    local = Local(A)
    for _ in range(100):
        local.it.on_request(0.0, A, PresenceRequest(0, 1))
    assert 10 <= len(local.sent()) <= 12


# In the engine


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presences are handed on among a few nodes, too."""
    monkeypatch.setattr(presence_exchange, "STRETCH_FROM", 0)


def digest(presences: int) -> FeedDigest:
    return FeedDigest(b"other", None, presences=presences)


def hand_on(net: Network, *kept: KeptPresence) -> bool:
    """Let a neighbour (A) state that it has presences, and hand these on when it is asked."""
    net[0].neighbour_up(net.now, A)
    net.give(0, digest(100), origin=A)
    net[0].tick(net.now)
    drained = net[0].drain(net.now)
    requests: list[Any] = [
        unpack(each.type, each.payload)
        for each in drained.messages
        if each.type == "presence_request"
    ]
    return net.give(0, PresencePart(0, requests[0].parts, list(kept)), origin=A)


def test_a_newcomer_shows_an_order_before_its_owner_renews_its_presence(small: None) -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.settle()
    net.restart(2)
    # No presence comes by broadcast, and nothing of the owner itself.
    net.on_mail = lambda mail: [] if mail.type == "presence" or mail.sender == 0 else [mail]
    net.run(6.0)
    assert net.id(0) in net[2].present
    assert [level[:2] for level in net.book(2)] == [(-1, 100)]


def test_a_claim_of_more_time_does_not_prolong_the_signed_lease(small: None) -> None:
    net = Network(1)
    assert hand_on(net, KeptPresence(10**9, signed(50, lease_ms=4000)))
    net.run(4.1)
    assert net[0].present == []


def test_a_forged_presence_is_invalid(small: None) -> None:
    net = Network(1)
    forged = msgspec.structs.replace(signed(50), lease=60_000)
    assert not hand_on(net, KeptPresence(60_000, forged))
    assert net[0].present == []


def test_presences_are_passed_on_again_with_the_rest_of_their_lease(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "RENEWALS_PER_LEASE", 1)
    net = Network(1)
    hand_on(net, KeptPresence(5000, signed(50, lease_ms=60_000)))
    net.run(2.0)
    net[0].drain(net.now)
    net.give(0, PresenceRequest(0, 1), origin=A)
    (answer,) = [
        unpack(each.type, each.payload)
        for each in net[0].drain(net.now).messages
        if each.type == "presences"
    ]
    assert isinstance(answer, PresencePart)
    assert [kept.left for kept in answer.kept] == [pytest.approx(3000, abs=2)]
