"""Takes: the two halves of settling a trade with another node's order, without I/O.

The taker journals its intent before it asks and asks again until it knows. The maker decides once
per (taker, take), journals the decision, then answers; asked again it gives the same answer. A
refusal is a decision too: otherwise a late copy of a take that was refused, and whose quantity was
filled elsewhere since, could be granted.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from exchange.messages import Take, TakeResult
from exchange.records import Decision, PendingTake

ASK_AGAIN = 0.5  # seconds after the first ask, doubling
ASK_AGAIN_MAX = 5.0
MAX_DECISIONS = 10_000  # kept for one taker that never says what it knows: then it is not answered
MAX_DECISIONS_ALL = 100_000  # kept for all takers; beyond, a taker gets only
FEW_DECISIONS = 4
MAX_TAKERS = 50_000  # ever answered: what they know must be remembered for good
PATIENCE = 10.0  # after so long without an answer the take is asked to be void if undecided


@dataclass(slots=True)
class _Asking:
    take: PendingTake
    since: float
    wait: float
    next: float


class Taker:
    """Takes of this node that are not resolved: when to ask whom."""

    def __init__(self) -> None:
        self._asking: dict[int, _Asking] = {}
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
        return [a.take for a in self._asking.values() if a.take.order == order]

    def add(self, now: float, take: PendingTake) -> None:
        """A take to be asked from now on. Numbers must grow."""
        self._asking[take.take] = _Asking(take, now, ASK_AGAIN, now)
        self._by_maker.setdefault(take.maker, {})[take.take] = None
        heapq.heappush(self._agenda, (now, take.take))

    def hurry(self, now: float, maker: str) -> None:
        """The maker is back: ask it now."""
        for number in self._by_maker.get(maker, ()):
            asking = self._asking[number]
            asking.next = now
            asking.wait = ASK_AGAIN
            heapq.heappush(self._agenda, (now, number))

    def void(self, now: float, take: int) -> None:
        """Ask at once that this take be refused unless it is decided."""
        asking = self._asking[take]
        if not asking.take.void:
            asking.take.void = True
            asking.next = now
            heapq.heappush(self._agenda, (now, take))

    def resolve(self, take: int) -> PendingTake:
        """The outcome is known: stop asking."""
        asking = self._asking.pop(take)
        numbers = self._by_maker[asking.take.maker]
        del numbers[take]
        if not numbers:
            del self._by_maker[asking.take.maker]
        return asking.take

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
            if now - asking.since >= PATIENCE:
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
        )

    @staticmethod
    def plausible(take: PendingTake, result: TakeResult) -> bool:
        """Whether a maker may answer this to that take: never more than asked, never
        another price, never void unasked."""
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


class Maker:
    """Decisions of this node on others' takes: each made once, kept until the taker knows."""

    def __init__(self) -> None:
        self._decisions: dict[str, dict[int, Decision]] = {}
        self._marks: dict[str, int] = {}
        self._kept = 0  # decisions

    def restore(self, decisions: list[Decision], marks: dict[str, int]) -> None:
        self._marks.update(marks)
        for decision in decisions:
            self.record(decision)

    def forget(self, taker: str, below: int) -> bool:
        """The taker knows every outcome below; True if that is news."""
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
        self._decisions.setdefault(decision.taker, {})[decision.take] = decision
        self._kept += 1


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
