"""Records of a DNS seed: a name under which a group of nodes publishes its addresses.

Under `_exchange-node._tcp.NAME` are SRV records (RFC 2782) with hosts and ports, and TXT records of the form
`node=ID@HOST:PORT`, which add the node's id, so that only this node is accepted at the address. A name
without either is a host: its addresses are dialled at the default port.

Nothing here is proven. A forged answer leads to other nodes of the same network, no further: ids and signatures are
checked when a link is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2p.base.host_port import normal_host, parse_host_port
from p2p.base.identity import is_node_id

SERVICE: Final = "_exchange-node._tcp"
MAX_RECORDS: Final = 64  # of a kind that are used
_NODE: Final = "node="


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class SeedPeer:
    """A node that a seed names. `host`: an IP address or a name."""

    host: str
    port: int
    node_id: str | None = None


def seed_peers(services: Iterable[ServiceRecord], texts: Iterable[str]) -> list[SeedPeer]:
    """Return the nodes that the records name, by priority; with an id if a text has one.

    Records that cannot be read are left out: a seed also serves later versions.
    """
    ids = {
        (peer.host, peer.port): peer for peer in map(_of_text, list(texts)[:MAX_RECORDS]) if peer
    }
    found: dict[tuple[str, int], SeedPeer] = {}
    ordered = sorted(services, key=lambda record: (record.priority, -record.weight))
    for record in ordered[:MAX_RECORDS]:
        host = normal_host(record.target)
        if host and 1 <= record.port <= 65535:  # "." as target: not offered here
            key = (host, record.port)
            found.setdefault(key, ids.pop(key, SeedPeer(host, record.port)))
    return [*found.values(), *ids.values()]


def _of_text(text: str) -> SeedPeer | None:
    node_id, at, address = text.removeprefix(_NODE).partition("@")
    if not text.startswith(_NODE) or not at or not is_node_id(node_id):
        return None
    try:
        return SeedPeer(*parse_host_port(address), node_id)
    except ValueError:
        return None
