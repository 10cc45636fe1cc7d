"""Leases: an owner's orders are shown while its presence is fresh, by one's own clock alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Network, Owner

from exchange.feeds import presence as presence_module
from exchange.feeds.exchange_messages import MAX_PRESENCE, Presence, pack
from exchange.feeds.presence import MAX_HEADS, MAX_LEASE_MS, PresenceLeases
from exchange.model.events import SELL, Opened

replace = msgspec.structs.replace
ALICE = Keys(1)
LEASE = 9000


def leases(
    seed: int, incarnation: int = 1, lease_ms: int = 9000, network: str = NETWORK
) -> PresenceLeases:
    return PresenceLeases(Keys(seed), network, incarnation=incarnation, lease_ms=lease_ms)


def test_a_late_copy_does_not_prolong_a_lease_nor_revive_it() -> None:
    alice, bob = leases(1), leases(2)
    one, two = alice.make(0.0, []), alice.make(3.0, [])
    bob.accept(3.0, two)
    for late in (one, two):
        assert bob.accept(9.0, late) == (True, ALICE.node_id, False)
    assert bob.expire(12.0) == [ALICE.node_id]
    for late in (one, two):
        assert bob.accept(13.0, late) == (True, ALICE.node_id, False)
    assert not bob.present(ALICE.node_id)


def test_a_newcomer_was_not_present_before_and_a_later_presence_wins() -> None:
    alice, again, bob = leases(1), leases(1, incarnation=2), leases(2)
    assert bob.accept(500.0, alice.make(0.0, [])) == (True, ALICE.node_id, True)
    assert (bob.owners, bob.until(ALICE.node_id)) == ([ALICE.node_id], 509.0)
    assert bob.accept(501.0, alice.make(1.0, [])) == (True, ALICE.node_id, False)
    assert [bob.expire(now) for now in (509.9, 510.0, 510.0)] == [[], [ALICE.node_id], []]
    assert bob.accept(511.0, alice.make(11.0, []), least_absence=2.0) == (
        True,
        ALICE.node_id,
        False,
    )
    assert not bob.present(ALICE.node_id)
    assert bob.accept(512.0, alice.make(12.0, []), left=4.0) == (True, ALICE.node_id, True)
    assert bob.until(ALICE.node_id) == 516.0
    late, goodbye = alice.make(13.0, []), alice.make(13.0, [], leaving=True)
    assert bob.accept(513.0, again.make(13.0, [])) == (True, ALICE.node_id, True)
    for old in (late, goodbye):  # of the incarnation before
        assert bob.accept(514.0, old) == (True, ALICE.node_id, False)
        assert bob.present(ALICE.node_id)


def test_renewal_is_due_three_times_a_lease_and_hurried_at_most_once_a_second() -> None:
    alice = leases(1, lease_ms=9000)
    assert alice.renewal_due(0.0)
    alice.make(10.0, [])
    assert [alice.renewal_due(now) for now in (12.9, 13.0)] == [False, True]
    for at, delay, due in ((10.2, 0.0, 11.0), (10.1, 30.0, 11.0), (12.5, 0.25, 11.0)):
        alice.hurry(at, delay)
        assert alice.next_renewal == due
    alice.make(11.0, [])
    alice.hurry(12.5, 0.25)
    assert alice.next_renewal == 12.75


def test_a_goodbye_of_an_unknown_owner_is_valid() -> None:
    assert leases(2).accept(0.0, leases(1).make(0.0, [], leaving=True)) == (
        True,
        ALICE.node_id,
        False,
    )


@pytest.mark.parametrize(
    "altered",
    [
        {"incarnation": 2},
        {"counter": 9},
        {"lease": 9001},
        {"lease": 0},
        {"heads": [(M, 4)]},
        {"heads": []},
        {"signature": b"\x01" * 64},
        {"signature": b""},
        {"key": Keys(3).public_key},
        {"key": b""},
        {"key": b"\x01" * 33},
        {"lease": -1},
        {"lease": MAX_LEASE_MS + 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("known", [False, True])
def test_a_presence_altered_in_one_field_is_refused(altered: dict[str, Any], known: bool) -> None:
    """Also when one as new is known already: what is called valid is passed on."""
    alice, bob = leases(1), leases(2)
    made = alice.make(0.0, [(M, 3)])
    if known:
        bob.accept(0.0, made)
        bob.accept(0.0, alice.make(0.0, []))
    forged = replace(made, **altered)
    valid, _, newcomer = bob.accept(1.0, forged)
    assert (valid, newcomer) == (False, False)
    assert bob.present(ALICE.node_id) is known
    assert bob.expire(9.0) == ([ALICE.node_id] if known else [])


def signed(presence: Presence, seed: int = 1) -> Presence:
    digest = presence_module._signed(NETWORK, presence)
    return replace(presence, signature=Keys(seed).sign(digest))


@pytest.mark.parametrize(
    ("lease", "heads", "valid"),
    [
        (MAX_LEASE_MS, 0, True),
        (MAX_LEASE_MS + 1, 0, False),
        (-1, 0, False),
        (1, MAX_HEADS, True),
        (1, MAX_HEADS + 1, False),
    ],
)
def test_the_limits_bind_the_owner_too(lease: int, heads: int, valid: bool) -> None:
    made = Presence(ALICE.public_key, 1, 1, lease, [(f"m{i}", 1) for i in range(heads)])
    assert leases(2).accept(0.0, signed(made))[0] is valid


def test_an_own_presence_that_comes_back_is_nothing() -> None:
    alice = leases(1)
    made = alice.make(0.0, [])
    assert alice.accept(0.0, made) == (True, ALICE.node_id, False)
    assert not alice.present(ALICE.node_id)
    assert not alice.accept(0.0, replace(made, counter=5))[0]


def test_beyond_the_bound_owners_without_presence_for_long_make_room_those_with_orders_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "MAX_KNOWN", 3)
    ids = [Keys(seed).node_id for seed in range(9)]
    owners = [leases(seed) for seed in range(9)]
    orders = {ids[1]: 5}
    bob = PresenceLeases(
        Keys(9), NETWORK, incarnation=1, lease_ms=9000, orders=lambda owner: orders.get(owner, 0)
    )
    for seed in (1, 2, 3, 2, 4, 5):  # 3 makes room, then 2
        assert bob.accept(0.0, owners[seed].make(0.0, []))[0]
        assert len(bob._known) <= 3
    assert set(bob._known) == {ids[1], ids[4], ids[5]}
    assert bob.expire(0.0) == sorted([ids[2], ids[3]])
    assert bob.owners == sorted([ids[1], ids[4], ids[5]])
    for now in range(20, 200, 20):  # leases end, and owners return
        bob.expire(now)
        for seed in range(2, 9):
            assert bob.accept(now, owners[seed].make(now, []), least_absence=1.0)[2]
    assert bob.present(ids[8])
    assert not {*bob._ended, *bob._returns} - set(bob._known)
    orders.update(dict.fromkeys(ids, 1))  # strangers with orders do not lock newcomers out
    assert bob.accept(200.0, leases(10).make(0.0, []))[2]


# On a whole node


def test_leases_grow_with_the_owners_of_a_large_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "STRETCH_FROM", 4)
    alice = leases(1)
    for seed in range(2, 6):
        alice.accept(0.0, leases(seed).make(0.0, []))
    assert alice.make(0.0, []).lease == 9000
    for seed in range(6, 10):
        alice.accept(0.0, leases(seed).make(0.0, []))
    assert alice.make(1.0, []).lease == 18_000
    assert alice.next_renewal == 7.0
    assert alice.make(1.0, [], leaving=True).lease == 0
    alice.expire(100.0)
    assert alice.make(100.0, []).lease == 9000


def test_presences_alone_make_no_lease_longer_of_an_owner_with_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those with orders do, and orders that are placed later bring the next presence forward."""
    monkeypatch.setattr(presence_module, "STRETCH_FROM", 1)
    net = Network(1)
    for seed in range(20, 24):
        assert net.give(0, leases(seed, lease_ms=600_000).make(0.0, []))
    own = net[0]._leases
    assert own.own_lease_ms == 4 * LEASE
    own.make(at := net.now + 100.0, [])
    assert own.next_renewal == at + 4 * LEASE / 3000
    net.sell(0, 100, 5)
    assert own.own_lease_ms == LEASE
    clock = own.own_clock[1]
    for count in range(1, 4):
        assert own.next_renewal == at + count * LEASE / 3000
        own.make(own.next_renewal, [])
        assert own.own_clock[1] == clock + count  # takes end in time
    for seed in range(20, 23):
        assert net.give(0, Owner(seed).batch(Opened(1, SELL, 100, 5, 1)))
    assert own.own_lease_ms == 3 * LEASE


def test_a_newcomer_is_answered_in_a_network_of_few_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "ANSWER_UP_TO", 1)
    alice = leases(1)
    alice.make(0.0, [])
    alice.accept(0.0, leases(2).make(0.0, []))
    alice.answer_newcomer(1.2, 0.1)
    assert alice.next_renewal == pytest.approx(1.3)
    alice.make(1.3, [])
    alice.accept(2.0, leases(3).make(0.0, []))
    alice.answer_newcomer(2.0, 0.1)
    assert alice.next_renewal == pytest.approx(4.3)


def two_with_an_ask() -> Network:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    assert net.book(1) == [(-1, 100, 0, 1, 5)]
    return net


LONGEST = "ABCDEF-BCDEFGHIJKLM@999999.000000000001/999999.000000000001"  # after six more letters


@pytest.mark.parametrize(
    ("heads", "more", "verdict"),
    [
        ([(f"{n:06}{LONGEST}", 2**62) for n in range(MAX_HEADS)], b"", True),
        ([("x" * 80, 1)], b"", True),
        ([("x" * 81, 1)], b"", None),
        ([], bytes(MAX_PRESENCE), None),  # in a field that is not signed
    ],
)
def test_a_presence_that_is_too_long_is_not_passed_on_and_nobody_s_fault(
    heads: list[tuple[str, int]], more: bytes, verdict: bool | None
) -> None:
    made = leases(50).make(0.0, heads)
    payload = pack({**msgspec.to_builtins(made, builtin_types=(bytes,)), "more": more})
    net = Network(1)
    assert net[0].receive(net.now, "presence", payload, "", "") is verdict


def test_a_goodbye_hides_at_once() -> None:
    net = two_with_an_ask()
    net[0].leave(net.now)
    net.round()
    assert net.book(1) == []
    assert net.book(0) == [(-1, 100, 0, 1, 5)]
