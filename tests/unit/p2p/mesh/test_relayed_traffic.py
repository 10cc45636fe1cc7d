"""Traffic of relayed messages, by node and in all."""

from __future__ import annotations

from router_kit import make

from p2p.mesh.delivery import MAX_RELAYED


def test_the_total_holds_those_that_made_room_and_nothing_grows_with_them():
    delivery = make().delivery
    nodes = 2 * MAX_RELAYED
    for number in range(nodes):
        stats = delivery.traffic(f"node-{number}")
        stats.messages_sent += 1
        stats.bytes_received += 10
    assert len(delivery.relayed) == MAX_RELAYED
    for _ in range(2):  # asking changes nothing
        total = delivery.relayed_in_all()
        assert (total.messages_sent, total.bytes_received) == (nodes, 10 * nodes)
        assert (total.messages_received, total.bytes_sent) == (0, 0)
