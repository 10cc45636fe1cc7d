"""Settings and status of a Grape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.directory import Address

CACHE_SHARE: Final = 10  # of an announcement's life


@dataclass(frozen=True, slots=True, kw_only=True)
class GrapeSettings(DhtSettings):
    """Settings of a Grape: listening addresses and bootstrap nodes, besides those of its DHT node."""

    host: str = "0.0.0.0"
    port: int = 20001  # UDP; 0: the system chooses
    bootstrap: tuple[Address, ...] = ()  # names are allowed; the own address is ignored
    lookup_cache: float = 1.0  # seconds for which a lookup's result is cached; 0: not at all

    @property
    def lookup_cache_s(self) -> float:
        """Seconds for which a lookup's result is cached: at most a small part of an announcement's
        lifetime, so that expired entries are not found for long."""
        return min(self.lookup_cache, self.peer_max_age / CACHE_SHARE)


@dataclass(frozen=True, slots=True)
class BootstrapStatus:
    """Status of a configured bootstrap address."""

    host: str
    port: int
    reachable: bool  # it answered in the last two minutes
    last_answer: float | None  # seconds ago


@dataclass(frozen=True, slots=True)
class GrapeStatus:
    """Status of a Grape."""

    address: Address
    node_id: str  # 40 hex digits
    uptime: float  # seconds
    nodes: int  # in the routing table, answering
    doubtful_nodes: int  # in the routing table, not answering at the moment
    announcements: int  # held for others
    own_announcements: int
    values: int
    seen_as: str | None  # own IP address as reported by others
    bootstrap: tuple[BootstrapStatus, ...]
    counters: dict[str, int]  # since the start
