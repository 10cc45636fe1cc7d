"""External IP address of this node, as reported by other nodes (BEP 42)."""

from __future__ import annotations

from collections import Counter
from typing import Final

from p2p.grenache.dht.compact_addresses import Reach, reach
from p2p.ground.bounded_map import BoundedMap

MAX_VOTERS: Final = 32  # the latest; one vote per IP address


class SeenAs:
    """Votes of answering nodes about the own address. A node on this machine sees 127.0.0.1, a node
    in the local network perhaps 192.168.1.5, a node outside the router's public address. The votes
    with the widest reach count, and among them the majority.
    """

    def __init__(self) -> None:
        self._votes: BoundedMap[str, str] = BoundedMap(MAX_VOTERS)  # voter -> address that it sees
        self._best: tuple[str | None, int] = (None, 0)

    def vote(self, voter: str, host: str) -> None:
        if self._votes.get(voter) == host:
            self._votes.renew(voter)
            return
        if reach(host) is Reach.NONE or reach(host) > reach(voter):
            return  # a near node cannot see the address of a wider network
        self._votes[voter] = host
        self._best = self._count()

    def best(self) -> tuple[str | None, int]:
        """Return the address and its number of votes."""
        return self._best

    def _count(self) -> tuple[str | None, int]:
        widest = max((reach(host) for host in self._votes.values()), default=Reach.NONE)
        hosts = Counter(host for host in self._votes.values() if reach(host) is widest)
        return max(hosts.items(), key=lambda item: item[1]) if hosts else (None, 0)
