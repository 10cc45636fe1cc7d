"""Take protocol: settling a trade with another node's order, without I/O.

Theory of operation. A take is a request of the taker's node to the owner of the maker order. The taker
journals its intent before it sends the request, and repeats the request with the same number until the
answer arrives, also after a restart. The maker decides each (taker, take) once, journals the decision,
then answers; a repeated request gets the same answer. A refusal is a decision too: otherwise a late copy
of a refused take, whose quantity was filled elsewhere since, could be granted.

Takes of a fill-or-kill order are decided twice (two-phase commit). The first decision, "reserved",
keeps the quantity for the taker for RESERVATION_US. The second, on "commit", on `void` or when the time
is over, is final.

    taker                       maker
    journal the intent
    take ------------------->   decide, journal
                     <-------   take_result
    journal the fill

Every take has an end, so that a maker that waits to see where the price goes gains nothing. Its clock is what the maker signs: the
take names a time of the clock in the maker's presences (`exchange.feeds.presence`), `TAKE_RENEWALS` or more after the latest that the taker
has. The maker refuses the take if it is undecided when it has signed a later one. That presence names the last number of each feed, so
a taker that has all events up to there, and no fill among them, knows that there is none: the quantity is free again.
A fill behind it is a breach by the maker. While the maker signs nothing the take stays pending, because a maker that is
cut off may have decided it. Owners of earlier versions are not bound, which their presences show.

Rules of this file:
- The two classes hold state and no policy: `taker_side` and `maker_side` decide.
- Take numbers of a node grow. `below` in a request tells the maker which decisions to forget.
- A decision is forgotten only when the taker has announced that it knows the outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol, TypeVar

import msgspec

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.model.events import BUY
from exchange.model.records import Decision, PendingTake
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.keyed_heap import KeyedHeap

RETRY = 0.5  # seconds from the first request to the second; doubles
RETRY_MAX = 5.0
MAX_DECISIONS = 10_000  # kept for a taker that never acknowledges; beyond that it gets no answers
MAX_DECISIONS_ALL = 100_000  # kept for all takers; beyond, each taker gets only
FEW_DECISIONS = 4
MAX_TAKERS = (
    50_000  # that filled, half of them that reserved or set no end: their marks are kept for good
)
MAX_PASSING = 50_000  # other takers: the one that was refused least recently makes room
RESERVED = "reserved"  # reason of a decision that is not final
RESERVATION_US = 60_000_000  # lifetime of a reservation
PATIENCE = 10.0  # seconds without an answer until the request wants a refusal if undecided

TAKE_SECONDS: Final = 10.0  # at least, within which a take is decided, in whole renewals of its maker: with the usual lease
TAKE_RENEWALS: Final = 4  # of them, that is 9 to 15 s,
MOST_SLACK: Final = 8  # and up to this many times as long if the maker's earlier ones came too late
MAX_ENDED: Final = 10_000  # ended takes that are remembered, to notice late fills

_Key = TypeVar("_Key", str, int)


Clock = tuple[int, int]  # (incarnation, renewals)
NEVER: Final[Clock] = (-1, 0)  # before every clock


class OwnerClocks(Protocol):
    """Clocks of presences (`exchange.feeds.presence.PresenceLeases`)."""

    @property
    def own_clock(self) -> Clock: ...

    @property
    def renewal(self) -> float: ...

    def clock(self, owner: str) -> Clock | None: ...


@dataclass(slots=True)
class _Request:
    take: PendingTake
    since: float
    wait: float  # until the next copy of the request
    end: int = 0  # number of the maker's feed that it has signed after the take's end
    filled: bool = False  # the maker's feed has a fill for it


def _usual(clocks: OwnerClocks) -> int:
    """Return the renewals within which a take is decided as a rule."""
    return max(TAKE_RENEWALS, ceil(TAKE_SECONDS / clocks.renewal))


def _remove(index: dict[_Key, dict[int, None]], key: _Key, number: int) -> None:
    numbers = index[key]
    del numbers[number]
    if not numbers:
        del index[key]


class PendingTakes:
    """Takes of this node without a final answer, and the schedule of their requests."""

    def __init__(self, clocks: OwnerClocks) -> None:
        self._clocks = clocks
        self._requests: dict[int, _Request] = {}
        self._ending: dict[int, None] = {}  # takes after whose end the maker has signed a head
        self._ended: BoundedMap[int, str] = BoundedMap(MAX_ENDED)  # maker by take
        self._slack: BoundedMap[str, int] = BoundedMap(MAX_ENDED)  # by maker, if it is not 1
        self._by_order: dict[int, dict[int, None]] = {}
        self._requested: Counter[tuple[str, int]] = Counter()  # see `requested`
        self._by_maker: dict[str, dict[int, None]] = {}  # take numbers, ascending
        self._due: KeyedHeap[int, float] = KeyedHeap()  # time of the next request by take number

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, take: int) -> bool:
        return take in self._requests

    def get(self, take: int) -> PendingTake | None:
        request = self._requests.get(take)
        return request.take if request else None

    @property
    def pending(self) -> list[PendingTake]:
        return [request.take for request in self._requests.values()]

    def of_order(self, order: int) -> list[PendingTake]:
        return [self._requests[number].take for number in self._by_order.get(order, ())]

    def of_maker(self, maker: str) -> list[PendingTake]:
        return [self._requests[number].take for number in self._by_maker.get(maker, ())]

    def requested(self) -> Iterator[tuple[str, int, int]]:
        """List (market, side, amount) of all takes that are not given up: lots bought, or their price in ticks
        of lots sold."""
        return ((market, side, amount) for (market, side), amount in self._requested.items())

    def _count(self, take: PendingTake, sign: int) -> None:
        place = take.market, take.side
        amount = take.quantity if take.side == BUY else take.price * take.quantity
        self._requested[place] += sign * amount
        if not self._requested[place]:
            del self._requested[place]

    def add(self, now: float, take: PendingTake) -> None:
        """Add a take to request from now on. Take numbers must grow."""
        self._requests[take.take] = _Request(take, now, RETRY)
        self._by_maker.setdefault(take.maker, {})[take.take] = None
        if take.phase != "given_up":
            self._by_order.setdefault(take.order, {})[take.take] = None
            self._count(take, 1)
        self._due.set(take.take, now)

    # Ends

    def end_of(self, maker: str) -> Clock | None:
        """Return the end of a take that is requested now; None if its maker is not bound by any."""
        clock = self._clocks.clock(maker)
        if clock is None:
            return None
        return clock[0], clock[1] + _usual(self._clocks) * self._slack.get(maker, 1)

    def learn(self, maker: str, *, late: bool) -> None:
        """Allow a maker twice the time after a take that came too late, because the way there may take that long, and half of
        that again after one that did not."""
        slack = self._slack.pop(maker, 1)
        slack = min(2 * slack, MOST_SLACK) if late else slack // 2
        if slack > 1:
            self._slack[maker] = slack

    def signed(self, maker: str, heads: Iterable[tuple[str, int]]) -> None:
        """Process the heads of a maker's newest presence."""
        numbers, clock = self._by_maker.get(maker), self._clocks.clock(maker)
        if not numbers or clock is None:
            return
        of_market = dict(heads)
        for number in numbers:
            request = self._requests[number]
            until, head = request.take.until, of_market.get(request.take.market)
            if until is not None and clock > until and head is not None and not request.end:
                request.end = head
                self._ending[number] = None

    def ending(self) -> list[tuple[PendingTake, int]]:
        """Return the takes that have ended if the maker's feed up to this number has no fill for them."""
        return [
            (request.take, request.end)
            for request in map(self._requests.__getitem__, self._ending)
            if not request.filled
            and not self.is_late(request.take.maker, request.take.take)
            and request.take.phase != "granted"
        ]

    def filled(self, maker: str, take: int) -> None:
        """Note that the maker's feed has a fill for a take."""
        request = self._requests.get(take)
        if request is not None and request.take.maker == maker:
            request.filled = True

    def end(self, take: int) -> None:
        """Remember that a take has ended without a fill. Resolve it as well."""
        self._ended[take] = self._requests[take].take.maker

    def is_late(self, maker: str, take: int) -> bool:
        """Report if a take of this maker's order has ended."""
        return self._ended.get(take) == maker

    def expected_end(self, order: int, renewal: float) -> float | None:
        """Return the seconds until all takes of an order have ended if their makers stay connected and sign a presence
        every `renewal` seconds; None if one of them has no end."""
        longest = 0.0
        for take in self.of_order(order):
            clock = self._clocks.clock(take.maker)
            if take.until is None or clock is None:
                return None
            left = take.until[1] - clock[1] + 1 if clock[0] == take.until[0] else 1
            longest = max(longest, left * renewal)
        return longest

    def age(self, now: float, take: int) -> float:
        """Return the seconds since the first request."""
        return now - self._requests[take].since

    def retry_now(self, now: float, maker: str) -> None:
        """Repeat the requests to a maker at once: it is reachable again."""
        for number in self._by_maker.get(maker, ()):
            if number in self._due:
                self._schedule(number, now)

    def _schedule(self, number: int, now: float) -> None:
        """Send a request now and restart its back-off."""
        self._requests[number].wait = RETRY
        self._due.set(number, now)

    def granted(self, take: int) -> None:
        """Record a reservation: no requests until it is committed or given up."""
        self._requests[take].take.phase = "granted"
        self._due.discard(take)

    def commit(self, now: float, take: int) -> None:
        """Request the fill of a reservation from now on. A commit is never taken back."""
        request = self._requests[take]
        request.take.phase = "commit"
        request.take.until = (
            None  # a commit outlives restarts of the maker: it ends with its minute
        )
        self._ending.pop(take, None)
        self._schedule(take, now)

    def void(self, now: float, take: int) -> None:
        """Request at once that this take is refused unless it is decided."""
        pending = self._requests[take].take
        if not pending.void and pending.phase != "commit":
            pending.void = True
            self._schedule(take, now)

    def give_up(self, now: float, take: int) -> None:
        """Give up a reservation: its order no longer depends on it. Its owner is requested to release
        it until the owner confirms that."""
        self.void(now, take)
        pending = self._requests[take].take
        pending.phase = "given_up"
        _remove(self._by_order, pending.order, take)
        self._count(pending, -1)

    def resolve(self, take: int) -> PendingTake:
        """Remove a take with a final answer."""
        pending = self._requests.pop(take).take
        self._ending.pop(take, None)
        self._due.discard(take)
        _remove(self._by_maker, pending.maker, take)
        if pending.phase != "given_up":
            _remove(self._by_order, pending.order, take)
            self._count(pending, -1)
        return pending

    def due(self, now: float) -> list[tuple[str, Take]]:
        """Return (maker, message) for every take to request now, and schedule its next request."""
        found = []
        for _, number in self._due.pop_through(now):
            request = self._requests[number]
            take = request.take
            self._due.set(number, now + request.wait)
            request.wait = min(2 * request.wait, RETRY_MAX)
            if now - request.since >= PATIENCE and take.phase != "commit":
                take.void = True
            found.append((take.maker, self._message(take)))
        return found

    def _message(self, take: PendingTake) -> Take:
        below = next(iter(self._by_maker[take.maker]))
        return Take(
            take=take.take,
            market=take.market,
            order=take.maker_order,
            taker_order=take.order,
            price=take.price,
            quantity=take.quantity,
            below=below,
            void=take.void,
            phase="commit" if take.phase == "commit" else "reserve" if take.phase else "",
            until=msgspec.UNSET if take.until is None else take.until,
        )

    @staticmethod
    def plausible(take: PendingTake, result: TakeResult) -> bool:
        """Check an answer: never more than requested, never another price, never void or reserved
        without a request for it, and never filled while only a reservation was requested."""
        if result.reason == RESERVED:
            if not take.phase or result.quantity != take.quantity:
                return False
        elif result.quantity and take.phase in ("reserve", "granted", "given_up"):
            return False
        return (
            result.market == take.market
            and result.order == take.maker_order
            and result.price == take.price
            and result.quantity <= take.quantity
            and (take.void or result.reason != "void")
        )


class TakeDecisions:
    """Decisions of this node on takes by others: each is made once and kept until the taker knows it.

    A refused take with an end does no harm after it, since a late copy is refused too, nor after a restart, which ends all.
    So takers with nothing else are not in the journal, and are forgotten when there are too many (`MAX_PASSING`): free
    keys shut out no newcomer. The latest end of a forgotten taker is kept: up to there takes of such takers are refused, so
    that a copy of a refused one is never granted. Takers that filled are kept for good. So are those that reserved or set no
    end, which costs nothing: they have half of the places at most.
    """

    def __init__(self, clocks: OwnerClocks) -> None:
        self._owner = clocks
        self._decisions: dict[str, dict[int, Decision]] = {}
        self._marks: dict[str, int] = {}  # by taker: decisions below are forgotten
        self._passing: BoundedMap[str, Clock] = BoundedMap(MAX_PASSING, self._pass)  # latest end
        self._passed = NEVER  # latest end of a forgotten taker
        self._since: dict[str, Clock] = {}  # `_passed` when a taker came to be kept for good
        self._kept = 0  # decisions
        self._reserved: dict[tuple[str, int], Decision] = {}  # by (taker, take), first to end first

    def restore(self, now: int, decisions: list[Decision], marks: dict[str, int]) -> None:
        """Restore what the journal holds at `now` (us). A reservation that seems to be over, or to have more
        than its whole time left, gets its whole time again: the clock may have been set while the node was
        down, and must neither end it early nor keep it for hours."""
        self._marks.update(marks)
        latest = now + RESERVATION_US
        restored = [
            decision
            if not decision.until or now < decision.until <= latest
            else msgspec.structs.replace(decision, until=latest)
            for decision in decisions
        ]
        for decision in sorted(restored, key=lambda d: (d.until, d.taker, d.take)):
            self.record(decision)

    def forget(self, taker: str, below: int) -> bool:
        """Forget the decisions that the taker knows. Returns True if there is something new that the journal has to
        forget. Reservations stay until they end, because the order must get its quantity back."""
        if below <= self._marks.get(taker, 0):
            return False
        if taker not in self._marks:
            self._passing[taker] = NEVER
        self._marks[taker] = below
        decisions = self._decisions.get(taker)
        if decisions:
            known = [n for n in decisions if n < below]
            for number in known:
                del decisions[number]
            self._kept -= len(known)
            if not decisions:
                del self._decisions[taker]
        return self._is_kept(taker)

    def _pass(self, taker: str, end: Clock) -> None:
        """Forget a taker whose takes were all refused."""
        self._passed = max(self._passed, end)
        self._kept -= len(self._decisions.pop(taker, ()))
        del self._marks[taker]

    def is_late(self, taker: str, until: Clock | msgspec.UnsetType) -> bool:
        """Report if a take with this end may not be filled any more: this node has signed a later presence, or may have
        refused and forgotten it."""
        forgotten = self._since.get(taker, NEVER) if self._is_kept(taker) else self._passed
        return until is not msgspec.UNSET and (self._owner.own_clock > until or until <= forgotten)

    def stale(self, taker: str, take: int) -> bool:
        """Report if a request is a late copy: the taker has announced that it knows the outcome."""
        return take < self._marks.get(taker, 0)

    def decided(self, taker: str, take: int) -> Decision | None:
        return self._decisions.get(taker, {}).get(take)

    def answers(self, taker: str, request: Take) -> bool:
        """Report if an undecided take of this taker gets an answer: a new taker's does not while too many are kept for good."""
        lasts = request.phase or self._end(request.until) is None
        most = MAX_TAKERS // 2 if lasts else MAX_TAKERS
        return self._is_kept(taker) or len(self._marks) - len(self._passing) < most

    def _is_kept(self, taker: str) -> bool:
        """Report if a taker is kept for good."""
        return taker in self._marks and taker not in self._passing

    def _end(self, until: Clock | msgspec.UnsetType) -> Clock | None:
        """Return the end of a take; None if it has none, as with earlier versions, or too late a one to wait for."""
        incarnation, renewals = self._owner.own_clock
        latest = incarnation, renewals + MOST_SLACK * _usual(self._owner)
        return None if until is msgspec.UNSET or until > latest else until

    def decides(self, taker: str) -> bool:
        """Report if one more decision can be kept for this taker. No other taker's decision can be
        dropped for it, because a late copy of a take needs the same answer."""
        most = MAX_DECISIONS if self._kept < MAX_DECISIONS_ALL else FEW_DECISIONS
        return len(self._decisions.get(taker, ())) < most

    def record(self, decision: Decision, until: Clock | msgspec.UnsetType = msgspec.UNSET) -> bool:
        """Keep a decision on a take with this end. A final one replaces the reservation of the same take.
        Returns False if the journal does not need it."""
        passes = self._passes(decision, until)
        key = (decision.taker, decision.take)
        decisions = self._decisions.setdefault(decision.taker, {})
        if decision.take not in decisions:
            self._kept += 1
        decisions[decision.take] = decision
        if decision.reason == RESERVED:
            self._reserved[key] = decision
        else:
            self._reserved.pop(key, None)
        return not passes

    def _passes(self, decision: Decision, until: Clock | msgspec.UnsetType) -> bool:
        """Report if nothing of the taker has to outlive the ends of its takes."""
        taker = decision.taker
        is_new = taker not in self._marks
        self._marks.setdefault(taker, 0)
        passing = self._passing.get(taker, NEVER if is_new else None)
        if passing is None:
            return False
        end = self._end(until)
        if end is None or decision.quantity:
            self._passing.pop(taker, None)
            if self._passed >= self._owner.own_clock:
                self._since[taker] = self._passed
            return False
        self._passing[taker] = max(passing, end)
        return True

    def drop(self, reserved: Decision) -> None:
        """Drop a reservation that is over, after the taker has acknowledged its outcome."""
        self._reserved.pop((reserved.taker, reserved.take), None)

    @property
    def reserving(self) -> bool:
        """Report if there are reservations that are neither filled nor given up."""
        return bool(self._reserved)

    @property
    def reservations(self) -> list[Decision]:
        """Reservations that are neither filled nor given up."""
        return list(self._reserved.values())

    def ended(self, now_us: int) -> list[Decision]:
        """Return the expired reservations that still need a final decision."""
        found = []
        for decision in self._reserved.values():  # in the order in which they end
            if decision.until > now_us:
                break
            found.append(decision)
        return found


def result_of(decision: Decision) -> TakeResult:
    """Return the message that carries a decision."""
    return TakeResult(
        take=decision.take,
        market=decision.market,
        order=decision.order,
        price=decision.price,
        quantity=decision.quantity,
        time=decision.time,
        number=decision.number,
        reason=decision.reason,
    )
