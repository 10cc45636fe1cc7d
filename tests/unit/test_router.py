from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_mesh import NEWS, NOTE, VirtualMesh, identity

from p2p import limits
from p2p.errors import Code, DeliveryError, MalformedMessage, RemoteProtocolError
from p2p.messages import EVERYONE, Envelope, Graft, IHave, pack, signed_bytes
from p2p.router import MAX_PAYLOAD, MessageRouter, Received, Way, broadcast_id
from p2p.waiting import Waiting, WaitingMessages

HELLO = pack("hello")


def make(number: int = 0, **overrides: float) -> MessageRouter:
    return MessageRouter(
        identity(number),
        rng=random.Random(number),
        wall_ms=lambda: 1_700_000_000_000,
        **overrides,
    )


def node(number: int) -> str:
    return identity(number).node_id


def news(origin: int, payload: bytes, /, **changes: object) -> Envelope:
    envelope = Envelope(
        type=NEWS,
        from_=node(origin),
        to=EVERYONE,
        timestamp=1,
        payload=msgspec.Raw(payload),
        id=broadcast_id(NEWS, node(origin), payload),
    )
    return msgspec.structs.replace(envelope, **changes)


def signed(
    origin: int, to: int, payload: bytes = HELLO, *, number: int = 1, kind: str = NOTE
) -> Envelope:
    envelope = Envelope(
        type=kind,
        from_=node(origin),
        to=node(to),
        timestamp=1,
        payload=msgspec.Raw(payload),
        id=number.to_bytes(16, "big"),
    )
    envelope.key = identity(origin).public_key
    envelope.sig = identity(origin).sign(signed_bytes(envelope))
    return envelope


def direct(origin: int, kind: str = NOTE, payload: bytes = HELLO, to: str = "") -> Envelope:
    return Envelope(type=kind, from_=node(origin), to=to, timestamp=1, payload=msgspec.Raw(payload))


class Inbox:
    """A handler that remembers, and says what it is told to say."""

    def __init__(self, router: MessageRouter, kind: str) -> None:
        self.received: list[Received] = []
        self.verdict = True
        router.handle(kind, self)

    def __call__(self, received: Received) -> bool:
        self.received.append(received)
        return self.verdict


class TestWaysToOneNode:
    def test_a_linked_node_is_sent_to_directly(self):
        mesh = VirtualMesh(2)
        mesh.link(0, 1)
        assert mesh.send(0, 1, HELLO) == Way.DIRECT
        mesh.run(1.0)
        [note] = mesh.notes[1]
        assert (note.origin, note.via, note.payload, note.broadcast) == (
            mesh.ids[0],
            mesh.ids[0],
            HELLO,
            False,
        )

    def test_along_a_chain_messages_are_relayed_both_ways_and_delivered_once(self):
        mesh = VirtualMesh(6)
        mesh.chain()
        mesh.broadcast(5, pack("I am here"))
        mesh.run(1.0)
        assert mesh.send(0, 5, HELLO) == Way.RELAYED
        mesh.run(1.0)
        [note] = mesh.notes[5]
        assert (note.origin, note.via, note.payload) == (mesh.ids[0], mesh.ids[4], HELLO)
        # The way back was learned from the proven message itself, at every node on its way.
        assert mesh.send(5, 0, HELLO) == Way.RELAYED
        mesh.run(1.0)
        assert [n.origin for n in mesh.notes[0]] == [mesh.ids[5]]
        assert all(mesh.notes[i] == [] for i in range(1, 5))

    def test_two_equal_messages_are_two(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, HELLO)
        mesh.run(1.0)
        assert mesh.send(0, 2, HELLO) == mesh.send(0, 2, HELLO) == Way.RELAYED
        mesh.run(1.0)
        assert len(mesh.notes[2]) == 2

    def test_without_any_way_the_error_says_why_each_failed(self):
        router = make()
        with pytest.raises(DeliveryError) as caught:
            router.send(0.0, node(1), NOTE, HELLO)
        ways = ["direct", "grenache", "relayed", "queued"]
        assert [way for way, _ in caught.value.tried] == ways
        assert dict(caught.value.tried)["direct"] == "not connected"
        assert dict(caught.value.tried)["grenache"] == "no Grape is used"
        assert "not to wait" in dict(caught.value.tried)["queued"]
        assert router.take_outgoing() == []

    def test_a_node_that_is_linked_over_grenache_is_sent_to_that_way(self):
        router = make()
        router.link_up(0.0, node(1), Way.GRENACHE)
        assert router.send(0.0, node(1), NOTE, HELLO) is Way.GRENACHE
        [outgoing] = router.take_outgoing()
        assert outgoing.peers == (node(1),)
        assert (router.counters["sent_grenache"], router.counters["sent_direct"]) == (1, 0)

    def test_a_direct_link_in_its_place_is_used_at_once_and_back(self):
        router = make()
        router.link_up(0.0, node(1), Way.GRENACHE)
        router.link_down(1.0, node(1))
        router.link_up(1.0, node(1), Way.DIRECT)
        assert router.send(1.0, node(1), NOTE, HELLO) is Way.DIRECT
        router.link_up(2.0, node(1), Way.GRENACHE)
        assert router.send(2.0, node(1), NOTE, HELLO) is Way.GRENACHE
        router.link_down(3.0, node(1))
        with pytest.raises(DeliveryError):
            router.send(3.0, node(1), NOTE, HELLO)

    def test_a_link_over_grenache_comes_before_relaying(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, pack("I am here"))
        mesh.run(1.0)
        assert mesh.send(0, 2, HELLO) == Way.RELAYED
        mesh.routers[0].link_up(mesh.now, mesh.ids[2], Way.GRENACHE)
        assert mesh.routers[0].send(mesh.now, mesh.ids[2], NOTE, HELLO) is Way.GRENACHE

    def test_broadcasts_take_links_of_both_kinds(self):
        router = make()
        router.link_up(0.0, node(1), Way.GRENACHE)
        router.link_up(0.0, node(2), Way.DIRECT)
        router.broadcast(0.0, NOTE, HELLO)
        reached = {peer for outgoing in router.take_outgoing() for peer in outgoing.peers}
        assert reached == {node(1), node(2)}

    def test_the_error_says_why_grenache_was_no_way(self):
        router = make()
        router.why_not_grenache = lambda to: f"{to[:1]} was not found"
        with pytest.raises(DeliveryError) as caught:
            router.send(0.0, node(1), NOTE, HELLO)
        assert dict(caught.value.tried)["grenache"] == f"{node(1)[:1]} was not found"

    def test_what_waited_leaves_over_grenache_too(self):
        router = make()
        assert router.send(0.0, node(1), NOTE, HELLO, queue_for=10.0) is Way.QUEUED
        router.link_up(1.0, node(1), Way.GRENACHE)
        assert router.counters["sent_grenache"] == 1

    def test_a_queued_message_leaves_when_the_peer_is_linked(self):
        mesh = VirtualMesh(2)
        assert mesh.send(0, 1, pack(1), queue_for=10.0) == Way.QUEUED
        assert mesh.send(0, 1, pack(2), queue_for=10.0) == Way.QUEUED
        mesh.run(5.0)
        mesh.link(0, 1)
        mesh.run(1.0)
        assert [n.payload for n in mesh.notes[1]] == [pack(1), pack(2)]
        mesh.unlink(0, 1)
        mesh.link(0, 1)
        mesh.run(1.0)
        assert len(mesh.notes[1]) == 2

    def test_a_queued_message_leaves_when_a_route_is_learned(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        assert mesh.send(0, 2, HELLO, queue_for=10.0) == Way.QUEUED
        mesh.broadcast(2, pack("I am here"))
        mesh.run(1.0)
        assert [n.origin for n in mesh.notes[2]] == [mesh.ids[0]]

    def test_a_queued_message_expires_at_its_time(self):
        mesh = VirtualMesh(2)
        mesh.send(0, 1, pack("short"), queue_for=1.0)
        mesh.send(0, 1, pack("long"), queue_for=5.0)
        mesh.run(3.0)
        mesh.link(0, 1)
        mesh.run(1.0)
        assert [n.payload for n in mesh.notes[1]] == [pack("long")]
        assert mesh.routers[0].counters["expired"] == 1
        assert mesh.routers[0].counters["queued"] == 2

    def test_a_full_queue_refuses_with_the_reason(self):
        router = make(queue_max_per_peer=2, queue_max_bytes=2000)
        for _ in range(2):
            assert router.send(0.0, node(1), NOTE, HELLO, queue_for=1.0) is Way.QUEUED
        with pytest.raises(DeliveryError, match="2 messages already wait"):
            router.send(0.0, node(1), NOTE, HELLO, queue_for=1.0)
        with pytest.raises(DeliveryError, match="bytes already wait"):
            router.send(0.0, node(2), NOTE, bytes(1800), queue_for=1.0)
        router.tick(1.0)
        assert router.send(1.0, node(2), NOTE, bytes(1700), queue_for=1.0) is Way.QUEUED

    def test_a_long_queue_is_handed_to_a_link_in_parts(self):
        router = make()
        big = bytes(1000 * 1000)
        for _ in range(5):
            router.send(0.0, node(1), NOTE, big, queue_for=60.0)
        router.link_up(1.0, node(1))
        counts = [len(router.take_outgoing())]
        now = 1.0
        while len(router.waiting):
            now = router.next_deadline() or now
            router.tick(now)
            counts.append(len(router.take_outgoing()))
        assert counts == [2, 2, 1]
        assert now < 2.0

    def test_a_link_that_goes_while_its_queue_is_handed_over_keeps_the_rest_waiting(self):
        router = make()
        for _ in range(3):
            router.send(0.0, node(1), NOTE, bytes(1000 * 1000), queue_for=60.0)
        router.link_up(1.0, node(1))
        router.link_down(1.01, node(1))
        router.take_outgoing()
        router.tick(2.0)
        assert router.take_outgoing() == []
        assert len(router.waiting) == 1
        assert router.next_deadline() == 60.0

    def test_a_lost_link_takes_its_routes_with_it(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, HELLO)
        mesh.run(1.0)
        mesh.unlink(0, 1)
        with pytest.raises(DeliveryError):
            mesh.send(0, 2, HELLO)
        mesh.link(0, 1)
        with pytest.raises(DeliveryError):
            mesh.send(0, 2, HELLO)
        mesh.broadcast(2, pack("again"))
        mesh.run(1.0)
        assert mesh.send(0, 2, HELLO) == Way.RELAYED

    def test_a_route_not_heard_of_for_its_time_is_not_taken(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, HELLO)
        mesh.run(limits.ROUTE_TTL + 1.0)
        with pytest.raises(DeliveryError):
            mesh.send(0, 2, HELLO)

    def test_what_cannot_be_sent_to_anyone_is_the_caller_s_error(self):
        router = make()
        with pytest.raises(ValueError, match="itself"):
            router.send(0.0, router.node_id, NOTE, HELLO)
        with pytest.raises(ValueError, match="not a node id"):
            router.send(0.0, EVERYONE, NOTE, HELLO)
        with pytest.raises(ValueError, match="limit"):
            router.send(0.0, node(1), NOTE, bytes(MAX_PAYLOAD + 1))
        with pytest.raises(ValueError, match="limit"):
            router.broadcast(0.0, NEWS, bytes(MAX_PAYLOAD + 1))

    def test_the_largest_payload_fits_a_frame_relayed_or_broadcast(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        sizes: list[int] = []
        mesh.tap = lambda a, b, packed: sizes.append(len(packed))
        payload = pack(bytes(MAX_PAYLOAD - 5))
        assert len(payload) == MAX_PAYLOAD
        mesh.broadcast(2, payload)
        mesh.run(1.0)
        assert mesh.send(0, 2, payload) == Way.RELAYED
        mesh.run(1.0)
        assert [len(n.payload) for n in mesh.notes[2]] == [MAX_PAYLOAD]
        assert MAX_PAYLOAD < max(sizes) <= limits.MAX_FRAME


def test_a_peer_that_comes_back_to_two_thousand_messages_is_warmed_up_and_not_flooded():
    router = make()
    for number in range(2000):
        assert router.send(0.0, node(1), NOTE, pack(number), queue_for=30.0) is Way.QUEUED
    now, steps, got = 1.0, [], []
    router.link_up(now, node(1))
    while len(got) < 2000:
        sent = [o.envelope.payload for o in router.take_outgoing() if o.envelope.type == NOTE]
        if sent:
            steps.append(len(sent))
            got += sent
        assert now < 3.0
        now += 0.05
        router.tick(now)
    assert steps == [16, 32, 64, 128, 256, 512, 992]
    assert [bytes(payload) for payload in got] == [pack(number) for number in range(2000)]


class TestRelaying:
    def relay(self) -> MessageRouter:
        """Node 0, linked to 1, 2 and 3."""
        router = make()
        for number in (1, 2, 3):
            router.link_up(0.0, node(number))
        return router

    def test_one_in_gives_one_out_with_one_more_hop_and_a_copy_gives_none(self):
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

    def test_it_is_never_sent_back_where_it_came_from(self):
        router = self.relay()
        Inbox(router, NEWS)
        router.receive(0.0, node(1), news(9, HELLO))
        router.take_outgoing()
        router.receive(0.0, node(1), signed(2, 9))
        assert router.take_outgoing() == []
        router.receive(0.0, node(2), signed(2, 9, number=2))
        assert [out.peers for out in router.take_outgoing()] == [(node(1),)]

    def test_it_goes_another_way_when_the_latest_is_where_it_came_from(self):
        router = self.relay()
        Inbox(router, NEWS)
        router.receive(0.0, node(1), news(9, pack(1)))
        router.receive(0.1, node(3), news(9, pack(2)))
        router.take_outgoing()
        router.receive(0.2, node(3), signed(3, 9))
        assert [out.peers for out in router.take_outgoing()] == [(node(1),)]

    def test_a_message_for_the_very_peer_that_brought_it_is_dropped(self):
        router = self.relay()
        router.receive(0.0, node(2), signed(1, 2))
        assert router.take_outgoing() == []
        assert router.counters["relay_no_route"] == 1

    def test_a_message_signed_with_another_key_than_its_origin_s_is_forged(self):
        router = self.relay()
        inbox = Inbox(router, NOTE)
        message = msgspec.structs.replace(signed(4, 0), from_=node(1))
        message.sig = identity(4).sign(signed_bytes(message))
        router.receive(0.0, node(3), message)
        assert inbox.received == []
        assert router.counters["forged"] == 1

    def test_one_that_travelled_too_far_is_dropped_without_blame(self):
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

    def test_the_relay_is_not_blamed_for_what_the_recipient_does_not_understand(self):
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
        [first] = [mesh.number[mesh.routers[0].routes.find(mesh.now, mesh.ids[3])]]
        mesh.unlink(0, first)
        mesh.broadcast(3, pack("again"))
        mesh.run(2.0)
        assert mesh.send(0, 3, HELLO) == Way.RELAYED
        mesh.run(1.0)
        assert len(mesh.notes[3]) == 1


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

    def test_it_is_delivered_once_and_passed_on_with_its_hops_counted(self):
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

    def test_what_is_not_part_of_a_broadcast_is_not_passed_on(self):
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

    def test_what_the_handler_refuses_is_not_passed_on_not_kept_and_charged_until_the_link_is_cut(
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
        assert router.routes.find(0.0, node(9)) is None

    def test_a_refused_payload_is_asked_of_nobody_again(self):
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

        router.handle(NEWS, broken)
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

        router.handle(NEWS, broken)
        with pytest.raises(KeyError):
            router.receive(0.0, node(1), news(9, HELLO))

    def test_a_malformed_payload_noticed_by_the_handler_counts_as_invalid(self):
        router = make()
        router.link_up(0.0, node(1))

        def strict(received: Received) -> bool:
            raise MalformedMessage("no such shape")

        router.handle(NEWS, strict)
        router.handle(NOTE, strict)
        router.receive(0.0, node(1), news(9, HELLO))
        router.receive(0.0, node(1), signed(9, 0))
        assert router.counters["invalid"] == 1  # the broadcast; the relay is not to blame
        with pytest.raises(MalformedMessage):
            router.receive(0.0, node(1), direct(1))

    def test_what_a_handler_sends_follows_the_message_that_made_it(self):
        router = make()
        router.link_up(0.0, node(1))
        router.link_up(0.0, node(2))

        def answering(received: Received) -> bool:
            router.broadcast(received.now, "answer", HELLO)
            return True

        router.handle(NEWS, answering)
        router.receive(0.0, node(1), news(9, HELLO))
        assert [out.envelope.type for out in router.take_outgoing()] == [NEWS, "answer"]

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
        assert router.gossip.lazy == []
        router.receive(0.0, node(1), direct(1, "prune", pack({})))
        assert router.gossip.lazy == [node(1)]

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


class TestWaitingMessages:
    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("abc"), st.integers(0, 50), st.sampled_from(["add", "drop", "time"])
            ),
            max_size=80,
        )
    )
    def test_counts_bounds_and_expiries_agree_with_a_plain_list(self, steps):
        waiting = WaitingMessages(max_bytes=3000, max_per_peer=4)
        plain: list[tuple[str, Waiting]] = []
        now = 0.0
        for to, amount, action in steps:
            if action == "add":
                message = Waiting("t", bytes(amount), now + amount)
                if waiting.add(to, message) is None:
                    plain.append((to, message))
                else:
                    size = sum(len(m.payload) + 257 for _, m in plain)
                    full = len([m for t, m in plain if t == to]) >= 4
                    assert full or size + amount + 257 > 3000
            elif action == "drop":
                first = next((m for t, m in plain if t == to), None)
                assert waiting.peek(to) == first
                if first is not None:
                    waiting.drop_first(to)
                    plain.remove((to, first))
            else:
                now += amount / 10
                gone = [entry for entry in plain if entry[1].expires <= now]
                assert waiting.expire(now) == len(gone)
                plain = [entry for entry in plain if entry not in gone]
            assert len(waiting) == len(plain)
            assert waiting.bytes == sum(len(m.payload) + 257 for _, m in plain)
            assert waiting.next_expiry() == min((m.expires for _, m in plain), default=None)

    def test_delivered_messages_leave_nothing_behind(self):
        waiting = WaitingMessages()
        for number in range(10_000):
            waiting.add("a", Waiting("t", b"", 1e9 + number))
            waiting.drop_first("a")
        assert len(waiting._expiries) < 200


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_message_is_taken_or_refused_with_a_documented_error_and_can_be_passed_on(data):
    router = make()
    Inbox(router, NEWS)
    Inbox(router, NOTE)
    for number in (1, 2):
        router.link_up(0.0, node(number))
    ids = st.sampled_from([node(0), node(1), node(2), node(9), "", EVERYONE, "x"])
    for _ in range(data.draw(st.integers(1, 8))):
        base = data.draw(st.sampled_from([news(9, HELLO), signed(1, 2), signed(9, 0), direct(1)]))
        changes: dict[str, object] = {}
        for name, values in {
            "type": st.sampled_from([NEWS, NOTE, "ihave", "graft", "prune", "?"]),
            "from_": ids,
            "to": ids,
            "timestamp": st.integers(-(2**63), 2**64 - 1),
            "payload": st.sampled_from(
                [pack(x) for x in (1, {}, IHave([bytes(16)]), Graft([b""]))]
            ).map(msgspec.Raw),
            "id": st.none() | st.binary(max_size=20),
            "hops": st.integers(-(2**63), 2**64 - 1),
            "key": st.none() | st.binary(max_size=40),
            "sig": st.none() | st.binary(max_size=70),
        }.items():
            if data.draw(st.booleans()):
                changes[name] = data.draw(values)
        code = None
        try:
            router.receive(0.0, node(1), msgspec.structs.replace(base, **changes))
        except RemoteProtocolError as error:
            code = error.code
        assert code in (None, Code.ABUSE, Code.UNKNOWN_TYPE, Code.MALFORMED)
        if code is not None:
            router.link_down(0.0, node(1))
            router.link_up(0.0, node(1))
        router.tick(1.0)
        peers: Counter[str] = Counter()
        for out in router.take_outgoing():
            assert len(pack(out.envelope)) <= limits.MAX_FRAME
            peers.update(out.peers)
        assert all(peer in router.links for peer in peers)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(3, 8))
def test_under_churn_notes_arrive_at_most_once_and_in_quiet_those_with_a_way_do(seed, n):
    mesh = VirtualMesh(n, seed=seed)
    rng = random.Random(seed)
    for number in range(40):
        a, b = rng.sample(range(n), 2)
        (mesh.unlink if rng.random() < 0.3 else mesh.link)(a, b)
        mesh.broadcast(rng.randrange(n), pack(["I am here", number]))
        a, b = rng.sample(range(n), 2)
        try:
            mesh.send(a, b, pack(number), queue_for=rng.choice([None, 3.0]))
        except DeliveryError:
            assert (min(a, b), max(a, b)) not in mesh.links
        mesh.run(rng.choice([0.0, 0.003, 0.3]))
    mesh.run(5.0)
    for origin in range(n):
        mesh.broadcast(origin, pack(["quiet", origin]))
    mesh.run(2.0)
    expected: list[list[bytes]] = [[] for _ in range(n)]
    for a in range(n):
        for b in mesh.component(a):
            if a != b:
                payload = pack(["final", a, b])
                assert mesh.send(a, b, payload) in (Way.DIRECT, Way.RELAYED)
                expected[b].append(payload)
    mesh.run(2.0)
    for i, notes in enumerate(mesh.notes):
        payloads = [note.payload for note in notes]
        assert len(set(payloads)) == len(payloads)
        assert set(expected[i]) <= set(payloads)
    assert mesh.cut == []
