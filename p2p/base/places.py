"""Connection slots of a listening port that strangers can reach, and who gives way when they are all taken.

A slot has a rank. Each caller begins as a stranger, a connection from this machine as local; who proves to hold a key rises
to `KNOWN`, the operator to `OPERATOR`. A connection waits, before its first request or for its next one, or it works: a
request is being answered, or it is a WebSocket.

    the newcomer finds                                   the slot that it gets
    its address or its network has its share             of the same address or network, if a stranger waits there
    all slots taken                                      of the stranger who has waited longest, or else, unless the
                                                         newcomer is one too, has been at work for longest;
                                                         else of who has waited longest of the newcomer's own rank;
                                                         else of a lower rank, waiting or at work;
                                                         else, among strangers, of the address with the most slots at
                                                         work if it has two more than the newcomer's

So strangers never keep the operator or the holder of a key out: a command on this machine takes a stranger's slot, and
strangers do not take it back. A partial request that is held to block others loses its slot first.

Rules of this file: every call but `enter` on a full port takes constant time, and nothing here waits.
"""

from __future__ import annotations

import ipaddress
import resource
from collections import Counter
from collections.abc import Hashable, Iterable
from enum import IntEnum
from functools import lru_cache
from typing import Final, Generic, TypeVar

from p2p.base.network_group import network_group

T = TypeVar("T", bound=Hashable)


def within_files(most: int, part: int) -> int:
    """Return `most`, or one of `part` equal parts of the files that this process may open: the journal, the peers and other ports need
    some."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // part))


class Rank(IntEnum):
    """Standing of a connection's caller."""

    STRANGER = 0
    KNOWN = 1  # a key
    LOCAL = 2  # a connection from this machine
    OPERATOR = 3


@lru_cache(maxsize=4096)
def address_group(address: str) -> str | None:
    """Return the key of the addresses that one client has: an IPv4 address or an IPv6 /64 (RFC 6177). None for this
    machine."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        if mapped is None:
            if found.is_loopback:
                return None
            return str(ipaddress.ip_network((found, 64), strict=False))
        found = mapped
    return None if found.is_loopback else str(found)


class Places(Generic[T]):
    """See the module's docstring.

    Args:
        limit: slots in all.
        per_address: slots of one `address_group` other than this machine.
        per_network: slots of one `network_group`; 0 is any number.
    """

    def __init__(self, limit: int, per_address: int, per_network: int = 0) -> None:
        self._limit = limit
        self._per_address = per_address
        self._per_network = per_network
        self._held: dict[T, Rank] = {}
        self._groups: dict[T, tuple[str, str]] = {}  # address and network, of those that have one
        self._addresses = Counter[str]()
        self._networks = Counter[str]()
        self._waiting: Final[dict[Rank, dict[T, None]]] = {
            rank: {} for rank in Rank
        }  # longest first
        self._working: Final[dict[Rank, dict[T, None]]] = {rank: {} for rank in Rank}

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> list[T]:
        """Return those that have a slot."""
        return list(self._held)

    def enter(self, who: T, address: str, rank: Rank = Rank.STRANGER) -> T | None:
        """Give `who` a slot, waiting. Returns the one that loses its slot for it; `who` itself if there is none to have."""
        group = address_group(address)
        network = ""
        if group is None:
            rank = max(rank, Rank.LOCAL)
        elif self._per_network:
            network = network_group(address)
        goes: T | None = None
        if group is not None and self._addresses[group] >= self._per_address:
            goes = self._of_share(0, group, who)
        elif network and self._networks[network] >= self._per_network:
            goes = self._of_share(1, network, who)
        elif len(self._held) >= self._limit:
            goes = self._giving_way(who, rank, group)
        if goes is not None:
            self.leave(goes)
        if goes is not who:
            self._held[who] = rank
            self._waiting[rank][who] = None
            if group is not None:
                self._groups[who] = group, network
                self._addresses[group] += 1
                self._networks[network] += 1
        return goes

    def rise(self, who: T, rank: Rank) -> None:
        """Give a connection a higher rank, for as long as it lasts."""
        old = self._held.get(who)
        if old is not None and old < rank:
            self._held[who] = rank
            for slots in (self._waiting, self._working):
                if who in slots[old]:
                    del slots[old][who]
                    slots[rank][who] = None

    def work(self, who: T) -> None:
        """Mark a connection as at work."""
        rank = self._held.get(who)
        if rank is not None:
            self._waiting[rank].pop(who, None)
            self._working[rank][who] = None

    def wait(self, who: T) -> None:
        """Mark a connection as waiting, from now on."""
        rank = self._held.get(who)
        if rank is not None:
            waiting = self._waiting[rank]
            if who in waiting:
                del waiting[who]
            else:
                self._working[rank].pop(who, None)
            waiting[who] = None

    def leave(self, who: T) -> None:
        """Take a slot back; unknown connections are ignored."""
        rank = self._held.pop(who, None)
        if rank is None:
            return
        self._waiting[rank].pop(who, None)
        self._working[rank].pop(who, None)
        if who in self._groups:
            for counts, name in zip(
                (self._addresses, self._networks), self._groups.pop(who), strict=True
            ):
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]

    def _of_share(self, level: int, name: str, who: T) -> T:
        waiting: Iterable[T] = self._waiting[Rank.STRANGER]
        return next((each for each in waiting if self._groups[each][level] == name), who)

    def _giving_way(self, who: T, rank: Rank, group: str | None) -> T:
        for other in sorted({Rank.STRANGER, rank}) + [r for r in Rank if Rank.STRANGER < r < rank]:
            if self._waiting[other]:
                return next(iter(self._waiting[other]))
            if other < rank and self._working[other]:
                return next(iter(self._working[other]))
        if rank is not Rank.STRANGER or group is None:
            return who
        at_work = self._working[Rank.STRANGER]
        shares = Counter(self._groups[each][0] for each in at_work)
        largest, count = shares.most_common(1)[0] if shares else ("", 0)
        if count <= self._addresses[group] + 1:
            return who
        return next(each for each in reversed(at_work) if self._groups[each][0] == largest)
