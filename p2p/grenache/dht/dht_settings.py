"""Settings of a DHT node, with the reason of each default. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from p2p.base.reach import Reach
from p2p.grenache.dht.compact_addresses import ipv4_reach

K: Final = 20  # nodes that store an entry, and nodes in a bucket, as in the Node.js Grape

GivenAddresses = Literal["never", "private", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtSettings:
    """Settings of a DHT node."""

    peer_max_age: float = 120.0  # lifetime of an announcement that is not renewed
    value_max_age: float = 24 * 3600.0  # as with announcements; BEP 44 requires 2 hours at least
    node_liveness: float = 60.0  # a node without a message for this long is pinged
    # Queries of one search in flight; the Node.js Grape always uses 16. With 32, as
    # GRAPE_CONCURRENCY and the command line have it, a lookup among 200 nodes takes 33 messages
    # instead of 29, and 270 ms instead of 306; the results are as often complete
    # (tests.simulation.dht, whose figures in docs/grenache.md are for 16).
    concurrency: int = 16
    max_peers: int = 20_000  # announcements held, of all services together
    max_peers_per_service: int = 2_000
    max_peers_per_source: int = 5_000  # announcements held that came from one IP address
    max_values: int = 5_000  # BEP 44 values held, about 1 kB each
    max_own: int = 2_000  # announcements made at this node itself
    max_searches: int = 1_000  # at once; each has a table of some ten kB
    queries_per_second: float = 500.0  # answered to one IP address, on average; loopback is exempt
    query_burst: float = 1_000.0
    max_sources: int = 10_000  # IP addresses remembered, for their rates and for having answered
    public_host: str | None = None  # IPv4 address to record for what is announced at this node
    accept_given_addresses: GivenAddresses = "private"  # accepted senders: see DhtNode
    bep42: bool = False  # require ids that fit public addresses, which Node.js Grapes do not have

    def __post_init__(self) -> None:
        if self.public_host is not None and ipv4_reach(self.public_host) is Reach.NONE:
            raise ValueError(
                f"public_host is {self.public_host!r}; expected an IPv4 address that can be reached"
            )
        for name in ("peer_max_age", "value_max_age", "node_liveness", "queries_per_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in (
            "concurrency",
            "max_peers",
            "max_peers_per_service",
            "max_peers_per_source",
            "max_values",
            "max_own",
            "max_searches",
            "query_burst",
            "max_sources",
        ):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
