"""Budgets of links, networks and origins, and what happens beyond them."""

from __future__ import annotations

import random

import pytest
from router_kit import Host
from seeds import cases
from virtual_mesh import anyone, identity

from p2p.base.errors import Code, RemoteProtocolError
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    DIRECT_COST,
    DUPLICATE_COST,
    FAIR_BURST,
    FAIR_RATE,
    LINK_BURST,
    LINK_RATE,
    NETWORK_BURST,
    NETWORK_RATE,
    ORIGINS_BURST,
    ORIGINS_RATE,
    PER_BYTE,
    STRIKES_BURST,
    MessageBudgets,
    Passing,
)
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import broadcast_id
from p2p.wire.messages import EVERYONE, Codec, Envelope, RefusedMessages, pack

ME, PEER, OTHER = identity(0), identity(1).node_id, identity(2).node_id


def router(host: Host | None = None, **link) -> MessageRouter:
    made = MessageRouter(ME, rng=random.Random(1), wall_ms=lambda: 0, fragile=True, host=host)
    made.handle("cheap", lambda received: True, origin=anyone)
    made.handle("dear", lambda received: True, origin=anyone, cost=100_000.0)
    made.handle("batch", lambda received: True, origin=anyone, useful=True)
    made.link_up(0.0, PEER, **link)
    made.take_outgoing()
    return made


def direct(kind: str, size: int = 10) -> Envelope:
    return Envelope(kind, PEER, ME.node_id, 0, pack(b"x" * size))


def broadcast(number: int, origin: str = OTHER, kind: str = "batch") -> Envelope:
    payload = pack(number)
    return Envelope(kind, origin, EVERYONE, 0, payload, broadcast_id(kind, origin, payload))


def notices(made: MessageRouter) -> list[RefusedMessages]:
    sent = [out.envelope for out in made.take_outgoing()]
    return [Codec().payload("refused", e.payload) for e in sent if e.type == "refused"]


def test_a_busy_honest_link_never_meets_its_budget():
    made = router()
    number = 0
    for step in range(cases(600)):  # 2,000 unbatched events a second, and as many messages besides
        now = step * 0.05
        for _ in range(100):
            number += 1
            made.receive(now, PEER, broadcast(number))
            made.receive(now, PEER, direct("cheap", 200))
    assert made.counters["over_budget"] == 0
    assert made.budgets.counters["origin"] == 0
    assert made.counters["broadcasts_delivered"] == number


def test_messages_beyond_the_budget_are_dropped_with_one_notice_a_second():
    made = router(notices=True)
    for _ in range(100):
        made.receive(1.0, PEER, direct("dear"))
    allowed = int(LINK_BURST // 100_000.0)
    assert made.counters["delivered"] == allowed - 1  # its bytes cost a little, too
    (notice,) = notices(made)
    assert (notice.message_type, notice.scope, notice.count) == ("dear", "link", 1)
    assert "budget of your link" in notice.reason
    made.receive(1.5, PEER, direct("dear"))
    assert notices(made) == []
    for _ in range(10):
        made.receive(2.5, PEER, direct("dear"))
    assert len(notices(made)) == 1
    assert made.budgets.figures()[PEER][1] == made.counters["over_budget"]


def test_a_peer_of_an_earlier_version_gets_no_notice():
    made = router()
    for _ in range(100):
        made.receive(1.0, PEER, direct("dear"))
    assert made.counters["over_budget"]
    assert made.take_outgoing() == []


def test_a_link_that_goes_on_beyond_its_budget_ends_with_abuse():
    made = router()

    def flood() -> None:
        for _ in range(int(STRIKES_BURST) + 1000):
            made.receive(1.0, PEER, direct("dear"))

    with pytest.raises(RemoteProtocolError, match="budget") as caught:
        flood()
    assert caught.value.code is Code.ABUSE
    assert made.budgets.counters["abuse"] == 1


def test_a_pinned_peer_has_no_budget():
    made = router(exempt=True)
    for _ in range(5000):
        made.receive(1.0, PEER, direct("dear"))
    assert made.counters["delivered"] == 5000


def test_an_origin_beyond_its_budget_is_not_the_fault_of_its_relay():
    made = router()
    for number in range(40_000):
        made.receive(number * 1e-4, PEER, broadcast(number))  # 10,000 a second of one origin
    assert made.budgets.counters["origin"] > 0
    assert made.budgets.counters["link"] > 0  # dropped without a look at their signatures
    assert made.budgets.counters["abuse"] == 0
    made.receive(10.0, PEER, broadcast(1, identity(3).node_id))
    delivered = made.counters["broadcasts_delivered"]
    made.receive(10.0, PEER, broadcast(2, identity(3).node_id))
    assert made.counters["broadcasts_delivered"] == delivered + 1


def test_all_links_of_a_network_share_a_budget_and_local_ones_do_not():
    budgets = MessageBudgets()
    for n in range(50):
        budgets.link_up(0.0, f"n{n}", f"60.1.{n}.1")
        budgets.link_up(0.0, f"l{n}", "127.0.0.1")
    for step in range(100):
        for n in range(50):
            budgets.charge(step * 0.1, f"n{n}", "x", 0, LINK_RATE * 0.05)
            budgets.charge(step * 0.1, f"l{n}", "x", 0, LINK_RATE * 0.05)
    passed = 5000 * LINK_RATE * 0.05 - budgets.counters["network"] * LINK_RATE * 0.05
    assert passed <= NETWORK_RATE * 10 + NETWORK_BURST
    assert budgets.counters["link"] == 0
    for n in range(50):
        budgets.link_down(f"n{n}")
    assert budgets._networks == {}


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_copies_are_cheap_and_do_not_use_up_the_budget_but_their_bytes_count(size: int):
    made = router()
    copy = broadcast(1)
    made.receive(0.0, PEER, copy)
    spent = made.budgets.figures()[PEER][0]
    copy.payload = bytes(size)  # a known id, whatever follows
    for _ in range(20):
        made.receive(0.0, PEER, copy)
    charged = made.budgets.figures()[PEER][0] - spent
    assert charged == pytest.approx(20 * (DUPLICATE_COST + PER_BYTE * size))


def test_a_byte_that_came_as_json_costs_more_to_translate():
    spent = []
    for as_json in (False, True):
        made = router()
        sent = Codec().encode(direct("cheap", 1000), as_json=as_json)
        made.receive(0.0, PEER, Codec().decode(sent))
        spent.append(made.budgets.figures()[PEER][0] - DIRECT_COST)
    assert spent[1] > 9 * spent[0] > 9 * 1000 * PER_BYTE


def test_first_deliveries_of_useful_types_speak_for_the_peer():
    host = Host()
    made = router(host)
    made.link_up(0.0, OTHER)
    made.receive(0.0, PEER, broadcast(1, identity(3).node_id))
    made.receive(0.0, OTHER, broadcast(1, identity(3).node_id))
    made.receive(0.0, OTHER, broadcast(2, identity(3).node_id, "cheap"))
    assert host.useful == [PEER]


def test_all_origins_share_a_budget_and_each_may_always_send_a_little():
    budgets = MessageBudgets()
    crowd = [f"crowd {n}" for n in range(50)]
    passed = quiet = 0
    for step in range(
        1000
    ):  # ten seconds of 50 identities that send all they can, through any links
        now = step * 0.01
        for origin in crowd:
            verdicts = [budgets.charge_origin(now, origin, "order", 0) for _ in range(4)]
            passed += sum(verdict is not Passing.NOT for verdict in verdicts)
        if step % 20 == 0:
            quiet += budgets.charge_origin(now, "quiet", "order", 0) is Passing.FIRST
    seconds = passed * BROADCAST_COST / 1e6
    allowed = 10 * ORIGINS_RATE + ORIGINS_BURST + 50 * (10 * FAIR_RATE + FAIR_BURST)
    assert seconds <= allowed / 1e6
    assert quiet == 50
    assert budgets.counters["origins"] > 0


@pytest.mark.parametrize(("kind", "each"), [("ihave", 2.0), ("graft", 4.0)])
def test_announcements_and_pulls_are_charged_by_the_id(kind: str, each: float) -> None:
    made = router()
    body = pack({"ids": [number.to_bytes(16, "big") for number in range(1000)]})
    made.receive(1.0, PEER, Envelope(kind, PEER, ME.node_id, 0, body))
    spent, refused = made.budgets.figures()[PEER]
    assert 1000 * each < spent < 3000 * each
    assert refused == 0


def test_each_refused_message_is_counted_once() -> None:
    budgets = MessageBudgets()
    budgets.link_up(0.0, "a")
    assert budgets.charge(0.0, "a", "any", 0, LINK_BURST) is None
    for _ in range(3):
        assert budgets.charge(0.0, "a", "any", 0, 10.0) == "link"
    assert budgets.counters["link"] == 3
    assert budgets.figures()["a"] == (LINK_BURST + 30.0, 3)
