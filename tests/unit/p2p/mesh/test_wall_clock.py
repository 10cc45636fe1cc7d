"""The wall clock of a node may jump or stop: messages arrive all the same, each once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from virtual_mesh import NEWS, NOTE, anyone, identity

from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received

NOW = 1_700_000_000_000  # ms


@pytest.mark.parametrize(
    "wall",
    [
        lambda number: NOW - 3_600_000 * (number > 5),  # an hour back
        lambda number: NOW + 86_400_000 * (number > 5),  # a day ahead
        lambda number: NOW,  # it stands still
    ],
)
def test_broadcasts_and_messages_arrive_once_each_whatever_the_senders_clock_does(
    wall: Callable[[int], int],
) -> None:
    sent = 0
    routers = [
        MessageRouter(identity(i), rng=random.Random(i), wall_ms=lambda: wall(sent))
        for i in range(2)
    ]
    got: list[bytes] = []

    def take(received: Received) -> bool:
        got.append(bytes(received.payload))
        return True

    for kind in (NEWS, NOTE):
        routers[1].handle(kind, take, origin=anyone)
    ids = [identity(i).node_id for i in range(2)]
    for i in range(2):
        routers[i].link_up(0.0, ids[1 - i])
    expected = []
    for number in range(12):
        sent = number
        now = number * 0.1
        for kind in (NEWS, NOTE):
            payload = b"\xa4%s%02d" % (kind[:2].encode(), number)
            expected.append(payload)
            if kind == NEWS:
                routers[0].broadcast(now, kind, payload)
            else:
                routers[0].send(now, ids[1], kind, payload)
        for _ in range(3):
            for sender in (0, 1):
                routers[sender].tick(now)
                for outgoing in routers[sender].take_outgoing():
                    routers[1 - sender].receive(now, ids[sender], outgoing.envelope)
    assert sorted(got) == sorted(expected)
