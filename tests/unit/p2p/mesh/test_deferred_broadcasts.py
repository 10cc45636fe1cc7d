"""Broadcasts of origins that send much are handled after the messages that arrived with them."""

from __future__ import annotations

import pytest
from router_kit import Host, Inbox, make, news, node
from virtual_mesh import NEWS

from p2p.base.errors import RemoteProtocolError
from p2p.mesh import message_budget
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    ENTRY_OVERHEAD,
    FAIR_BURST,
    FAIR_RATE,
    DeferredBroadcast,
    DeferredBroadcasts,
)
from p2p.mesh.message_router import MessageRouter
from p2p.wire.messages import pack

AT_ONCE = int(FAIR_BURST / BROADCAST_COST) - 1  # of one origin; bytes cost a little, too


class Deferring:
    """A router of a node with links to 1, 2 and 3, and the links and origins that it put off."""

    def __init__(self, **overrides: float) -> None:
        host = Host()
        self.router: MessageRouter = make(host=host, **overrides)
        self.inbox = Inbox(self.router, NEWS)
        self.asked = host.deferred
        for number in (1, 2, 3):
            self.router.link_up(0.0, node(number))

    def flood(self, count: int, *, origin: int = 9, link: int = 1, first: int = 0) -> None:
        for number in range(first, first + count):
            self.router.receive(0.0, node(link), news(origin, pack(number)))

    def handled(self, origin: int = 9) -> list[bytes]:
        return [item.payload for item in self.inbox.received if item.origin == node(origin)]

    def work_off(self, now: float = 0.1) -> None:
        for link, origin in self.asked:
            while self.router.has_deferred(link, origin):
                self.router.handle_deferred(now, link, origin)
        self.asked.clear()


class TestRouter:
    def test_a_quiet_origin_is_handled_before_a_flood_that_came_first_on_the_same_link(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        made.router.receive(0.0, node(1), news(8, pack("quiet")))
        assert made.handled(8) == [pack("quiet")]
        assert AT_ONCE - 10 <= len(made.handled(9)) < AT_ONCE + 40
        assert made.asked == [(node(1), node(9))]

    def test_all_that_was_put_off_is_handled_in_order_and_passed_on(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        made.router.take_outgoing()
        before = len(made.handled())
        assert made.router.counters["deferred"] == len(made.router.budgets.deferred)
        assert len(made.router.budgets.deferred) == AT_ONCE + 40 - before
        made.work_off()
        assert made.handled() == [pack(number) for number in range(AT_ONCE + 40)]
        passed_on = [out for out in made.router.take_outgoing() if out.envelope.type == NEWS]
        assert len(passed_on) == AT_ONCE + 40 - before
        assert {out.peers for out in passed_on} == {(node(2), node(3))}
        assert {out.envelope.hops for out in passed_on} == {1}
        assert made.router.budgets.deferred.bytes == 0

    def test_an_origin_that_was_put_off_waits_on_although_it_may_send_again(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        later = 40 * BROADCAST_COST / FAIR_RATE
        made.router.receive(later, node(2), news(9, pack("after")))
        assert pack("after") not in made.handled()
        made.work_off(later)
        assert made.handled()[-1] == pack("after")
        made.router.receive(2 * later, node(2), news(9, pack("at once")))
        assert made.handled()[-1] == pack("at once")

    def test_a_copy_of_what_waits_is_a_duplicate_and_is_not_sent_back_to_its_link(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        made.router.take_outgoing()
        last = news(9, pack(AT_ONCE + 39))
        made.router.receive(0.05, node(2), last)
        assert made.router.gossip.counters["duplicates"] == 1
        made.work_off()
        assert made.handled().count(pack(AT_ONCE + 39)) == 1
        sent = [
            out.peers for out in made.router.take_outgoing() if out.envelope.payload == last.payload
        ]
        assert sent == [(node(3),)]

    def test_deferred_messages_are_not_pulled_when_announced(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        last = news(9, pack(AT_ONCE + 39))
        made.router.gossip.on_announcement(0.0, node(2), [last.id or b""])
        assert made.router.gossip.missing == 0

    def test_a_pull_ends_when_its_broadcast_arrives_and_is_put_off(self):
        made = Deferring()
        last = news(9, pack(AT_ONCE + 39))
        made.router.gossip.on_announcement(0.0, node(2), [last.id or b""])
        assert made.router.gossip.missing == 1
        made.flood(AT_ONCE + 40)
        assert made.router.gossip.missing == 0
        made.router.take_outgoing()
        made.work_off()
        sent = [
            out.peers for out in made.router.take_outgoing() if out.envelope.payload == last.payload
        ]
        assert sent == [(node(3),)], "its announcer holds it"

    def test_invalid_broadcasts_that_were_put_off_are_charged_to_their_link(self):
        made = Deferring(max_bad_messages=3)
        made.flood(AT_ONCE + 40)
        made.inbox.verdict = False
        with pytest.raises(RemoteProtocolError, match="too many invalid"):
            made.work_off()
        assert made.router.counters["invalid"] == 4
        assert made.router.has_deferred(node(1), node(9)), "the caller goes on with the others"

    def test_deferred_messages_of_a_lost_link_are_handled_without_a_route_over_it(self):
        made = Deferring()
        made.flood(AT_ONCE + 40)
        made.router.link_down(0.0, node(1))
        made.work_off()
        assert len(made.handled()) == AT_ONCE + 40
        assert made.router.delivery.routes.find(0.2, node(9)) is None

    def test_a_router_without_turns_handles_all_as_it_arrives(self):
        router = make()
        inbox = Inbox(router, NEWS)
        router.link_up(0.0, node(1))
        for number in range(AT_ONCE + 40):
            router.receive(0.0, node(1), news(9, pack(number)))
        assert len(inbox.received) == AT_ONCE + 40


class TestQueues:
    def broadcast(
        self, number: int, origin: str, link: str = "a link", size: int = 500
    ) -> DeferredBroadcast:
        return DeferredBroadcast(number.to_bytes(16, "big"), NEWS, origin, link, 1, 0, bytes(size))

    def test_the_heaviest_origin_is_refused_when_room_is_short(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(message_budget, "MAX_DEFERRED", 20 * (500 + ENTRY_OVERHEAD))
        queues = DeferredBroadcasts()
        taken = sum(queues.put(self.broadcast(number, "heavy")) for number in range(100))
        assert taken == 20
        light = sum(queues.put(self.broadcast(100 + number, "light")) for number in range(100))
        assert light == 10, "its equal part"
        assert not queues.put(self.broadcast(300, "heavy"))
        assert queues.bytes <= 2 * 20 * (500 + ENTRY_OVERHEAD)

    def test_nothing_is_left_once_all_was_taken(self) -> None:
        queues = DeferredBroadcasts()
        for number in range(10):
            queues.put(self.broadcast(number, f"origin {number % 2}", f"link {number % 3}"))
        assert len(queues) == 10
        for link in range(3):
            for origin in range(2):
                while queues.waits(f"origin {origin}", f"link {link}"):
                    assert queues.take(f"link {link}", f"origin {origin}") is not None
        assert (len(queues), queues.bytes) == (0, 0)
        assert not queues.waits("origin 0")
        assert queues.take("link 0", "origin 0") is None
