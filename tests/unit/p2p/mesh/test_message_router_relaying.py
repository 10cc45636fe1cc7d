"""Messages for others are passed on, and only good ones."""

from __future__ import annotations

import msgspec
import pytest
from router_kit import HELLO, Inbox, make, news, node, signed
from virtual_mesh import NEWS, NOTE, VirtualMesh, identity

from p2p.base import limits
from p2p.base.errors import Code, RemoteProtocolError
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Way
from p2p.wire.messages import pack, signed_bytes


class TestRelaying:
    def relay(self) -> MessageRouter:
        """Node 0, linked to 1, 2 and 3."""
        router = make()
        for number in (1, 2, 3):
            router.link_up(0.0, node(number))
        return router

    def test_messages_are_relayed_once_with_one_more_hop_and_copies_are_not(self):
        router = self.relay()
        message = signed(1, 2)
        router.receive(0.0, node(1), message)
        [out] = router.take_outgoing()
        assert out.peers == (node(2),)
        assert out.envelope == msgspec.structs.replace(
            message, hops=1, payload=out.envelope.payload
        )
        assert bytes(out.envelope.payload) == HELLO
        router.receive(0.1, node(1), message)
        router.receive(0.1, node(3), msgspec.structs.replace(message, hops=7))
        assert router.take_outgoing() == []
        assert router.counters["relay_duplicates"] == 2

    def test_without_a_route_it_is_dropped_and_counted(self):
        router = self.relay()
        router.receive(0.0, node(1), signed(1, 9))
        assert router.take_outgoing() == []
        assert router.counters["relay_no_route"] == 1

    def test_relayed_messages_are_never_sent_back(self):
        router = self.relay()
        Inbox(router, NEWS)
        router.receive(0.0, node(1), news(9, HELLO))
        router.take_outgoing()
        router.receive(0.0, node(1), signed(2, 9))
        assert router.take_outgoing() == []
        router.receive(0.0, node(2), signed(2, 9, number=2))
        assert [out.peers for out in router.take_outgoing()] == [(node(1),)]

    def test_relayed_messages_take_another_route_when_the_latest_leads_back(self):
        router = self.relay()
        Inbox(router, NEWS)
        router.receive(0.0, node(1), news(9, pack(1)))
        router.receive(0.1, node(3), news(9, pack(2)))
        router.take_outgoing()
        router.receive(0.2, node(3), signed(3, 9))
        assert [out.peers for out in router.take_outgoing()] == [(node(1),)]

    def test_a_message_signed_with_another_key_than_its_origin_s_is_forged(self):
        router = self.relay()
        inbox = Inbox(router, NOTE)
        message = msgspec.structs.replace(signed(4, 0), from_=node(1))
        message.sig = identity(4).sign(signed_bytes(message))
        router.receive(0.0, node(3), message)
        assert inbox.received == []
        assert router.counters["forged"] == 1

    def test_messages_with_too_many_hops_are_dropped_without_blame(self):
        router = self.relay()
        for number in range(20):
            far = msgspec.structs.replace(signed(1, 2, number=number), hops=limits.MAX_HOPS)
            router.receive(0.0, node(1), far)
        assert router.take_outgoing() == []
        assert router.counters["relay_too_far"] == 20
        assert router.counters["invalid"] == 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"payload": msgspec.Raw(pack("bye"))},
            {"type": "other"},
            {"timestamp": 2},
            {"id": bytes(16)},
            {"to": node(3)},
            {"from_": node(4)},
            {"key": identity(4).public_key},
            {"sig": bytes(64)},
            {"sig": b"short"},
            {"key": None},
            {"key": bytes(33)},
            {"id": None},
            {"id": bytes(17)},
            {"hops": -1},
            {"hops": 2**64 - 1},
            {"timestamp": 2**70},
            {"timestamp": -1},
            {"to": "x" * 100},
            {"type": "t" * 100},
        ],
    )
    def test_a_changed_message_is_not_passed_on_and_does_not_shut_out_the_true_one(self, changes):
        router = self.relay()
        true = signed(1, 2)
        router.receive(0.0, node(1), msgspec.structs.replace(true, **changes))
        assert router.take_outgoing() == []
        assert router.counters["invalid"] + router.counters["relay_too_far"] == 1
        router.receive(0.0, node(1), true)
        assert len(router.take_outgoing()) == 1

    def test_a_forger_is_cut_off(self):
        router = self.relay()
        forged = msgspec.structs.replace(signed(1, 2), sig=bytes(64))
        for _ in range(limits.MAX_BAD_MESSAGES):
            router.receive(0.0, node(3), forged)
        with pytest.raises(RemoteProtocolError) as caught:
            router.receive(0.0, node(3), forged)
        assert caught.value.code is Code.ABUSE
        assert router.counters["forged"] == limits.MAX_BAD_MESSAGES + 1

    def test_the_recipient_takes_a_relayed_message_once_by_whatever_link(self):
        router = self.relay()
        inbox = Inbox(router, NOTE)
        message = signed(9, 0)
        router.receive(0.0, node(1), message)
        router.receive(0.0, node(2), msgspec.structs.replace(message, hops=3))
        assert [(r.origin, r.via) for r in inbox.received] == [(node(9), node(1))]

    def test_an_own_message_that_comes_back_goes_no_further(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, HELLO)
        mesh.run(1.0)
        seen: list[bytes] = []
        mesh.tap = lambda a, b, packed: seen.append(packed)
        mesh.send(0, 2, HELLO)
        relayed = mesh.codec.decode(seen[0])
        mesh.run(1.0)
        before = len(mesh.notes[2])
        mesh.inject(1, 0, msgspec.structs.replace(relayed, hops=2))
        mesh.run(1.0)
        assert len(mesh.notes[2]) == before
        assert mesh.routers[0].counters["relay_duplicates"] == 1

    def test_the_relay_is_not_blamed_for_messages_that_the_recipient_cannot_decode(self):
        router = self.relay()
        inbox = Inbox(router, NOTE)
        inbox.verdict = False
        for number in range(20):
            router.receive(0.0, node(1), signed(9, 0, number=number))
            router.receive(0.0, node(1), signed(9, 0, number=number, kind="new"))
        assert router.counters["invalid"] == 0
        assert router.counters["unknown_type"] == 20

    def test_on_a_ring_cut_in_one_place_messages_find_the_other_way(self):
        mesh = VirtualMesh(6)
        mesh.chain()
        mesh.link(0, 5)
        mesh.broadcast(3, HELLO)
        mesh.run(1.0)
        [first] = [mesh.number[mesh.routers[0].delivery.routes.find(mesh.now, mesh.ids[3])]]
        mesh.unlink(0, first)
        mesh.broadcast(3, pack("again"))
        mesh.run(2.0)
        assert mesh.send(0, 3, HELLO) == Way.RELAYED
        mesh.run(1.0)
        assert len(mesh.notes[3]) == 1


class TestLimits:
    def relay(self, rate: float) -> MessageRouter:
        router = make(relay_rate=rate)
        for number in (1, 2, 3):
            router.link_up(0.0, node(number), notices=True)
        router.take_outgoing()
        return router

    def test_relayed_messages_beyond_the_rate_wait_their_time(self):
        router = self.relay(100_000)
        large = pack(b"x" * 20_000)
        for number in range(5):
            router.receive(0.0, node(1), signed(1, 2, large, number=number))
        assert [out.envelope.id[-1] for out in router.take_outgoing()] == [0, 1]
        router.receive(0.0, node(3), signed(3, 2, HELLO, number=9))
        order = []
        now = 0.0
        while (now := now + 0.05) < 2.0:
            router.tick(now)
            order += [out.envelope.id[-1] for out in router.take_outgoing()]
        assert sorted(order) == [2, 3, 4, 9]
        assert order.index(9) <= 3
        assert router.counters["relayed"] == 6
        assert router.delivery.relay.shares.of_peer(node(1)) == 1

    def test_the_origin_gets_the_reason_once_a_second_and_remembers_it(self):
        relay, origin = self.relay(0), make(1)
        origin.link_up(0.0, node(0))
        origin.take_outgoing()
        for number in range(5):
            relay.receive(0.1 * number, node(1), signed(1, 2, number=number))
        [out] = relay.take_outgoing()
        assert (out.peers, out.envelope.type) == ((node(1),), "refused")
        assert relay.counters["relay_refused"] == 5
        origin.receive(1.0, node(0), out.envelope)
        assert "P2P_RELAY_RATE=0" in origin.delivery.refusal(1.0, node(0), node(2))
        assert origin.delivery.refusal(100.0, node(0), node(2)) == ""
        assert origin.counters["refused_by_relays"] == 1

    def test_reservations_of_a_peer_end_with_its_link(self):
        router = self.relay(1e6)
        router.receive(0.0, node(1), signed(1, 2))
        assert len(router.delivery.relay.shares.active(0.0)) == 1
        router.link_down(1.0, node(1))
        assert router.delivery.relay.shares.active(1.0) == []
