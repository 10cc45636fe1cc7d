"""The ways to one node: direct, relayed, over Grenache; and messages that wait for one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_kit import HELLO, Host, make, node
from virtual_mesh import NEWS, NOTE, VirtualMesh

from p2p.base import limits
from p2p.base.errors import DeliveryError
from p2p.mesh.routed_messages import MAX_PAYLOAD, Way
from p2p.mesh.store_and_forward import StoreAndForward, Waiting
from p2p.wire.messages import EVERYONE, pack


class TestWaysToOneNode:
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

    def test_without_any_route_the_error_names_each_failure(self):
        router = make()
        with pytest.raises(DeliveryError) as caught:
            router.send(0.0, node(1), NOTE, HELLO)
        ways = ["direct", "grenache", "relayed", "queued"]
        assert [way for way, _ in caught.value.tried] == ways
        assert dict(caught.value.tried)["direct"] == "not connected"
        assert dict(caught.value.tried)["grenache"] == "no Grape is used"
        assert "may not be queued" in dict(caught.value.tried)["queued"]
        assert router.take_outgoing() == []

    def test_a_node_that_is_linked_over_grenache_is_sent_to_that_way(self):
        router = make()
        router.link_up(0.0, node(1), Way.GRENACHE)
        assert router.send(0.0, node(1), NOTE, HELLO) is Way.GRENACHE
        [outgoing] = router.take_outgoing()
        assert outgoing.peers == (node(1),)
        assert (router.counters["sent_grenache"], router.counters["sent_direct"]) == (1, 0)

    def test_a_link_over_grenache_comes_before_relaying(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, pack("I am here"))
        mesh.run(1.0)
        assert mesh.send(0, 2, HELLO) == Way.RELAYED
        mesh.routers[0].link_up(mesh.now, mesh.ids[2], Way.GRENACHE)
        assert mesh.routers[0].send(mesh.now, mesh.ids[2], NOTE, HELLO) is Way.GRENACHE

    def test_the_error_names_the_reason_that_grenache_could_not_deliver(self):
        router = make(host=Host())
        with pytest.raises(DeliveryError) as caught:
            router.send(0.0, node(1), NOTE, HELLO)
        assert dict(caught.value.tried)["grenache"] == f"{node(1)[:1]} was not found"

    def test_queued_messages_leave_over_grenache_too(self):
        router = make()
        assert router.send(0.0, node(1), NOTE, HELLO, queue_for=10.0) is Way.QUEUED
        router.link_up(1.0, node(1), Way.GRENACHE)
        assert router.counters["sent_grenache"] == 1

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
        while len(router.delivery.waiting):
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
        assert len(router.delivery.waiting) == 1
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

    def test_a_route_without_recent_messages_is_not_taken(self):
        mesh = VirtualMesh(3)
        mesh.chain()
        mesh.broadcast(2, HELLO)
        mesh.run(limits.ROUTE_TTL + 1.0)
        with pytest.raises(DeliveryError):
            mesh.send(0, 2, HELLO)

    def test_invalid_recipients_and_sizes_are_errors_of_the_caller(self):
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
        waiting = StoreAndForward(max_bytes=3000, max_per_peer=4)
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
                offered = []
                waiting.flush(now, to, lambda m, all_=offered: all_.append(m) or len(all_) == 1)
                assert offered[:1] == ([] if first is None else [first])
                if first is not None:
                    plain.remove((to, first))
            else:
                now += amount / 10
                gone = [entry for entry in plain if entry[1].expires <= now]
                assert waiting.expire(now) == len(gone)
                plain = [entry for entry in plain if entry not in gone]
            assert len(waiting) == len(plain)
            assert waiting.bytes == sum(len(m.payload) + 257 for _, m in plain)
            assert waiting.next_deadline() == min((m.expires for _, m in plain), default=None)

    def test_delivered_messages_leave_nothing_behind(self):
        waiting = StoreAndForward()
        for number in range(10_000):
            waiting.add("a", Waiting("t", b"", 1e9 + number))
            waiting.flush(0.0, "a", lambda message: True)
        assert len(waiting._expiries) < 200
