"""Observed address: a vote of peers on the address from which this node is seen. No I/O.

Each peer says in the handshake from which address it sees this node, and any of them may lie. So the observers of one
network group (/16, IPv6 /32) have one vote together, and an address is confirmed by `CONFIRMING` groups that are a
majority. With fewer groups those there decide, and the address is marked unconfirmed. IPv4 and IPv6 are separate votes.

A peer on the LAN, or on this machine, sees the address within: its word says nothing about the outside and has no vote.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Final

import msgspec

from p2p.base.host_port import is_ip, normal_host
from p2p.base.network_group import is_local, network_group
from p2p.base.reach import Reach, may_name
from p2p.ground.bounded_map import BoundedMap

CONFIRMING: Final = 3  # network groups that agree
VOTE_KEPT: Final = 120.0  # seconds; after the link of the observer is gone
MAX_OBSERVERS: Final = 256


class Observation(msgspec.Struct, frozen=True):
    """One peer's view of this node. `local`: this side's address of the connection, as the socket shows it."""

    observer: str  # node id
    observer_address: str
    seen_host: str
    seen_port: int  # 0: not stated
    local: tuple[str, int]
    outbound: bool  # this node dialled, so that `seen_port` is the NAT's choice
    at: float


class ExternalAddress(msgspec.Struct, frozen=True):
    """Result of the vote."""

    host: str
    confirmed: bool
    groups: int  # that agree
    translated: bool  # no interface of this machine has it: a NAT is between


class ObservedAddresses:
    """Votes of observers. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._votes: BoundedMap[str, Observation] = BoundedMap(MAX_OBSERVERS)
        self._expires: dict[str, float] = {}  # observers whose link is gone

    def add(self, observation: Observation) -> bool:
        """Add or replace the vote of an observer; returns False if it has none."""
        seen = observation.seen_host
        if is_local(observation.observer_address):
            return False
        if not is_ip(seen) or not may_name(Reach.PUBLIC, seen):
            return False
        self._votes[observation.observer] = observation
        self._expires.pop(observation.observer, None)
        return True

    def link_lost(self, observer: str, now: float) -> None:
        """Keep the vote of a peer without a link for a limited time."""
        if observer in self._votes:
            self._expires[observer] = now + VOTE_KEPT

    def current(self, now: float) -> list[Observation]:
        """Return the votes that count, oldest first."""
        for observer, until in list(self._expires.items()):
            if until <= now or observer not in self._votes:
                del self._expires[observer]
                self._votes.pop(observer, None)
        return sorted(self._votes.values(), key=lambda vote: vote.at)

    def external(self, now: float, version: int = 4) -> ExternalAddress | None:
        """Return the address that the vote gives for an IP version, None without observers."""
        by_group: dict[str, Observation] = {}
        for vote in self.current(now):
            if (":" in vote.seen_host) == (version == 6):
                by_group[network_group(vote.observer_address)] = vote  # the latest of the group
        if not by_group:
            return None
        counts = Counter(normal_host(vote.seen_host) for vote in by_group.values())
        latest = {normal_host(vote.seen_host): vote.at for vote in by_group.values()}
        host = max(counts, key=lambda each: (counts[each], latest.get(each, -inf)))
        groups = counts[host]
        inside = {normal_host(v.local[0]) for v in by_group.values() if v.local[0]}
        return ExternalAddress(
            host,
            confirmed=groups >= CONFIRMING and 2 * groups > len(by_group),
            groups=groups,
            translated=host not in inside,
        )
