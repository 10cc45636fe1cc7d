"""Presence leases: the owners whose orders are shown and matched.

Theory of operation. An owner broadcasts a signed presence a few times per lease. A replica shows the
owner's orders until the lease runs out by the replica's own monotonic clock, counted from arrival:
no two clocks are compared. (incarnation, counter) grows with every presence, so a replayed message
cannot prolong a lease.

Every presence reaches every node, so their number must not grow with the network: from STRETCH_FROM owners on, leases
and the time between two renewals grow with the number of owners present: of an owner that shows orders, with the number of those that do
so too, for the longer its lease the longer its orders may outlive it, and presences alone cost strangers next to nothing. And up to ANSWER_UP_TO owners a newcomer is
answered with a presence at once; beyond that it gets the presences that its neighbours keep
(`exchange.feeds.presence_exchange`), or one join would cost a broadcast of each node.

A counter has two parts. The upper 32 bits count the times between two renewals that have passed, however many presences were
signed in them: presences that others provoke do not make it faster. With the incarnation this is the clock by which takes of the owner's
orders end (`exchange.takes.take_protocol`). The lower bits number the presences. Owners of earlier versions have counters below
`BINDING`, so they have no clock.

Keys cost nothing, so what is known of owners is bounded: the owner whose latest presence is oldest makes room, those with orders
last. A replay of an old presence can then show it once more; without orders there is nothing to show.

To show and to hide the orders of an owner costs a replica time, so an owner that comes and goes has to stay away: the longer the
more orders it has, and twice as long with each return, until RETURNS_REMEMBERED without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice

import msgspec

from exchange.feeds.exchange_messages import Presence
from exchange.model.ports import SigningKeys

MAX_LEASE_MS = 600_000
MAX_HEADS = 1000
BINDING = 2**32  # first counter of owners that refuse a take after its end
COUNT_BITS = 32  # lower bits of a counter, which number the presences
MAX_KNOWN = 100_000  # owners remembered: keys cost nothing to make
SCANNED = 64  # owners looked at to make room for one
STRETCH_FROM = 500  # owners present from which leases grow with their number
ANSWER_UP_TO = 64  # owners present up to which a newcomer is answered
RETURNS_REMEMBERED = 60.0  # seconds
MAX_ABSENCE = 60.0  # seconds that repeated returns make an owner stay away; the number of its orders alone may take longer
RENEWALS_PER_LEASE = 3  # two lost presences in a row do not end the lease

_encoder = msgspec.msgpack.Encoder()


def _signed(network: str, presence: Presence) -> bytes:
    """Return the hash that the signature covers."""
    return hashlib.sha256(
        _encoder.encode(
            [
                "exchange-node presence",
                network,
                presence.key,
                presence.incarnation,
                presence.counter,
                presence.lease,
                presence.heads,
            ]
        )
    ).digest()


class PresenceLeases:
    """Leases of other owners, and this node's own presence. `orders`: open orders of an owner that are held here;
    `crowd`: most owners by whose number the own lease grows.
    """

    def __init__(
        self,
        keys: SigningKeys,
        network: str,
        *,
        incarnation: int,
        lease_ms: int,
        orders: Callable[[str], int] = lambda owner: 0,
        crowd: Callable[[], int] = lambda: MAX_KNOWN,
    ) -> None:
        self._keys = keys
        self._network = network
        self._incarnation = incarnation
        self._lease_ms = lease_ms
        self._orders = orders
        self._crowd = crowd
        self._renewals = BINDING >> COUNT_BITS
        self._counted = float("-inf")  # when the current time between renewals began
        self._next_count = 0.0  # when it ends
        self._made = 0
        # owner -> (incarnation, counter), the latest presence last; all owners below are here too
        self._known: dict[str, tuple[int, int]] = {}
        self._until: dict[str, float] = {}
        self._ended: dict[str, float] = {}  # owner -> end of its last lease
        self._returns: dict[str, tuple[float, int]] = {}  # owner -> time of the last one, number
        self._next_renewal = 0.0
        self._stretched = False  # the latest lease
        self._last_renewal = float("-inf")

    def present(self, owner: str) -> bool:
        """Report if the lease of an owner runs."""
        return owner in self._until

    @property
    def owners(self) -> list[str]:
        """Other owners whose lease runs, sorted by id."""
        return sorted(self._until)

    def __len__(self) -> int:
        """Return the number of other owners whose lease runs."""
        return len(self._until)

    @property
    def own_lease_ms(self) -> int:
        """Lease of this node's next presence."""
        if len(self._until) <= STRETCH_FROM:
            return self._lease_ms
        stretched = self._lease_ms * min(len(self._until), self._crowd()) // STRETCH_FROM
        return max(self._lease_ms, min(stretched, MAX_LEASE_MS))

    @property
    def renewal(self) -> float:
        """Seconds between two presences of this node; others mostly have the same."""
        return self.own_lease_ms / 1000 / RENEWALS_PER_LEASE

    def make(self, now: float, heads: list[tuple[str, int]], *, leaving: bool = False) -> Presence:
        """Sign this node's next presence."""
        self._made += 1
        self._last_renewal = now
        lease_ms = self.own_lease_ms
        self._stretched = lease_ms > self._lease_ms
        self._next_renewal = now + self.renewal
        if now >= min(self._next_count, self._counted + self.renewal):
            self._renewals += self._made > 1
            self._counted = now
            self._next_count = self._next_renewal
        draft = Presence(
            self._keys.public_key,
            self._incarnation,
            self._renewals << COUNT_BITS | self._made,
            0 if leaving else lease_ms,
            heads[:MAX_HEADS],
        )
        return msgspec.structs.replace(
            draft, signature=self._keys.sign(_signed(self._network, draft))
        )

    @property
    def own_clock(self) -> tuple[int, int]:
        """(incarnation, renewals) by which takes of this node's orders end."""
        return self._incarnation, self._renewals

    def mark(self, owner: str) -> tuple[int, int] | None:
        """(incarnation, counter) of the latest presence of an owner."""
        return self._known.get(owner)

    def clock(self, owner: str) -> tuple[int, int] | None:
        """(incarnation, renewals) of an owner by its latest presence; None if takes of its orders have no end."""
        mark = self._known.get(owner)
        if mark is None or mark[1] < BINDING:
            return None
        return mark[0], mark[1] >> COUNT_BITS

    @property
    def next_renewal(self) -> float:
        """Time of the next presence: sooner than was planned if leases have become shorter since."""
        if not self._stretched:
            return self._next_renewal
        return min(self._next_renewal, self._last_renewal + self.renewal)

    def renewal_due(self, now: float) -> bool:
        return now >= self.next_renewal

    def hurry(self, now: float, delay: float) -> None:
        """Renew within `delay` seconds, for a node that has just joined; at most once a second."""
        self._next_renewal = min(self._next_renewal, max(now + delay, self._last_renewal + 1.0))

    def answer_newcomer(self, now: float, delay: float) -> None:
        """Renew within `delay` seconds because another owner is new, in a network of few."""
        if len(self._until) <= ANSWER_UP_TO:
            self.hurry(now, delay)

    def until(self, owner: str) -> float | None:
        """Return the end of an owner's lease, None if it does not run."""
        return self._until.get(owner)

    def accept(
        self,
        now: float,
        presence: Presence,
        *,
        least_absence: float = 0.0,
        left: float | None = None,
    ) -> tuple[bool, str, bool]:
        """Process a presence of another owner.

        `least_absence`: seconds between the end of a lease and the owner's next one, for its first return.
        `left`: seconds that are left of the lease at the neighbour that handed the presence on.

        Returns:
            (valid, owner, newcomer): `newcomer` if this owner or incarnation was not present before.
        """
        owner = self._keys.node_id_of(presence.key)
        if not 0 <= presence.lease <= MAX_LEASE_MS or len(presence.heads) > MAX_HEADS:
            return False, owner, False
        # The signature of an old presence is checked too: valid messages are relayed.
        if not self._keys.verify(
            presence.key, presence.signature, _signed(self._network, presence)
        ):
            return False, owner, False
        mark = (presence.incarnation, presence.counter)
        known = self._known.get(owner)
        if owner == self._keys.node_id or (known is not None and mark <= known):
            return True, owner, False
        if known is not None:
            del self._known[owner]
        elif len(self._known) >= MAX_KNOWN:
            self._make_room(now)
        self._known[owner] = mark
        if presence.lease == 0:
            if self._until.pop(owner, None) is not None:
                self._ended[owner] = now
            return True, owner, False
        if not self._may_return(now, owner, least_absence):
            return True, owner, False  # its next presence makes it present
        newcomer = known is None or known[0] != presence.incarnation or owner not in self._until
        lease = presence.lease / 1000
        self._until[owner] = now + (lease if left is None else min(lease, left))
        return True, owner, newcomer

    def _make_room(self, now: float) -> None:
        """Forget an owner. Its lease, if it runs, is ended by the next `expire`."""
        oldest = list(islice(self._known, SCANNED))
        forgotten = next((owner for owner in oldest if not self._orders(owner)), oldest[0])
        for owner in oldest[: oldest.index(forgotten)]:
            self._known[owner] = self._known.pop(owner)
        del self._known[forgotten]
        self._ended.pop(forgotten, None)
        self._returns.pop(forgotten, None)
        if forgotten in self._until:
            self._until[forgotten] = now

    def _may_return(self, now: float, owner: str, least_absence: float) -> bool:
        """Report if an owner may be present now, and note its return if it was absent."""
        ended = self._ended.get(owner)
        if ended is None:
            return True
        last, count = self._returns.get(owner, (0.0, 0))
        if count and now >= last + RETURNS_REMEMBERED:
            del self._returns[owner]
            count = 0
        # The exponent is bounded: what it multiplies may be microseconds.
        repeated = min(least_absence * 2.0 ** min(count, 32), MAX_ABSENCE)
        if now < ended + max(least_absence, repeated):
            return False
        del self._ended[owner]
        self._returns[owner] = (now, count + 1)
        return True

    def expire(self, now: float) -> list[str]:
        """End the leases that have run out and return their owners, sorted by id."""
        gone = sorted(owner for owner, until in self._until.items() if until <= now)
        for owner in gone:
            del self._until[owner]
            if owner in self._known:
                self._ended[owner] = now
        return gone
