"""Duplicate links: one link for each pair of nodes, when a second one comes up.

It happens when both nodes dial at once, when a node dials a second address of a peer it has, and
when a peer that crashed without a word comes back before its old link is noticed to be dead.

If each side judged for itself, one could drop the old link while the other refuses the new one, and
the pair would lose both: age and silence of a link look different from its two ends. Rules over
shared facts alone (say, keep the one that the smaller id dialled) agree, but let a peer in again
only when the old link has timed out, or throw away an established link for every second dial.

So one side decides, and both know which without asking: **the node with the smaller id**. It keeps
the link it has while that is alive, and takes the new one when the old one has fallen silent. The
other side never closes either; it holds both for the round trip until the decision arrives as a
goodbye `duplicate` on one of them, or as a message on the new one. Only one side ever closes, so
both links cannot be lost, whatever each side has seen. If the deciding side has no memory of the
old link (it restarted), neither side closes that one: it times out, and the held one takes over.

When both dialled at once, the deciding side takes the link that it dialled itself. That one is up on
the far side already (who accepts is up first), while its own end of the other may still be on its
way: letting go of what the far side has would leave it without a link for a moment.

A direct link outranks one over Grenache, and both sides see which is which. Each uses a direct one as soon
as it is up there, and holds the other. The deciding side closes that when a message comes over the direct
link: then the peer has it too, and uses it. It leaves what was sent before a moment to arrive. A link over Grenache that is offered beside a living
direct one is refused by the deciding side as it accepts it. One that it has dialled, so that it may be all
that the peer has at the moment, is held until that message as well. Still only one side ever closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from p2p.base.limits import HEARTBEAT_INTERVAL
from p2p.wire.link import Carrier, PeerInfo, PeerLink

SUSPECT_AFTER: Final = 2.5 * HEARTBEAT_INTERVAL  # seconds: two heartbeats and their slack missed
LEAVE_AFTER: Final = (
    2.0  # seconds that a direct link is used before one over Grenache is closed for it
)
MAX_HELD: Final = 3  # links of one peer that wait for a decision; an honest peer leaves one or two


class SecondLinkVerdict(Enum):
    """Decision about a second link to a peer."""

    REFUSE = "refuse"  # we decide: the old one stays
    REPLACE = "replace"  # we decide: the new one is used, the old one closed
    HOLD = "hold"  # the peer decides: use the old one meanwhile
    SWITCH = "switch"  # the peer decides, but the old one looks dead: use the new one meanwhile


def decides(own_id: str, peer_id: str) -> bool:
    """Return True if this node is the side that decides. Exactly one side is."""
    return own_id < peer_id


def second_link(
    own_id: str,
    peer_id: str,
    *,
    silent_for: float,
    held: int = 0,
    crossed: bool = False,
    carriers: tuple[Carrier, Carrier] = ("tcp", "tcp"),
    dialled: bool = False,
) -> SecondLinkVerdict:
    """Decide about a new link while there is an old one.

    `silent_for`: seconds since the last byte on the old link (infinite when it is closed).
    `held`: links of this peer that already wait beside the old one.
    `crossed`: we dialled the new one before the old one came up.
    `carriers`: of the old and of the new one. `dialled`: we dialled the new one.
    """
    looks_dead = silent_for >= SUSPECT_AFTER
    upgrade, downgrade = carriers == ("grenache", "tcp"), carriers == ("tcp", "grenache")
    if decides(own_id, peer_id) and not upgrade:
        if looks_dead or (crossed and not downgrade):
            return SecondLinkVerdict.REPLACE
        if not (downgrade and dialled):
            return SecondLinkVerdict.REFUSE
    if held >= MAX_HELD and not upgrade:
        return SecondLinkVerdict.REFUSE
    return SecondLinkVerdict.SWITCH if looks_dead or upgrade else SecondLinkVerdict.HOLD


@dataclass(frozen=True, slots=True)
class LinkChange:
    """Effect of an event on the link in use for a peer, and the links to close with code `duplicate`."""

    before: PeerLink | None
    after: PeerLink | None
    close: list[PeerLink] = field(default_factory=list)


UNCHANGED: Final = LinkChange(None, None)


class LinkTable:
    """The link in use for each peer, and those held beside it. No I/O: the owner closes links. `now` is in
    monotonic seconds.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._used: dict[str, PeerLink] = {}
        self.used: Mapping[str, PeerLink] = MappingProxyType(self._used)  # links in use, by node id
        self._held: dict[str, list[PeerLink]] = {}  # in the order they came up
        self._order: dict[int, int] = {}  # id of a registered link: its place in that order
        self._since: dict[str, float] = {}  # node id: when the used link came up
        self._count = 0

    def verdict(
        self, info: PeerInfo, now: float, dialled_at: float | None = None
    ) -> SecondLinkVerdict | None:
        """Return the decision about a new link to the peer `info`; None if it would be the only one.

        `dialled_at`: when we dialled it, if we did.
        """
        old = self._used.get(info.node_id)
        if old is None:
            return None
        return second_link(
            self._own_id,
            info.node_id,
            silent_for=silent_for(old, now),
            held=len(self._held.get(info.node_id, ())),
            crossed=dialled_at is not None and dialled_at < self._since[info.node_id],
            carriers=(old.peer.carrier, info.carrier),
            dialled=info.outbound,
        )

    def up(self, link: PeerLink, now: float, dialled_at: float | None = None) -> LinkChange:
        peer_id = link.peer.node_id
        old = self._used.get(peer_id)
        verdict = self.verdict(link.peer, now, dialled_at)
        if verdict is SecondLinkVerdict.REFUSE:
            return LinkChange(old, old, [link])
        self._count += 1
        self._order[id(link)] = self._count
        if verdict is SecondLinkVerdict.HOLD:
            self._held.setdefault(peer_id, []).append(link)
            return LinkChange(old, old)
        self._used[peer_id] = link
        self._since[peer_id] = now
        if old is None:
            return LinkChange(None, link)
        if verdict is SecondLinkVerdict.SWITCH:
            self._held.setdefault(peer_id, []).append(old)
            return LinkChange(old, link)
        del self._order[id(old)]
        return LinkChange(old, link, [old])

    def down(self, link: PeerLink) -> LinkChange:
        """Remove a closed link. An unregistered one changes nothing."""
        peer_id = link.peer.node_id
        used = self._used.get(peer_id)
        if self._order.pop(id(link), None) is None:
            return LinkChange(used, used)
        held = self._held.get(peer_id, [])
        if used is not link:
            self._drop_held(peer_id, link)
            return LinkChange(used, used)
        alive = (each for each in held if not each.closed)
        heir = max(alive, key=lambda h: (h.peer.carrier == "tcp", self._age(h)), default=None)
        if heir is None:
            del self._used[peer_id], self._since[peer_id]
        else:
            self._drop_held(peer_id, heir)
            self._used[peer_id] = heir
        return LinkChange(link, heir)

    def message_arrived(self, link: PeerLink, now: float) -> LinkChange | None:
        """Record a message on `link`; returns None if the link is not registered.

        On a held link that is newer than the used one it is the peer's decision: it has let go of
        the used one. A late message of an older link decides nothing, nor does one over Grenache
        against a direct link. On the used link, if direct, it is the end of those over Grenache.
        """
        if id(link) not in self._order:
            return None
        peer_id = link.peer.node_id
        used = self._used[peer_id]
        if used is link:
            if peer_id not in self._held or now - self._since[peer_id] < LEAVE_AFTER:
                return UNCHANGED
            return LinkChange(used, used, self._needless(used))
        if self._age(link) < self._age(used) or _outranks(used, link):
            return UNCHANGED
        self._drop_held(peer_id, link)
        self._held.setdefault(peer_id, []).append(used)  # its goodbye is on the way
        self._used[peer_id] = link
        return LinkChange(used, link)

    def _needless(self, used: PeerLink) -> list[PeerLink]:
        """Remove and return the links that this side closes now that the peer uses `used` too."""
        peer_id = used.peer.node_id
        if not decides(self._own_id, peer_id):
            return []
        needless = [held for held in self._held[peer_id] if _outranks(used, held)]
        for held in needless:
            self._drop_held(peer_id, held)
            del self._order[id(held)]
        return needless

    def _age(self, link: PeerLink) -> int:
        return self._order[id(link)]

    def _drop_held(self, peer_id: str, link: PeerLink) -> None:
        rest = [held for held in self._held.get(peer_id, ()) if held is not link]
        if rest:
            self._held[peer_id] = rest
        else:
            self._held.pop(peer_id, None)


def _outranks(one: PeerLink, other: PeerLink) -> bool:
    return one.peer.carrier == "tcp" and other.peer.carrier == "grenache"


def silent_for(link: PeerLink, now: float) -> float:
    """Return the seconds since the last byte on `link`; infinite if it is closed."""
    if link.closed:
        return float("inf")
    return now - max(link.stats.last_seen, link.stats.opened_at)
