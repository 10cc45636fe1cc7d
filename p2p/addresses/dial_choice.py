"""Choice of the addresses to dial next. Pure: no I/O, no clock; it changes nothing.

Dials prefer network groups without an outbound link, and at most `OUTBOUND_PER_GROUP` outbound links share a group,
so addresses of few groups cannot fill all outbound slots.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import chain, zip_longest
from typing import Final

from p2p.addresses.address import Address, Key, quality
from p2p.base.network_group import is_local, network_group

OUTBOUND_PER_GROUP: Final = 4  # outbound links in one network group, local addresses aside


class DialChoice:
    """Choices among `addresses`, a live view (an `AddressBook`). `now` is in monotonic seconds."""

    def __init__(
        self,
        addresses: Iterable[Address],
        banned: Callable[[Address], bool] = lambda _: False,
        ready_at: Callable[[Address, float], float] = lambda _, now: now,
    ) -> None:
        """`banned`: an address must not be dialled now; `ready_at`: from when on it is within its budget."""
        self._addresses = addresses
        self._banned = banned
        self._ready_at = ready_at

    def candidates(
        self,
        now: float,
        rng: random.Random,
        *,
        connected: Container[str],
        busy: Container[Key],
        limit: int,
        grenache_limit: int | None = None,
        pinned_only: bool = False,
        groups: Mapping[str, int] | None = None,
        farther_only: bool = False,
    ) -> list[Address]:
        """Return the addresses to dial now, at most `limit`, one for each node.

        Pinned addresses first, then anchors, then addresses of network groups without an outbound link, tried
        and untried in turn, so that neither starves the other. `groups`: outbound links of each group.
        `connected`: node ids that have a link. `busy`: addresses being dialled. `grenache_limit`: how
        many of them over Grenache. `farther_only`: besides pinned addresses and anchors only those of groups without
        an outbound link.
        """
        due = [
            a
            for a in self._addresses
            if self._due_at(a, now) <= now and self._dialable(a, connected, busy)
        ]
        pinned = [a for a in due if a.pinned(now)]
        pinned.sort(key=quality)
        rest: Iterable[Address | None] = ()
        if not pinned_only:
            others = [a for a in due if not a.pinned(now)]
            rng.shuffle(others)  # random, so that no peer can choose the order among equals
            anchors = [a for a in others if a.anchor]
            tried = sorted((a for a in others if a.tried and not a.anchor), key=quality)
            untried = sorted((a for a in others if not a.tried and not a.anchor), key=quality)
            rest = [*anchors, *chain.from_iterable(zip_longest(tried, untried))]
        under_way = [a for a in self._addresses if a.key in busy]
        dialling = {a.node_id for a in under_way}
        taken = Counter(groups or {})
        taken.update(group for a in under_way if (group := _diversity_group(a)) is not None)
        rest = _diverse(rest, taken)
        chosen: list[Address] = []
        over_grenache = 0
        for address in chain(pinned, rest):
            if len(chosen) >= limit:
                break
            if address is None or (address.node_id is not None and address.node_id in dialling):
                continue
            if address.carrier == "grenache":
                if over_grenache == grenache_limit:
                    continue
                over_grenache += 1
            group = None if address.pinned(now) or address.anchor else _diversity_group(address)
            if group is not None:
                if taken[group] >= (1 if farther_only else OUTBOUND_PER_GROUP):
                    continue
                taken[group] += 1
            dialling.add(address.node_id)
            chosen.append(address)
        return chosen

    def feelers(
        self,
        now: float,
        *,
        unproven: Container[str],
        indirect: Container[str] = (),
        busy: Container[Key],
        limit: int,
    ) -> list[Address]:
        """Return TCP addresses of connected nodes to dial as feelers.

        They prove an address, or replace a link over Grenache by a direct one. `unproven`: connected node ids
        without a tried address; `indirect`: those without a direct link.
        """
        due = (
            a
            for a in self._addresses
            if a.node_id is not None
            and a.carrier == "tcp"
            and ((a.node_id in unproven and not a.tried) or a.node_id in indirect)
            and not a.ourselves
            and a.key not in busy
            and self._due_at(a, now) <= now
        )
        return sorted(due, key=quality)[:limit]

    def next_due(self, now: float, *, skip: Container[str], busy: Container[Key]) -> float | None:
        """Return the time at which the next address comes due (monotonic seconds), later than `now`."""
        times = [
            at
            for a in self._addresses
            if now < (at := self._due_at(a, now)) < math.inf and self._dialable(a, skip, busy)
        ]
        return min(times, default=None)

    def _due_at(self, address: Address, now: float) -> float:
        if address.next_dial > now:
            return address.next_dial
        return max(address.next_dial, self._ready_at(address, now))

    def _dialable(self, address: Address, connected: Container[str], busy: Container[Key]) -> bool:
        if address.ourselves or address.key in busy or self._banned(address):
            return False
        return address.node_id is None or address.node_id not in connected


def outbound_groups(hosts: Iterable[str]) -> Counter[str]:
    """Count the outbound links, given by their addresses, of each network group; local ones aside."""
    return Counter(network_group(host) for host in hosts if not is_local(host))


def _diversity_group(address: Address) -> str | None:
    return None if is_local(address.host) else network_group(address.host)


def _diverse(rest: Iterable[Address | None], taken: Mapping[str, int]) -> list[Address]:
    """Sort by the number of outbound links in the group of an address; the order is kept among equals."""
    counted = Counter(taken)
    ranked: list[tuple[int, Address]] = []
    for address in rest:
        if address is None:
            continue
        group = _diversity_group(address)
        if address.anchor or group is None:
            ranked.append((0, address))
            continue
        ranked.append((counted[group], address))
        counted[group] += 1
    return [address for _, address in sorted(ranked, key=lambda pair: pair[0])]
