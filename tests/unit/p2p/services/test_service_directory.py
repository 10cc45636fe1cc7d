"""The directory of services: who offers what, by signed announcements."""

from __future__ import annotations

import msgspec
import pytest
from virtual_mesh import identity

from p2p.services.service_directory import (
    ANSWER_WITHIN,
    LEAST_GAP,
    MAX_SERVICES,
    ServiceAnnouncement,
    ServiceDirectory,
)
from p2p.wire.messages import pack


def directory(number: int, *offers: str, incarnation: int = 1, network: str = "net", interval=5.0):
    made = ServiceDirectory(identity(number), network, incarnation=incarnation, interval=interval)
    for name in offers:
        made.offer(name)
    return made


ID = [identity(n).node_id for n in range(4)]


def tell(sender: ServiceDirectory, *receivers: ServiceDirectory, now: float = 0.0) -> bytes:
    payload = sender.due(now)
    assert payload is not None
    for receiver in receivers:
        assert receiver.receive(now, payload, 0.5) is True
    return payload


def test_an_announced_service_has_its_providers_in_order_and_oneself_among_them():
    me, a, b = directory(0, "jobs"), directory(1, "jobs", "book"), directory(2, "book")
    tell(a, me)
    tell(b, me)
    assert me.providers("jobs") == tuple(sorted([ID[0], ID[1]]))
    assert me.providers("book") == tuple(sorted([ID[1], ID[2]]))
    assert me.providers("nothing") == ()
    assert me.services() == {"book": me.providers("book"), "jobs": me.providers("jobs")}


def test_offers_are_announced_at_once_and_then_every_interval():
    a = directory(1, "jobs")
    assert a.due(0.0) is not None
    assert a.due(4.9) is None
    assert a.due(5.0) is not None
    a.offer("more")
    assert a.due(5.0) is not None
    assert a.due(5.1) is None


def test_intervals_and_leases_grow_with_the_providers_of_a_large_network(monkeypatch):
    monkeypatch.setattr("p2p.services.service_directory.STRETCH_FROM", 1)
    monkeypatch.setattr("p2p.services.service_directory.ANSWER_UP_TO", 1)
    me, a, b = directory(0, "jobs"), directory(1, "jobs"), directory(2, "jobs")
    me.due(0.0)
    tell(a, me, now=1.0)
    assert me.due(2.0) is not None  # an answer
    tell(b, me, now=3.0)
    assert me.due(6.9) is None
    payload = me.due(7.0)
    assert payload is not None
    assert msgspec.msgpack.decode(payload, type=ServiceAnnouncement).lease == 35_000
    assert me.due(16.9) is None
    assert me.due(17.0) is not None


def test_a_node_without_services_sends_only_a_withdrawal():
    a, me = directory(1), directory(0)
    assert a.due(100.0) is None
    a.offer("jobs")
    tell(a, me, now=100.0)
    a.withdraw("jobs")
    tell(a, me, now=101.0)
    assert me.providers("jobs") == ()
    assert a.due(200.0) is None


def test_a_lease_runs_out_by_the_receivers_clock_after_three_and_a_half_intervals():
    me, a = directory(0), directory(1, "jobs", interval=2.0)
    tell(a, me, now=50.0)
    assert me.expire(56.9) == []
    assert me.providers("jobs") == (ID[1],)
    assert me.expire(57.0) == [ID[1]]
    assert me.providers("jobs") == ()


def test_a_goodbye_counts_at_once_and_an_older_announcement_does_not_undo_it():
    me, a = directory(0), directory(1, "jobs")
    early = a.due(0.0)
    late = a.due(5.0)
    goodbye = a.leave(6.0)
    assert a.due(100.0) is None
    assert me.receive(6.0, early, 0.5) is True
    assert me.receive(6.0, goodbye, 0.5) is True
    assert me.providers("jobs") == ()
    assert me.expire(6.0) == [ID[1]]
    assert me.receive(6.1, late, 0.5) is True  # valid, and overtaken
    assert me.providers("jobs") == ()
    assert me.expire(6.1) == []


def test_a_provider_whose_link_broke_is_called_only_without_others():
    me, a, b = directory(0), directory(1, "jobs"), directory(2, "jobs")
    tell(a, me)
    tell(b, me)
    me.lost(ID[1])
    assert me.providers("jobs") == (ID[2],)
    me.lost(ID[2])
    assert me.providers("jobs") == tuple(sorted([ID[1], ID[2]]))
    me.linked(ID[2])
    assert me.providers("jobs") == (ID[2],)
    tell(a, me, now=5.0)
    assert me.providers("jobs") == tuple(sorted([ID[1], ID[2]]))


def test_a_restarted_node_is_believed_again_though_its_counter_begins_anew():
    me, a = directory(0), directory(1, "jobs", incarnation=1)
    for now in (0.0, 5.0, 10.0):
        tell(a, me, now=now)
    again = directory(1, "other", incarnation=2)
    tell(again, me, now=11.0)
    assert me.providers("jobs") == ()
    assert me.providers("other") == (ID[1],)


def test_newcomers_are_answered_within_half_a_second_but_not_twice_a_second():
    me, a, b = directory(0, "mine"), directory(1, "jobs"), directory(2, "jobs")
    assert me.due(0.0) is not None
    tell(a, me, now=2.0)
    assert me.due(2.0 + 0.5 * ANSWER_WITHIN - 0.01) is None
    assert me.due(2.0 + 0.5 * ANSWER_WITHIN) is not None
    tell(b, me, now=2.3)
    assert me.due(2.3 + ANSWER_WITHIN) is None
    assert me.due(2.25 + LEAST_GAP) is not None
    tell(a, me, now=20.0)  # known already
    me.due(20.0)
    assert me.due(21.5) is None


def test_an_announcement_of_another_network_or_another_key_or_changed_is_refused():
    me = directory(0)
    good = directory(1, "jobs").due(0.0)
    assert good is not None
    assert directory(0, network="other").receive(0.0, good, 0.5) is False
    said = msgspec.msgpack.decode(good, type=ServiceAnnouncement)
    forged = [
        msgspec.structs.replace(said, services=["jobs", "more"]),
        msgspec.structs.replace(said, lease=said.lease + 1),
        msgspec.structs.replace(said, counter=9),
        msgspec.structs.replace(said, incarnation=9),
        msgspec.structs.replace(said, key=identity(2).public_key),
        msgspec.structs.replace(said, signature=b""),
    ]
    for wrong in forged:
        assert me.receive(0.0, pack(wrong), 0.5) is False
    assert me.receive(0.0, b"\xc1", 0.5) is False
    assert me.receive(0.0, good[:-1], 0.5) is False
    assert me.providers("jobs") == ()
    assert me.receive(0.0, good, 0.5) is True


@pytest.mark.parametrize(
    "services", [["a b"], [""], ["x" * 65], ["é"], [str(n) for n in range(65)]]
)
def test_names_that_cannot_be_are_refused_though_they_are_signed(services, monkeypatch):
    liar = directory(1)
    liar._own = set(services)
    liar._said_something = True
    payload = liar._announce(0.0)
    assert directory(0).receive(0.0, payload, 0.5) is False


def test_an_origin_that_announces_all_the_time_is_not_passed_on():
    me, a = directory(0), directory(1)
    verdicts = []
    for n in range(30):
        a.offer(f"service-{n}")
        verdicts.append(me.receive(0.0, a.due(0.0), 0.5))
    assert verdicts == [True] * 24 + [None] * 6
    assert me.providers("service-23") == (ID[1],)
    assert me.providers("service-24") == ()


def test_the_shortest_interval_that_can_be_set_is_not_too_much():
    me, a = directory(0), directory(1, "jobs", interval=0.1)
    for tick in range(3000):
        payload = a.due(tick / 100)
        if payload is not None:
            assert me.receive(tick / 100, payload, 0.5) is True
        assert me.expire(tick / 100) == []
    assert me.providers("jobs") == (ID[1],)


def test_a_node_offers_so_many_services_and_no_more():
    a = directory(1)
    for n in range(MAX_SERVICES):
        a.offer(f"service-{n}")
    a.offer("service-0")
    with pytest.raises(ValueError, match="at most 64"):
        a.offer("one too many")
    with pytest.raises(ValueError, match="invalid service name"):
        directory(1).offer("a b")


def test_ones_own_announcement_coming_back_changes_nothing():
    a = directory(1, "jobs")
    payload = a.due(0.0)
    a.withdraw("jobs")
    assert a.receive(1.0, payload, 0.5) is True
    assert a.providers("jobs") == ()


def test_a_full_directory_takes_newcomers_and_gives_up_the_oldest_but_those_in_use(monkeypatch):
    monkeypatch.setattr("p2p.services.service_directory.MAX_PROVIDERS", 3)
    me = ServiceDirectory(identity(0), "net", incarnation=1, kept=lambda node: node == ID[1])
    others = [directory(n, "jobs") for n in range(1, 6)]
    for other in others:
        tell(other, me)
    assert set(me.providers("jobs")) == {identity(n).node_id for n in (1, 4, 5)}
    assert set(me.expire(0.0)) == {ID[2], ID[3]}
    tell(others[3], me, now=5.0)  # renewed, so the next one is older
    tell(others[1], me, now=5.0)
    assert set(me.providers("jobs")) == {identity(n).node_id for n in (1, 2, 4)}


def test_a_long_lease_is_cut_to_a_few_own_ones_among_many_providers(monkeypatch):
    monkeypatch.setattr("p2p.services.service_directory.ANSWER_UP_TO", 0)
    me, stranger = directory(0), directory(1, "jobs", interval=3600.0)
    tell(stranger, me)
    assert me.expire(69.9) == []
    assert me.expire(70.0) == [ID[1]]
