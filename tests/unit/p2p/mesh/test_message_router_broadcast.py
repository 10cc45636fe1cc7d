"""Broadcasts reach everybody once; links come and go."""

from __future__ import annotations

import random

import msgspec
import pytest
from router_kit import HELLO, Inbox, direct, make, news, node, signed
from virtual_mesh import NEWS, NOTE, anyone, identity

from p2p.base import limits
from p2p.base.errors import Code, MalformedMessage, RemoteProtocolError
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received, broadcast_id
from p2p.mesh.signed_broadcast import key_proves
from p2p.wire.messages import Envelope, Graft, IHave, pack


class TestBroadcast:
    def linked(self, **overrides: float) -> tuple[MessageRouter, Inbox]:
        router = make(**overrides)
        inbox = Inbox(router, NEWS)
        for number in (1, 2):
            router.link_up(0.0, node(number))
        return router, inbox

    def test_one_envelope_goes_to_all_links_and_none_to_oneself(self):
        router, inbox = self.linked()
        key = router.broadcast(0.0, NEWS, HELLO)
        [out] = router.take_outgoing()
        assert out.peers == (node(1), node(2))
        assert out.envelope.id == key == broadcast_id(NEWS, node(0), HELLO)
        assert inbox.received == []
        router.receive(0.1, node(1), out.envelope)
        assert inbox.received == []
        assert router.broadcast(0.2, NEWS, HELLO) == key
        assert router.counters["broadcasts_sent"] == 1

    def test_broadcasts_are_delivered_once_and_passed_on_with_their_hops_counted(self):
        router, inbox = self.linked()
        router.receive(0.0, node(1), news(9, HELLO, hops=4))
        [out] = router.take_outgoing()
        assert out.peers == (node(2),)
        assert (out.envelope.hops, out.envelope.from_) == (5, node(9))
        [received] = inbox.received
        assert (received.origin, received.via, received.broadcast) == (node(9), node(1), True)
        router.receive(0.0, node(2), news(9, HELLO))
        assert len(inbox.received) == 1
        assert router.gossip.counters["duplicates"] == 1

    def test_hops_are_counted_to_a_bound_that_does_not_end_the_broadcast(self):
        router, inbox = self.linked()
        router.receive(0.0, node(1), news(9, HELLO, hops=255))
        [out] = router.take_outgoing()
        assert out.envelope.hops == 255
        assert len(inbox.received) == 1

    def test_fields_that_broadcasts_do_not_have_are_not_passed_on(self):
        router, _ = self.linked()
        router.receive(0.0, node(1), news(9, HELLO, key=bytes(500_000), sig=bytes(500_000)))
        [out] = router.take_outgoing()
        assert out.envelope.key is None
        assert out.envelope.sig is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"payload": msgspec.Raw(pack("bye"))},
            {"type": "other"},
            {"from_": node(8)},
            {"from_": "x"},
            {"id": bytes(16)},
            {"id": None},
            {"hops": -1},
            {"hops": 2**64 - 1},
            {"timestamp": 2**70},
        ],
    )
    def test_a_false_id_or_envelope_is_charged_and_cannot_shut_out_the_true_message(self, changes):
        router, inbox = self.linked()
        router.receive(0.0, node(1), news(9, HELLO, **changes))
        assert inbox.received == []
        assert router.take_outgoing() == []
        assert router.counters["invalid"] == 1
        router.receive(0.0, node(2), news(9, HELLO))
        assert len(inbox.received) == 1

    def test_refused_broadcasts_are_not_passed_on_not_kept_and_charged_until_the_link_is_cut(
        self,
    ):
        router, inbox = self.linked()
        inbox.verdict = False
        for number in range(limits.MAX_BAD_MESSAGES):
            router.receive(0.0, node(1), news(9, pack(number)))
        with pytest.raises(RemoteProtocolError) as caught:
            router.receive(0.0, node(1), news(9, pack("last")))
        assert caught.value.code is Code.ABUSE
        assert router.take_outgoing() == []
        assert router.gossip.stored_bytes == 0
        assert router.delivery.routes.find(0.0, node(9)) is None

    def test_a_refused_payload_is_not_requested_again(self):
        router, inbox = self.linked()
        inbox.verdict = False
        bad = news(9, HELLO)
        router.receive(0.0, node(1), bad)
        router.receive(0.1, node(1), direct(1, "ihave", pack(IHave([bad.id or b""]))))
        assert router.next_deadline() is None
        router.receive(0.2, node(1), bad)
        assert len(inbox.received) == 1
        assert router.counters["invalid"] == 1

    def test_a_handler_that_fails_costs_the_link_nothing_and_others_go_on(self):
        router = make()
        router.link_up(0.0, node(1))

        def broken(received: Received) -> bool:
            raise KeyError("a bug of ours")

        router.handle(NEWS, broken, origin=anyone)
        inbox = Inbox(router, NOTE)
        for number in range(20):
            router.receive(0.0, node(1), news(9, pack(number)))
        router.receive(0.0, node(1), direct(1))
        assert router.counters["handler_errors"] == 20
        assert router.counters["invalid"] == 0
        assert len(inbox.received) == 1

    def test_in_tests_a_handler_s_error_is_raised(self):
        router = MessageRouter(identity(0), rng=random.Random(0), wall_ms=lambda: 0, fragile=True)
        router.link_up(0.0, node(1))

        def broken(received: Received) -> bool:
            raise KeyError("a bug of ours")

        router.handle(NEWS, broken, origin=anyone)
        with pytest.raises(KeyError):
            router.receive(0.0, node(1), news(9, HELLO))

    def test_a_malformed_payload_noticed_by_the_handler_counts_as_invalid(self):
        router = make()
        router.link_up(0.0, node(1))

        def strict(received: Received) -> bool:
            raise MalformedMessage("no such shape")

        router.handle(NEWS, strict, origin=anyone)
        router.handle(NOTE, strict, origin=anyone)
        router.receive(0.0, node(1), news(9, HELLO))
        router.receive(0.0, node(1), signed(9, 0))
        assert router.counters["invalid"] == 1  # the broadcast; the relay is not to blame
        with pytest.raises(MalformedMessage):
            router.receive(0.0, node(1), direct(1))

    def test_messages_sent_by_a_handler_follow_the_message_it_handles(self):
        router = make()
        router.link_up(0.0, node(1))
        router.link_up(0.0, node(2))

        def answering(received: Received) -> bool:
            router.broadcast(received.now, "answer", HELLO)
            return True

        router.handle(NEWS, answering, origin=anyone)
        router.receive(0.0, node(1), news(9, HELLO))
        assert [out.envelope.type for out in router.take_outgoing()] == [NEWS, "answer"]

    @pytest.mark.parametrize(
        ("kind", "key", "taken", "charged"),
        [
            (NEWS, identity(9).public_key, 1, 0),
            (NEWS, identity(8).public_key, 0, 0),  # earlier versions pass it on
            (NEWS, identity(9).public_key[:31], 0, 1),
            (NEWS, None, 0, 1),
            (
                NOTE,
                identity(9).public_key,
                0,
                0,
            ),  # a type that is sent to one node, as if its origin were proven
        ],
        ids=["own key", "key of another", "short key", "no key", "not a broadcast"],
    )
    def test_a_broadcast_of_an_unproven_origin_costs_it_nothing_and_teaches_no_route(
        self, kind: str, key: bytes | None, taken: int, charged: int
    ):
        router, heard = make(), []
        router.link_up(0.0, node(1))
        router.handle(NEWS, lambda received: not heard.append(received), origin=key_proves)
        router.handle(NOTE, lambda received: not heard.append(received))
        payload = pack({"key": key, "text": "hello"})
        for _ in range(2):  # a copy neither
            named = broadcast_id(kind, node(9), payload)
            router.receive(0.0, node(1), news(9, payload, type=kind, id=named))
        assert len(heard) == taken
        assert len(router.budgets._origins) == taken
        assert (router.delivery.routes.find(0.0, node(9)) is not None) is bool(taken)
        assert router.counters["invalid"] == charged

    def test_an_unknown_broadcast_type_is_charged_as_such(self):
        router, _ = self.linked()
        for number in range(limits.MAX_BAD_MESSAGES):
            key = broadcast_id("new", node(9), pack(number))
            router.receive(0.0, node(1), news(9, pack(number), type="new", id=key))
        key = broadcast_id("new", node(9), HELLO)
        with pytest.raises(RemoteProtocolError) as caught:
            router.receive(0.0, node(1), news(9, HELLO, type="new", id=key))
        assert caught.value.code is Code.UNKNOWN_TYPE

    def test_the_payload_is_kept_apart_from_the_buffer_it_came_in(self):
        router, inbox = self.linked()
        message = news(9, HELLO)
        frame = bytearray(msgspec.msgpack.encode(message))
        decoded = msgspec.msgpack.decode(frame, type=Envelope)
        router.receive(0.0, node(1), decoded)
        frame[:] = bytes(len(frame))
        [out] = router.take_outgoing()
        assert bytes(out.envelope.payload) == HELLO
        assert inbox.received[0].payload == HELLO


class TestLinks:
    def test_a_direct_message_must_come_from_the_peer_of_its_link_and_be_for_us(self):
        router = make()
        inbox = Inbox(router, NOTE)
        router.link_up(0.0, node(1))
        router.receive(0.0, node(1), direct(2))
        router.receive(0.0, node(1), direct(1, to=node(3)))
        assert inbox.received == []
        assert router.counters["invalid"] == 2
        router.receive(0.0, node(1), direct(1, to=node(0)))
        router.receive(0.0, node(1), direct(1))
        assert len(inbox.received) == 2

    def test_control_messages_are_taken_from_the_link_s_own_peer_only(self):
        router = make()
        router.link_up(0.0, node(1))
        router.link_up(0.0, node(2))
        router.receive(0.0, node(1), direct(2, "prune", pack({})))
        assert router.gossip.eager == [node(1), node(2)]
        router.receive(0.0, node(1), direct(1, "prune", pack({})))
        assert router.gossip.eager == [node(2)]

    @pytest.mark.parametrize("kind", ["ihave", "graft"])
    def test_control_messages_of_the_wrong_shape_cut_the_link(self, kind):
        router = make()
        router.link_up(0.0, node(1))
        with pytest.raises(MalformedMessage):
            router.receive(0.0, node(1), direct(1, kind, pack({"ids": "no"})))

    def test_too_many_ids_are_charged(self):
        router = make()
        router.link_up(0.0, node(1))
        ids = [n.to_bytes(16, "big") for n in range(limits.ANNOUNCE_MAX_IDS + 1)]
        router.receive(0.0, node(1), direct(1, "ihave", pack(IHave(ids))))
        router.receive(0.0, node(1), direct(1, "graft", pack(Graft(ids))))
        assert router.counters["invalid"] == 2

    def test_a_message_after_link_down_is_ignored(self):
        router = make()
        inbox = Inbox(router, NOTE)
        router.link_up(0.0, node(1))
        router.link_down(0.0, node(1))
        router.link_down(0.0, node(1))
        router.receive(0.0, node(1), direct(1))
        assert inbox.received == []
        assert router.counters["stray"] == 1
        assert router.links == []

    def test_a_new_link_starts_without_the_faults_of_the_last(self):
        router = make()
        router.link_up(0.0, node(1))
        for _ in range(limits.MAX_BAD_MESSAGES):
            router.receive(0.0, node(1), direct(2))
        router.link_up(1.0, node(1))
        router.receive(1.0, node(1), direct(2))
        assert router.links == [node(1)]

    def test_a_handler_may_be_registered_once_and_not_for_the_router_s_own_types(self):
        router = make()
        Inbox(router, NOTE)
        with pytest.raises(ValueError, match="handled already"):
            Inbox(router, NOTE)
        with pytest.raises(ValueError, match="handled already"):
            Inbox(router, "graft")
