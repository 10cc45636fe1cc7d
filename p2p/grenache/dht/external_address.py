"""External IP address of this node, as reported by other nodes (BEP 42)."""

from __future__ import annotations

from collections import Counter
from typing import Final

from p2p.base.bounded_map import BoundedMap
from p2p.grenache.dht.compact_addresses import Reach, reach

MAX_VOTERS: Final = 32  # the latest; one vote per IP address


class SeenAs:
    """Votes of nodes that answered us.

    A neighbour on this machine sees 127.0.0.1, one in the local network perhaps 192.168.1.5, one
    outside what the router makes of it. The widest reach of what was seen counts, and there the
    majority.
    """

    def __init__(self) -> None:
        self._votes: BoundedMap[str, str] = BoundedMap(MAX_VOTERS)  # voter -> what it sees

    def vote(self, voter: str, host: str) -> None:
        if reach(host) is Reach.NONE or reach(host) > reach(voter):
            return  # who is near cannot know how far away we are seen
        self._votes[voter] = host

    def best(self) -> tuple[str | None, int]:
        """The address and how many said so."""
        widest = max((reach(host) for host in self._votes.values()), default=Reach.NONE)
        hosts = Counter(host for host in self._votes.values() if reach(host) is widest)
        return max(hosts.items(), key=lambda item: item[1]) if hosts else (None, 0)
