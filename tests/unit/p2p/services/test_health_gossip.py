"""Hints as signed messages."""

from __future__ import annotations

import msgspec
import pytest
from virtual_mesh import identity

from p2p.adaptive import DEGRADED, HEALTHY, Hint
from p2p.services.health_gossip import MAX_HINTS, HealthGossip, HintMessage
from p2p.wire.messages import pack

ID = [identity(n).node_id for n in range(5)]


def exchange(number: int, *, incarnation: int = 1, network: str = "net") -> HealthGossip:
    return HealthGossip(identity(number), network, incarnation=incarnation)


def hint(number: int, signal=DEGRADED) -> Hint:
    return Hint(ID[number], signal, 0.25, 0.5, "why")


class Taken(list):
    def __call__(self, *hint: object) -> None:
        self.append(hint)


def test_hints_arrive_with_their_origin_and_their_time_of_arrival():
    taken = Taken()
    payload = exchange(1).publish([hint(2), hint(3, HEALTHY)])
    assert exchange(0).receive(77.0, payload, taken) is True
    assert taken == [
        (77.0, ID[1], ID[2], DEGRADED, 0.25, 0.5),
        (77.0, ID[1], ID[3], HEALTHY, 0.25, 0.5),
    ]


def test_no_news_makes_no_message():
    assert exchange(1).publish([]) is None
    assert exchange(1).publish([hint(1)]) is None  # about oneself


def test_hints_about_oneself_the_receiver_or_no_node_are_no_evidence():
    taken = Taken()
    liar = exchange(1)
    liar.node_id = "somebody else"  # so that it speaks of itself
    unreadable = Hint("\x1b[2J" * 8, DEGRADED, 0.25, 0.5, "why")
    payload = liar.publish([hint(1, HEALTHY), hint(0), hint(2), unreadable])
    assert exchange(0).receive(0.0, payload, taken) is True
    assert [peer for _, _, peer, *_ in taken] == [ID[2]]


def test_a_message_played_again_later_is_not_a_new_hint():
    taken = Taken()
    me, a = exchange(0), exchange(1)
    first = a.publish([hint(2)])
    assert me.receive(0.0, first, taken) is True
    assert me.receive(10_000.0, first, taken) is True
    assert me.receive(10_000.0, a.publish([hint(2)]), taken) is True
    assert len(taken) == 2


def test_messages_beyond_an_origins_rate_are_neither_accepted_nor_passed_on():
    taken = Taken()
    me, a = exchange(0), exchange(1)
    verdicts = [me.receive(0.0, a.publish([hint(2)]), taken) for _ in range(7)]
    assert verdicts == [True] * 5 + [None] * 2
    assert len(taken) == 5


def test_the_bad_news_goes_first_when_there_is_too_much_to_say():
    taken = Taken()
    letters = str.maketrans("0189", "abcd")
    many = [Hint(f"{n:032}".translate(letters), HEALTHY, 0.0, 0.0, "") for n in range(MAX_HINTS)]
    payload = exchange(1).publish([*many, hint(2)])
    exchange(0).receive(0.0, payload, taken)
    assert len(taken) == MAX_HINTS
    assert taken[0][2:4] == (ID[2], DEGRADED)


@pytest.mark.parametrize(
    "change",
    [
        {"counter": 9},
        {"incarnation": 9},
        {"key": identity(2).public_key},
        {"signature": b""},
        {"hints": []},
    ],
)
def test_a_changed_message_is_refused(change):
    taken = Taken()
    said = msgspec.msgpack.decode(exchange(1).publish([hint(2)]), type=HintMessage)
    wrong = pack(msgspec.structs.replace(said, **change))
    assert exchange(0).receive(0.0, wrong, taken) is False
    assert taken == []


@pytest.mark.parametrize(
    "wrong",
    [
        Hint("short", DEGRADED, 0.0, 0.0, ""),
        Hint(ID[2], DEGRADED, float("inf"), 0.0, ""),
        Hint(ID[2], DEGRADED, float("nan"), 0.0, ""),
        Hint(ID[2], DEGRADED, -1.0, 0.0, ""),
        Hint(ID[2], DEGRADED, 0.0, 1.5, ""),
    ],
)
def test_figures_that_cannot_be_are_refused_though_they_are_signed(wrong):
    taken = Taken()
    payload = exchange(1).publish([wrong])
    assert exchange(0).receive(0.0, payload, taken) is False
    assert taken == []


def test_another_network_and_garbage_are_refused():
    taken = Taken()
    payload = exchange(1).publish([hint(2)])
    assert exchange(0, network="other").receive(0.0, payload, taken) is False
    assert exchange(0).receive(0.0, b"\x93\x01", taken) is False
    assert taken == []
