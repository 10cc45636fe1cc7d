"""Address of a peer, with its origin, its history and its rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from p2p.base.host_port import format_host_port
from p2p.base.reach import Reach, may_dial, reach, teller
from p2p.wire.link import Carrier

INBOUND: Final = "inbound"  # source of a listening address that a peer which dialled us reports
MANUAL: Final = "manual"  # source of an address that the operator dialled
OPERATOR: Final = (
    MANUAL,
    "bootstrap",
    "persisted",
)  # named by the operator, or proven in an earlier run

# Order of dialling. Addresses of inbound peers come last: these peers have a link already.
SOURCE_PRIORITY: Final = (
    MANUAL,
    "persisted",
    "bootstrap",
    "mdns",
    "dns",
    "list",
    "grape",
    "exchange",
    INBOUND,
)

Key = tuple[Carrier, str, int]
"""Carrier, host and port: what tells addresses apart."""


class PeerFound(msgspec.Struct, frozen=True):
    """An address reported by a discovery strategy. Nothing of it is proven."""

    host: str
    port: int
    node_id: str | None
    source: str  # name of the strategy
    via: str = ""  # node id of the peer that sent it (peer exchange)
    carrier: Carrier = "tcp"  # how it is dialled
    via_address: str = ""  # IP address of the peer that sent it
    by: Reach = Reach.PUBLIC  # without that: reach of the source

    @property
    def usable(self) -> bool:
        """True for what the operator named, and for what its source may name."""
        if self.source in OPERATOR:
            return reach(self.host) is not Reach.NONE and 1 <= self.port <= 65535
        by = teller(self.via_address) if self.via_address else self.by
        if self.source == INBOUND:
            by = reach(self.host)  # a peer names the port at which it listens, where it is
        return may_dial(by, self.host, self.port)


@dataclass(slots=True, eq=False)
class Address:
    """State of one HOST:PORT of one carrier."""

    host: str
    port: int
    node_id: str | None
    source: str
    via: str = ""
    carrier: Carrier = "tcp"
    tried: bool = False
    pinned_until: float = -math.inf  # monotonic seconds
    added: float = 0.0  # monotonic seconds
    last_attempt: float = -math.inf  # monotonic seconds
    last_success: float | None = None  # seconds since the epoch
    failures: int = 0  # dials that failed in a row
    rung: int = 0  # of the reconnect ladder
    next_dial: float = 0.0  # monotonic seconds
    last_error: str | None = None
    refused: bool = False  # the last dial ended with a reason that will not go away soon
    ourselves: bool = False  # it leads back to this node
    duplicate: bool = False  # it leads to a connected peer, but which is unknown
    bucket: int = -1  # of untried addresses; -1 for none
    teller: str = ""  # network group, or else name, of its source
    anchor: bool = False  # an outbound link of the last run: dialled first
    tested: bool = False  # oldest of an overflowing tried bucket: the next dial decides

    @property
    def key(self) -> Key:
        return (self.carrier, self.host, self.port)

    def pinned(self, now: float) -> bool:
        return now < self.pinned_until

    def __str__(self) -> str:
        where = format_host_port(self.host, self.port)
        return where if self.carrier == "tcp" else f"{where} over Grenache"


def priority(source: str) -> int:
    return SOURCE_PRIORITY.index(source) if source in SOURCE_PRIORITY else len(SOURCE_PRIORITY)


def quality(address: Address) -> tuple[bool, int, bool, float, int]:
    """Return the sort key of an address; lower is better."""
    return (
        not address.tried,
        address.failures,
        address.carrier != "tcp",
        -(address.last_success or 0.0),
        priority(address.source),
    )
