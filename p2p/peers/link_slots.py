"""Link slots: which peers get one of the MAX_PEERS links. Pure functions over plain records: no I/O, no clock.

An attacker with many connections must not get all slots, nor keep newcomers out. Five rules see to that:

1. Inbound links never take the slots reserved for outbound ones. An attacker chooses whom it dials, not whom this
   node dials.
2. Inbound links of one address, and of one network group, are limited.
3. When inbound slots are full, a newcomer replaces a link only if that makes the set more diverse: the replaced link
   belongs to a group with more links than the newcomer's group. A flood from one network cannot renew itself.
4. Links that were hard to earn are never replaced: of the groups that come first under a secret key (an attacker does
   not know which), with the lowest round trip, with the latest useful news (first delivery of a valid batch), and the
   older half of the rest. Of what remains, the youngest link of the largest group goes (after Bitcoin Core).
5. A newcomer that has not been tried lately is tried all the same, in the place of a link that had its time and brought
   nothing useful, as long as that leaves the set as diverse: of its own group, or of a larger one. Who made room this
   way waits before it takes another's place. So idle links fill a node, an address or a network for seconds only.

Privileged links (pinned, configured, anchors, dialled by the operator) are outside of all limits and never replaced.
An outbound dial that is privileged, or that the node needs to reach its reserve, replaces an inbound link in any case. So
does one into a network group without an outbound link, while these groups are fewer than the reserve: addresses of few
groups, however many, do not keep the others out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Final, NamedTuple

import msgspec

from p2p.base.errors import Code
from p2p.base.network_group import is_local, keyed, network_group

RESERVE_FROM: Final = 8  # MAX_PEERS from which slots are reserved; below it every link counts
RESERVE_SHARE: Final = 4  # one slot of this many is reserved for outbound links ...
RESERVE_MAX: Final = 8  # ... up to this many
PROTECT_GROUPS: Final = 4  # links protected by keyed network group
PROTECT_ROUND_TRIP: Final = 8  # by lowest round trip
PROTECT_USEFUL: Final = 4  # by latest useful news
TRIAL: Final = 10.0  # seconds that every link has, whatever it brings
USEFUL_FOR: Final = 600.0  # seconds since the last useful news
REST: Final = 600.0  # seconds from giving way to taking another's place


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Settings; 0 is no limit. Local: loopback and private networks."""

    max_peers: int = 50
    per_address: int = 4
    per_network: int = 12
    per_address_local: int = 0


class LinkRecord(msgspec.Struct, frozen=True):
    """A link as the rules see it. Times are monotonic seconds."""

    node_id: str
    address: str
    outbound: bool
    privileged: bool = False
    opened_at: float = 0.0
    rtt: float | None = None
    useful_at: float = -inf  # last first delivery of a valid batch
    lan: bool = False  # found on this network segment
    gave_way_at: float = -inf  # of a newcomer: when it last made room for another

    @property
    def group(self) -> str:
        return network_group(self.address)


class LinkRefusal(NamedTuple):
    """Reason for refusing a peer, in words for the peer. `others`: (node id, host, port) of nodes that it may dial in
    place of this one.
    """

    code: Code
    reason: str
    others: tuple[tuple[str, str, int], ...] = ()


class SlotDecision(msgspec.Struct, frozen=True):
    """`refusal` is None if the link is admitted; `evict` is the node whose link makes room for it."""

    refusal: LinkRefusal | None = None
    evict: str | None = None


def reserved_slots(max_peers: int) -> int:
    """Return the number of slots that inbound links never take."""
    return min(RESERVE_MAX, max_peers // RESERVE_SHARE) if max_peers >= RESERVE_FROM else 0


def outbound_reach(addresses: Iterable[str]) -> int:
    """Return the number of network groups that outbound links lead to; a local address counts by itself."""
    groups, local = set(), 0
    for address in addresses:
        if is_local(address):
            local += 1
        else:
            groups.add(network_group(address))
    return len(groups) + local


def decide_slot(
    newcomer: LinkRecord, links: Collection[LinkRecord], limits: SlotLimits, key: bytes
) -> SlotDecision:
    """Decide about a new link beside `links`. `key`: secret of this node, for the choice of groups."""
    if newcomer.outbound or newcomer.privileged:
        return _decide_wanted(newcomer, links, limits, key)
    shared, refusal = _over_limits(newcomer, links, limits)
    if refusal is not None:
        tried = _tried_long_enough(newcomer, shared, key)
        return SlotDecision(refusal) if tried is None else SlotDecision(evict=tried.node_id)
    outbound = sum(link.outbound for link in links)
    held_back = max(0, reserved_slots(limits.max_peers) - outbound)
    if len(links) < limits.max_peers - held_back:
        return SlotDecision()
    evicted = _more_diverse_without(newcomer, links, key)
    evicted = evicted or _tried_long_enough(newcomer, links, key)
    if evicted is None:
        taken = len(links) - outbound
        return _full(f"{taken} inbound links, the rest of MAX_PEERS={limits.max_peers} is reserved")
    return SlotDecision(evict=evicted.node_id)


def decide_in_share(
    newcomer: LinkRecord, share: Collection[LinkRecord], key: bytes
) -> SlotDecision:
    """Decide about a new link of a kind that has as many links as it may: `share`."""
    evicted = _tried_long_enough(newcomer, share, key)
    if evicted is None and newcomer.privileged:
        evicted = _youngest(share)
    return (
        _full(f"{len(share)} of this kind")
        if evicted is None
        else SlotDecision(evict=evicted.node_id)
    )


def _decide_wanted(
    newcomer: LinkRecord, links: Collection[LinkRecord], limits: SlotLimits, key: bytes
) -> SlotDecision:
    """Decide about a link that this node wants: it dialled, or the peer is privileged."""
    if len(links) < limits.max_peers:
        return SlotDecision()
    outbound = [link.address for link in links if link.outbound]
    reserve = reserved_slots(limits.max_peers)
    farther = outbound_reach([*outbound, newcomer.address]) > outbound_reach(outbound)
    if (
        newcomer.privileged
        or newcomer.lan
        or len(outbound) < reserve
        or (farther and outbound_reach(outbound) < reserve)
    ):
        evicted = choose_evicted(links, key) or _youngest_of_largest_group(_replaceable(links))
        if evicted is None and newcomer.privileged:
            evicted = _youngest(links)
        if evicted is not None:
            return SlotDecision(evict=evicted.node_id)
    return _full(f"{len(links)} links, MAX_PEERS={limits.max_peers}")


def _youngest(links: Iterable[LinkRecord]) -> LinkRecord | None:
    others = (link for link in links if not link.privileged)
    return max(others, key=lambda link: link.opened_at, default=None)


def _full(detail: str) -> SlotDecision:
    return SlotDecision(
        LinkRefusal(Code.FULL, f"this node has as many peers as it takes: {detail}")
    )


def _over_limits(
    newcomer: LinkRecord, links: Iterable[LinkRecord], limits: SlotLimits
) -> tuple[list[LinkRecord], LinkRefusal | None]:
    """Return the refusal of an inbound link whose address or group has its share already, and the links of that share."""
    inbound = _replaceable(links)
    local, group = is_local(newcomer.address), newcomer.group
    same = [link for link in inbound if link.address == newcomer.address]
    limit = limits.per_address_local if local else limits.per_address
    if limit and len(same) >= limit:
        setting = "INBOUND_PER_ADDRESS_LOCAL" if local else "INBOUND_PER_ADDRESS"
        return same, _share("address", newcomer.address, len(same), setting)
    same = [link for link in inbound if link.group == group]
    if not local and limits.per_network and len(same) >= limits.per_network:
        return same, _share("network", group, len(same), "INBOUND_PER_NETWORK")
    return [], None


def _share(what: str, where: str, count: int, setting: str) -> LinkRefusal:
    return LinkRefusal(
        Code.FULL, f"this node has {count} links from your {what} {where} ({setting})"
    )


def _more_diverse_without(
    newcomer: LinkRecord, links: Collection[LinkRecord], key: bytes
) -> LinkRecord | None:
    """Return the link to replace by an inbound newcomer, None if the newcomer's group is as large."""
    evicted = choose_evicted(links, key)
    if evicted is None:
        return None
    sizes = Counter(link.group for link in links if not link.outbound)
    return evicted if sizes[evicted.group] > sizes[newcomer.group] + 1 else None


def choose_evicted(links: Iterable[LinkRecord], key: bytes) -> LinkRecord | None:
    """Return the inbound link that is worth least, None if all are protected."""
    return _youngest_of_largest_group(_unprotected(links, key))


def _unprotected(links: Iterable[LinkRecord], key: bytes) -> list[LinkRecord]:
    rest = _replaceable(links)
    for protected in (_by_group(rest, key), _by_round_trip(rest), _by_use(rest)):
        rest = [link for link in rest if link not in protected]
    rest.sort(key=lambda link: link.opened_at)
    return rest[(len(rest) + 1) // 2 :]


def _tried_long_enough(
    newcomer: LinkRecord, links: Collection[LinkRecord], key: bytes
) -> LinkRecord | None:
    """Return the link that gives way to a newcomer that is to be tried, None for none."""
    now = newcomer.opened_at
    if now - newcomer.gave_way_at < REST:
        return None
    inbound = _replaceable(links)
    sizes = Counter(link.group for link in inbound)
    own = newcomer.group
    # Few links are all protected; those that bring nothing are not worth it.
    idle = sorted(
        (link for link in inbound if _is_idle(link, now)), key=lambda link: link.opened_at
    )
    pool = [link for link in _unprotected(links, key) if now - link.opened_at >= TRIAL]
    fitting = [
        link
        for link in chain(pool, idle[len(idle) // 2 :])
        if link.group == own or (_is_idle(link, now) and sizes[link.group] > sizes[own])
    ]
    return min(fitting, key=lambda link: (link.useful_at, link.opened_at), default=None)


def _is_idle(link: LinkRecord, now: float) -> bool:
    return now - link.opened_at >= TRIAL and now - link.useful_at >= USEFUL_FOR


def _replaceable(links: Iterable[LinkRecord]) -> list[LinkRecord]:
    return [link for link in links if not link.outbound and not link.privileged]


def _by_group(links: list[LinkRecord], key: bytes) -> list[LinkRecord]:
    """Protect the oldest link of each of the groups that come first under the key."""
    oldest: dict[str, LinkRecord] = {}
    for link in sorted(links, key=lambda link: link.opened_at):
        oldest.setdefault(link.group, link)
    order = sorted(oldest, key=lambda group: keyed(key, "evict", group))
    return [oldest[group] for group in order[:PROTECT_GROUPS]]


def _by_round_trip(links: list[LinkRecord]) -> list[LinkRecord]:
    measured = [link for link in links if link.rtt is not None]
    return sorted(measured, key=lambda link: link.rtt or 0.0)[:PROTECT_ROUND_TRIP]


def _by_use(links: list[LinkRecord]) -> list[LinkRecord]:
    useful = [link for link in links if link.useful_at > -inf]
    return sorted(useful, key=lambda link: -link.useful_at)[:PROTECT_USEFUL]


def _youngest_of_largest_group(links: list[LinkRecord]) -> LinkRecord | None:
    if not links:
        return None
    sizes = Counter(link.group for link in links)
    return max(links, key=lambda link: (sizes[link.group], link.opened_at))
