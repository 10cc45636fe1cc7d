"""Takes: the two halves of settling a trade with another node's order, without I/O.

The taker journals its intent before it asks and asks again until it knows. The maker decides once
per (taker, take), journals the decision, then answers; asked again it gives the same answer. A
refusal is a decision too: otherwise a late copy of a take that was refused, and whose quantity was
filled elsewhere since, could be granted.

Takes of a fill-or-kill order are decided twice. The first decision, "reserved", keeps the quantity for
the taker until a time; the second, on "commit", on `void` or when that time has come, is final.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.model.records import Decision, PendingTake

ASK_AGAIN = 0.5  # seconds after the first ask, doubling
ASK_AGAIN_MAX = 5.0
MAX_DECISIONS = 10_000  # kept for one taker that never says what it knows: then it is not answered
MAX_DECISIONS_ALL = 100_000  # kept for all takers; beyond, a taker gets only
FEW_DECISIONS = 4
MAX_TAKERS = 50_000  # ever answered: what they know must be remembered for good
RESERVED = "reserved"  # the reason of a decision that is not final
RESERVATION_US = 60_000_000  # how long a maker keeps what it has reserved
PATIENCE = 10.0  # after so long without an answer the take is asked to be void if undecided


_Key = TypeVar("_Key", str, int)


@dataclass(slots=True)
class _Asking:
    take: PendingTake
    since: float
    wait: float
    next: float


def _remove(index: dict[_Key, dict[int, None]], key: _Key, number: int) -> None:
    numbers = index[key]
    del numbers[number]
    if not numbers:
        del index[key]


class PendingTakes:
    """Takes of this node that are not resolved: when to ask whom."""

    def __init__(self) -> None:
        self._asking: dict[int, _Asking] = {}
        self._by_order: dict[int, dict[int, None]] = {}
        self._by_maker: dict[str, dict[int, None]] = {}  # take numbers, ascending
        self._agenda: list[tuple[float, int]] = []  # heap of (when, take); outdated entries stay

    def __len__(self) -> int:
        return len(self._asking)

    def __contains__(self, take: int) -> bool:
        return take in self._asking

    def get(self, take: int) -> PendingTake | None:
        asking = self._asking.get(take)
        return asking.take if asking else None

    @property
    def pending(self) -> list[PendingTake]:
        return [asking.take for asking in self._asking.values()]

    def of_order(self, order: int) -> list[PendingTake]:
        return [self._asking[number].take for number in self._by_order.get(order, ())]

    def of_maker(self, maker: str) -> list[PendingTake]:
        return [self._asking[number].take for number in self._by_maker.get(maker, ())]

    def add(self, now: float, take: PendingTake) -> None:
        """A take to be asked from now on. Numbers must grow."""
        self._asking[take.take] = _Asking(take, now, ASK_AGAIN, now)
        self._by_maker.setdefault(take.maker, {})[take.take] = None
        if take.phase != "given_up":
            self._by_order.setdefault(take.order, {})[take.take] = None
        heapq.heappush(self._agenda, (now, take.take))

    def retry_now(self, now: float, maker: str) -> None:
        """The maker is back: ask it now."""
        for number in self._by_maker.get(maker, ()):
            asking = self._asking[number]
            if asking.next != math.inf:
                asking.next = now
                asking.wait = ASK_AGAIN
                heapq.heappush(self._agenda, (now, number))

    def granted(self, take: int) -> None:
        """The quantity is reserved: nothing more to ask before it is committed or given up."""
        asking = self._asking[take]
        asking.take.phase = "granted"
        asking.next = math.inf

    def commit(self, now: float, take: int) -> None:
        """Ask from now on that what is reserved be filled. There is no way back."""
        asking = self._asking[take]
        asking.take.phase = "commit"
        asking.next = now
        asking.wait = ASK_AGAIN
        heapq.heappush(self._agenda, (now, take))

    def void(self, now: float, take: int) -> None:
        """Ask at once that this take be refused unless it is decided."""
        asking = self._asking[take]
        if not asking.take.void and asking.take.phase != "commit":
            asking.take.void = True
            asking.wait = ASK_AGAIN
            asking.next = now
            heapq.heappush(self._agenda, (now, take))

    def give_up(self, now: float, take: int) -> None:
        """A reservation that will never be committed: its order waits for it no more. Its owner is asked
        to give it up too, until it has said that it did."""
        self.void(now, take)
        asked = self._asking[take].take
        asked.phase = "given_up"
        _remove(self._by_order, asked.order, take)

    def resolve(self, take: int) -> PendingTake:
        """The outcome is known: stop asking."""
        asked = self._asking.pop(take).take
        _remove(self._by_maker, asked.maker, take)
        if asked.phase != "given_up":
            _remove(self._by_order, asked.order, take)
        return asked

    def due(self, now: float) -> list[tuple[str, Take]]:
        """(maker, message) for every take to be asked now."""
        asks = []
        agenda = self._agenda
        while agenda and agenda[0][0] <= now:
            when, number = heapq.heappop(agenda)
            asking = self._asking.get(number)
            if asking is None or asking.next != when:
                continue
            take = asking.take
            asking.next = now + asking.wait
            asking.wait = min(2 * asking.wait, ASK_AGAIN_MAX)
            heapq.heappush(agenda, (asking.next, number))
            if now - asking.since >= PATIENCE and take.phase != "commit":
                take.void = True
            asks.append((take.maker, self._message(take)))
        return asks

    def _message(self, take: PendingTake) -> Take:
        below = next(iter(self._by_maker[take.maker]))
        return Take(
            take.take,
            take.market,
            take.maker_order,
            take.order,
            take.price,
            take.quantity,
            below,
            take.void,
            "commit" if take.phase == "commit" else "reserve" if take.phase else "",
        )

    @staticmethod
    def plausible(take: PendingTake, result: TakeResult) -> bool:
        """Whether a maker may answer this to that take: never more than asked, never another price,
        never void or reserved unasked, and never filled while only a reservation was asked for."""
        if result.reason == RESERVED:
            if not take.phase or result.quantity != take.quantity:
                return False
        elif result.quantity and take.phase in ("reserve", "granted", "given_up"):
            return False
        return (
            result.market == take.market
            and result.order == take.maker_order
            and result.price == take.price
            and 0 <= result.quantity <= take.quantity
            and 0 <= result.number < 2**62
            and 0 < result.time < 2**62
            and len(result.reason) <= 64
            and (take.void or result.reason != "void")
        )


class TakeDecisions:
    """Decisions of this node on others' takes: each made once, kept until the taker knows."""

    def __init__(self) -> None:
        self._decisions: dict[str, dict[int, Decision]] = {}
        self._marks: dict[str, int] = {}
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
        """The taker knows every outcome below; True if that is news. What is reserved stays so until it
        ends, for the order must get its quantity back."""
        if below <= self._marks.get(taker, 0):
            return False
        self._marks[taker] = below
        decisions = self._decisions.get(taker)
        if decisions:
            known = [n for n in decisions if n < below]
            for number in known:
                del decisions[number]
            self._kept -= len(known)
            if not decisions:
                del self._decisions[taker]
        return True

    def stale(self, taker: str, take: int) -> bool:
        """Whether the taker has said that it knows this take's outcome: a late copy."""
        return take < self._marks.get(taker, 0)

    def decided(self, taker: str, take: int) -> Decision | None:
        return self._decisions.get(taker, {}).get(take)

    def answers(self, taker: str) -> bool:
        """Whether this taker is answered at all: strangers are not when there are too many."""
        return taker in self._marks or len(self._marks) < MAX_TAKERS

    def decides(self, taker: str) -> bool:
        """Whether one more decision can be kept for this taker. None of another taker's can be dropped
        for it: a late copy of a take is answered as the take was."""
        most = MAX_DECISIONS if self._kept < MAX_DECISIONS_ALL else FEW_DECISIONS
        return len(self._decisions.get(taker, ())) < most

    def record(self, decision: Decision) -> None:
        """Keep a decision. It replaces the reservation of the same take, if there is one."""
        key = (decision.taker, decision.take)
        decisions = self._decisions.setdefault(decision.taker, {})
        if decision.take not in decisions:
            self._kept += 1
        decisions[decision.take] = decision
        if decision.reason == RESERVED:
            self._reserved[key] = decision
        else:
            self._reserved.pop(key, None)

    def drop(self, reserved: Decision) -> None:
        """A reservation is over, and the taker has said that it knows its outcome."""
        self._reserved.pop((reserved.taker, reserved.take), None)

    @property
    def reservations(self) -> list[Decision]:
        """Those that are neither filled nor given up."""
        return list(self._reserved.values())

    def ended(self, now_us: int) -> list[Decision]:
        """Reservations whose time is over and that are still to be decided."""
        found = []
        for decision in self._reserved.values():  # in the order in which they end
            if decision.until > now_us:
                break
            found.append(decision)
        return found


def result_of(decision: Decision) -> TakeResult:
    """The message that carries a decision."""
    return TakeResult(
        decision.take,
        decision.market,
        decision.order,
        decision.price,
        decision.quantity,
        decision.time,
        decision.number,
        decision.reason,
    )
