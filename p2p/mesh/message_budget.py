"""Message budgets: what a link, a network and an origin may cost this node. No I/O, no clock.

Every message type has a cost in microseconds of processor time: a part for each message and a part for each byte. It
is charged before the message is handled, to these token buckets:

- the link that brought it: half a core, and two seconds' worth at once;
- the network group of the link's address, local addresses aside: a fifth of a core for all links of a /16 together;
- for broadcasts the origin, whichever links bring them: half a core;
- all origins together: half a core for what exceeds the little that each of them may always send.

The last one is needed because a broadcast costs every node of the network: identities that enter it at many nodes
would otherwise add up. What is dropped of a busy honest origin then, replication brings a little later. And what exceeds
the little of each is handled after the messages that arrived with it, in turns of its own (`DeferredBroadcasts`): a flood that
honest neighbours pass on would otherwise keep what they say themselves waiting, on the same link. Broadcasts of one origin
and link stay in order, so a feed's batches do.

Rules of this file:
- A message beyond a budget is dropped. Its sender gets a notice, at most once a second, in a
  `refused` message.
- A peer that goes on sending messages of its own beyond its link's budget loses the link, with code `abuse`, and is
  banned for a while.
- Broadcasts and relayed messages of others never end a link: the peer that passes them on is not at fault.
- A link with too many invalid messages has to end.
- Pinned peers have no budgets. Sizes and proofs are checked for them as for all others.

An honest node at 2,000 unbatched events a second needs four fifths of one budget; batches make that a few percent.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2p.base import limits
from p2p.base.network_group import is_local, network_group
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import Tokens
from p2p.mesh.relay_shares import MAX_PAIRS

LINK_RATE: Final = 500_000.0  # microseconds a second
LINK_BURST: Final = 1_000_000.0 * 2
NETWORK_RATE: Final = 200_000.0
NETWORK_BURST: Final = 500_000.0
ORIGIN_RATE: Final = 500_000.0
ORIGIN_BURST: Final = 500_000.0
FAIR_RATE: Final = 2_000.0  # of an origin, whatever others do: 10 broadcasts a second ...
FAIR_BURST: Final = 100_000.0  # ... and 500 at once
ORIGINS_RATE: Final = 500_000.0  # of all origins, beyond that
ORIGINS_BURST: Final = 500_000.0
MAX_ORIGINS: Final = 10_000  # keys are free to make
STRIKES_RATE: Final = 20.0  # refused messages a second that are forgiven ...
STRIKES_BURST: Final = 2_000.0  # ... and this many at once; then the link ends
# Seconds between two notices on one link, or for one pair of relayed nodes
NOTICE_INTERVAL: Final = 1.0
MAX_DEFERRED: Final = (
    4 * 1024 * 1024
)  # bytes of all; beyond it, no origin has more than its equal part
ENTRY_OVERHEAD: Final = 500  # bytes of a deferred broadcast beside its payload

PER_BYTE: Final = 0.02  # microseconds: copying, hashing and decoding
ANNOUNCED_BYTE: Final = 0.15  # of an announcement: 2.5 for each id
PULLED_BYTE: Final = 0.3  # of a pull: 5 for each id, which is looked up and sent
# Microseconds, on a machine that checks an Ed25519 signature in `CHECK_US`; `python -m tests.benchmarks costs` measures them.
CHECK_US: Final = 100.0
DIRECT_COST: Final = 20.0  # a message from the peer itself, unless its type has another cost
DUPLICATE_COST: Final = 5.0  # a broadcast that is known already
BROADCAST_COST: Final = 220.0  # with the check of its signature
RELAY_COST: Final = (
    270.0  # of a signed message, beside that of its type: the check, and a copy or a signed answer
)
COSTS: Final = {
    "reachability": 50.0,
    "request": 50.0,  # a task, a handler and a response
}


class Passing(Enum):
    """Verdict on a broadcast."""

    FIRST = "first"  # one of the few that an origin may always send
    LATER = "later"  # its origin is busy
    NOT = "not"


@dataclass(slots=True)
class _LinkBudget:
    tokens: Tokens
    strikes: Tokens
    network: Tokens | None
    spent: float = 0.0  # microseconds
    refused: int = 0
    noticed_at: float = float("-inf")


class MessageBudgets:
    """Budgets of all links, networks and origins. `counters`: refused messages by scope, and `abuse`.

    `max_bad_messages`: invalid messages that a link survives.
    """

    def __init__(self, max_bad_messages: int = limits.MAX_BAD_MESSAGES) -> None:
        self.deferred = DeferredBroadcasts()
        self._max_bad_messages = max_bad_messages
        self._bad: Counter[str] = Counter()  # invalid messages of links
        self._notified: set[str] = set()  # links whose peers understand `refused`
        self._noticed: BoundedMap[tuple[str, str], float] = BoundedMap(MAX_PAIRS)
        self._links: dict[str, _LinkBudget] = {}
        self._networks: dict[str, tuple[Tokens, set[str]]] = {}
        self._origins: BoundedMap[str, tuple[Tokens, Tokens]] = BoundedMap(MAX_ORIGINS)
        self._all_origins = Tokens(ORIGINS_BURST)
        self._costs: dict[str, float] = dict(COSTS)
        self._byte_costs: dict[str, float] = {"ihave": ANNOUNCED_BYTE, "graft": PULLED_BYTE}
        self.counters: Counter[str] = Counter(link=0, network=0, origin=0, origins=0, abuse=0)

    def set_cost(self, message_type: str, microseconds: float) -> None:
        """Declare the cost of one message of a type, whatever brings it."""
        self._costs[message_type] = microseconds

    def link_up(
        self,
        now: float,
        link: str,
        address: str = "",
        *,
        exempt: bool = False,
        notices: bool = False,
    ) -> None:
        """Give a link its budgets; none if it is exempt. `notices`: its peer understands notices of refusal."""
        self.link_down(link)
        if notices:
            self._notified.add(link)
        if exempt:
            return
        network = None
        if address and not is_local(address):
            group = network_group(address)
            if group not in self._networks:
                self._networks[group] = (Tokens(NETWORK_BURST, now), set())
            network, members = self._networks[group]
            members.add(link)
        self._links[link] = _LinkBudget(
            Tokens(LINK_BURST, now), Tokens(STRIKES_BURST, now), network
        )

    def link_down(self, link: str) -> None:
        """Drop the budgets of a link, and of its network after the last one."""
        self._notified.discard(link)
        self._bad.pop(link, None)
        if self._links.pop(link, None) is None:
            return
        for group, (_, members) in list(self._networks.items()):
            members.discard(link)
            if not members:
                del self._networks[group]

    def charge(
        self,
        now: float,
        link: str,
        message_type: str,
        size: float,
        default: float,
        more: float = 0.0,
    ) -> str | None:
        """Charge a message to its link and network: the cost of its type, or else `default`, and `more`. Returns the scope that
        refuses it, None if it may pass."""
        budget = self._links.get(link)
        if budget is None:
            return None
        cost = self._costs.get(message_type, default) + more
        cost += self._byte_costs.get(message_type, PER_BYTE) * size
        budget.spent += cost
        if not budget.tokens.take(now, LINK_RATE, LINK_BURST, cost):
            return self._refused(budget, "link")
        network = budget.network
        if network is not None and not network.take(now, NETWORK_RATE, NETWORK_BURST, cost):
            return self._refused(budget, "network")
        return None

    def charge_origin(self, now: float, origin: str, message_type: str, size: int) -> Passing:
        """Charge a broadcast to its origin, and to all origins together."""
        known = self._origins.renew(origin)
        if known is None:
            known = self._origins[origin] = Tokens(FAIR_BURST, now), Tokens(ORIGIN_BURST, now)
        fair, own = known
        cost = self._costs.get(message_type, BROADCAST_COST) + PER_BYTE * size
        if fair.take(now, FAIR_RATE, FAIR_BURST, cost):
            return Passing.FIRST
        scope = "origin"
        if own.take(now, ORIGIN_RATE, ORIGIN_BURST, cost):
            if self._all_origins.take(now, ORIGINS_RATE, ORIGINS_BURST, cost):
                return Passing.LATER
            scope = "origins"
        self.counters[scope] += 1
        return Passing.NOT

    def is_abuse(self, now: float, link: str) -> bool:
        """Count a refused message against its link; True if the link has to end."""
        budget = self._links.get(link)
        if budget is None or budget.strikes.take(now, STRIKES_RATE, STRIKES_BURST):
            return False
        self.counters["abuse"] += 1
        return True

    def defer(self, broadcast: DeferredBroadcast) -> bool:
        """Put a broadcast off; False if its origin has no room left."""
        if self.deferred.put(broadcast):
            return True
        self.counters["origin"] += 1
        return False

    def notice_due(self, now: float, link: str) -> int:
        """Return the number of messages refused so far if a notice of it is due to the peer, 0 otherwise."""
        budget = self._links.get(link)
        if budget is None or now - budget.noticed_at < NOTICE_INTERVAL:
            return 0
        budget.noticed_at = now
        return budget.refused if link in self._notified else 0

    def relay_notice_due(self, now: float, link: str, origin: str, to: str) -> bool:
        """Return True if a notice of a message that is not relayed is due to its origin, which has to be the neighbour."""
        noticed = self._noticed.get((origin, to), float("-inf"))
        if link != origin or link not in self._notified or now < noticed + NOTICE_INTERVAL:
            return False
        self._noticed[origin, to] = now
        return True

    def is_faulty(self, link: str) -> bool:
        """Count an invalid message against its link; True if the link has to end."""
        self._bad[link] += 1
        return self._bad[link] > self._max_bad_messages

    def invalid_messages(self, link: str) -> int:
        """Return the number of invalid messages over a link."""
        return self._bad[link]

    def figures(self) -> dict[str, tuple[float, int]]:
        """Return microseconds charged and messages refused of each link."""
        return {link: (budget.spent, budget.refused) for link, budget in self._links.items()}

    def _refused(self, budget: _LinkBudget, scope: str) -> str:
        budget.refused += 1
        self.counters[scope] += 1
        return scope


@dataclass(slots=True, frozen=True)
class DeferredBroadcast:
    """A new broadcast with a valid envelope, not handled yet."""

    key: bytes
    type: str
    origin: str
    link: str  # that brought it first
    timestamp: int
    hops: int
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.payload) + ENTRY_OVERHEAD


class DeferredBroadcasts:
    """Queues by link and origin. `bytes`: memory of all."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[DeferredBroadcast]] = {}
        self._sizes: dict[str, int] = {}  # bytes by origin
        self.bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def waits(self, origin: str, link: str | None = None) -> bool:
        """Return True if broadcasts of an origin wait, over any link or over one: later ones of it have to."""
        return origin in self._sizes if link is None else (link, origin) in self._queues

    def put(self, broadcast: DeferredBroadcast) -> bool:
        """Put a broadcast off; False if there is no room for it."""
        size, origin = broadcast.size, broadcast.origin
        held = self._sizes.get(origin, 0)
        if (
            held
            and self.bytes + size > MAX_DEFERRED
            and held + size > MAX_DEFERRED / len(self._sizes)
        ):
            return False
        self._queues.setdefault((broadcast.link, origin), deque()).append(broadcast)
        self._sizes[origin] = held + size
        self.bytes += size
        return True

    def take(self, link: str, origin: str) -> DeferredBroadcast | None:
        """Return the next broadcast of an origin over a link, None if none waits."""
        queue = self._queues.get((link, origin))
        if not queue:
            return None
        broadcast = queue.popleft()
        if not queue:
            del self._queues[link, origin]
        self.bytes -= broadcast.size
        self._sizes[origin] -= broadcast.size
        if not self._sizes[origin]:
            del self._sizes[origin]
        return broadcast
