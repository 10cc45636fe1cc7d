"""Verification of addresses in virtual time: servers that tell the truth, lie, refuse and vanish."""

from __future__ import annotations

import itertools

import pytest

from p2p.reachability.candidates import RECHECK, RETRY_FIRST
from p2p.reachability.observed_address import Observation
from p2p.reachability.reachability import (
    DialBackRequest,
    DialBackServer,
    MappingProbe,
    ReachabilityCore,
)
from p2p.reachability.report import report

OUTSIDE = "11.9.0.1"
LISTEN = 3000


class World:
    """A node whose `open` addresses let dial-backs in. `liars` say that they failed, `refusing` do not dial."""

    def __init__(self, *, given: tuple[tuple[str, int], ...] = ()) -> None:
        numbers = itertools.count()
        self.core = ReachabilityCore(LISTEN, lambda: next(numbers).to_bytes(16, "big"), given=given)
        self.open: set[tuple[str, int]] = set()
        self.liars: set[str] = set()
        self.boasters: set[str] = set()  # claim a success without dialling
        self.refusing: set[str] = set()
        self.ports: dict[str, int] = {}  # outside port by probed peer
        self.asked: list[tuple[float, str, tuple[str, int]]] = []
        self.probed: list[str] = []
        self.now = 0.0

    def link(
        self, number: int, *, seen: str = OUTSIDE, local: str = "192.168.1.2", host: str = ""
    ) -> str:
        host = host or f"11.{number}.0.1"
        node = f"node {number}"
        observation = Observation(node, host, seen, 40_000, (local, 40_000), True, self.now)
        self.core.link_up(DialBackServer(node, host, (host, 3000)), observation, self.now)
        return node

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            for action in self.core.due(self.now):
                if isinstance(action, MappingProbe):
                    self.probed.append(action.server)
                    self.core.mapping_probed(action, self.ports.get(action.server), self.now)
                else:
                    self._dial_back(action)

    def _dial_back(self, request: DialBackRequest) -> None:
        where = (request.host, request.port)
        self.asked.append((self.now, request.server, where))
        dialled: bool | None = where in self.open
        if request.server in self.refusing:
            dialled = None
        elif request.server in self.boasters:
            dialled = True
        elif request.server in self.liars:
            dialled = False
        elif dialled:
            assert self.core.probe_arrived(request.nonce)
        self.core.dial_back_answered(request, dialled, self.now)

    @property
    def stated(self) -> list[tuple[str, int]]:
        return self.core.statement(self.now).addresses

    def say(self, mapping: str = "") -> str:
        found = report(self.core, self.now, mapping)
        return f"{found.state}: {found.text}"


def world(peers: int = 3) -> World:
    found = World()
    for number in range(1, peers + 1):
        found.link(number)
    return found


def test_an_address_is_announced_once_a_dial_back_came_through() -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    assert node.stated == []
    node.run(10)
    assert node.stated == [(OUTSIDE, LISTEN)]
    assert node.core.statement(node.now).reachable is True
    assert node.say() == f"reachable: reachable at {OUTSIDE}:{LISTEN}"
    assert {server for _, server, _ in node.asked} == {"node 1", "node 2", "node 3"}


def test_a_failing_address_is_not_announced_and_the_operator_gets_a_remedy() -> None:
    node = world()
    node.ports = {f"node {n}": LISTEN for n in range(1, 4)}
    node.run(10)
    assert node.stated == []
    assert node.core.statement(node.now).reachable is False
    assert node.say().startswith("nat: behind a port-restricted NAT at 11.9.0.1")
    assert "forward TCP port 3000" in report(node.core, node.now).advice
    assert node.core.announced_port("11.1.0.1", LISTEN) == 0
    assert node.core.announced_port("192.168.1.7", LISTEN) == LISTEN


def test_external_addresses_are_its_own_once_confirmed_mapped_or_given() -> None:
    world = World(given=(("11.5.0.5", 3000),))
    for number in (1, 2, 3):
        assert not world.core.is_own(OUTSIDE, world.now)
        world.link(number)
    assert world.core.is_own(OUTSIDE, world.now)
    world.core.mapped(("11.6.0.6", 4000), world.now)
    own = [world.core.is_own(f"11.{n}.0.{n}", world.now) for n in (5, 6, 7)]
    assert own == [True, True, False]


def test_a_symmetric_nat_is_recognised_by_two_probes() -> None:
    node = world()
    node.ports = {"node 1": 5000, "node 2": 6000, "node 3": 7000}
    node.run(10)
    assert node.say().startswith("nat: behind a symmetric NAT")


def test_without_a_nat_a_closed_port_is_the_firewalls() -> None:
    node = World()
    for number in (1, 2, 3):
        node.link(number, local=OUTSIDE)
    node.run(10)
    assert node.say().startswith("relays: only through relays")
    assert "firewall" in report(node.core, node.now).advice
    assert node.probed == []


def test_a_server_that_lies_about_a_failure_is_outvoted() -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    node.liars.add("node 1")
    node.run(10)
    assert node.stated == [(OUTSIDE, LISTEN)]


def test_a_success_counts_only_if_the_nonce_arrived() -> None:
    node = world()
    node.boasters = {"node 1", "node 2", "node 3"}
    node.run(10)
    assert node.stated == []
    assert node.core.reachable() is None


def test_one_server_decides_when_there_is_no_other_and_the_result_is_unconfirmed() -> None:
    node = world(1)
    node.open.add((OUTSIDE, LISTEN))
    node.run(10)
    assert node.say() == f"reachable: reachable at {OUTSIDE}:{LISTEN}, unconfirmed"


def test_refusing_servers_get_no_request_for_a_minute() -> None:
    node = world()
    node.refusing = {"node 1", "node 2", "node 3"}
    node.run(RETRY_FIRST - 5)
    assert len(node.asked) == 3
    node.refusing = set()
    node.open.add((OUTSIDE, LISTEN))
    node.run(20)
    assert node.stated == [(OUTSIDE, LISTEN)]


def test_an_address_that_stops_answering_is_withdrawn_at_the_next_check() -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    node.run(10)
    node.open.clear()
    node.run(RECHECK + 10)
    assert node.stated == []
    node.open.add((OUTSIDE, LISTEN))
    node.run(3 * RETRY_FIRST)
    assert node.stated == [(OUTSIDE, LISTEN)]


def test_a_verified_address_is_checked_four_times_an_hour() -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    node.run(3600)
    assert 3 * 4 <= len(node.asked) <= 3 * 5


def test_the_address_changes_with_the_vote() -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    node.run(10)
    for number in (1, 2, 3):
        node.link(number, seen="11.9.0.2")
    assert node.stated == []
    node.open = {("11.9.0.2", LISTEN)}
    node.run(10)
    assert node.stated == [("11.9.0.2", LISTEN)]


def test_a_mapped_address_is_announced_after_its_dial_back_and_withdrawn_with_the_mapping() -> None:
    node = world()
    node.open.add((OUTSIDE, 4444))
    node.core.mapped((OUTSIDE, 4444), node.now)
    node.run(40)
    assert node.stated == [(OUTSIDE, 4444)]
    assert node.say() == f"mapped: mapped by the router, reachable at {OUTSIDE}:4444"
    assert node.core.announced_port("11.1.0.1", LISTEN) == 4444
    assert node.core.statement(node.now).mapped
    node.core.mapped(None, node.now)
    assert node.stated == []


def test_an_address_from_the_operator_needs_no_proof() -> None:
    node = World(given=((OUTSIDE, 5555),))
    node.link(1)
    assert node.stated == [(OUTSIDE, 5555)]
    node.run(30)
    assert all(where != (OUTSIDE, 5555) for _, _, where in node.asked)


def test_peers_on_the_lan_neither_vote_nor_serve() -> None:
    node = World()
    node.link(1, host="192.168.1.7", seen="192.168.1.2")
    node.run(60)
    assert node.asked == []
    assert node.say().startswith("local: ")


def test_a_foreign_nonce_is_not_a_dial_back() -> None:
    node = world()
    assert not node.core.probe_arrived(b"x" * 16)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_server_that_vanishes_leaves_the_others(gone: int) -> None:
    node = world()
    node.open.add((OUTSIDE, LISTEN))
    node.run(0.5)
    node.core.link_down(f"node {gone}", node.now)
    node.run(60)
    assert node.stated == [(OUTSIDE, LISTEN)]
