"""Reputation of a peer: what this node knows of it by own experience, in a word and its reasons. No I/O.

Nothing of it comes from other nodes, since identities are free to make, and nothing is decided by it here: bans, budgets, slots and
the adaptive router each decide by the figure that concerns them (docs/threats.md). This is the summary for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Standing = Literal["useful", "ordinary", "slow", "unreliable", "abusive", "unreachable"]

SLOW_TRIP: Final = 1.0  # seconds
USEFUL_NEWS: Final = 10  # first deliveries of valid batches
MANY_FAILURES: Final = 3  # dials in a row


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """Experience with one peer."""

    reached: bool  # over a link or relayed
    news: int = 0  # valid batches that it delivered first
    requests_answered: int = 0
    rtt: float | None = None  # seconds
    degraded: str = ""  # why the adaptive router avoids it
    dropped: int = 0  # messages beyond its budgets
    invalid: int = 0  # messages that no correct node sends
    ban: str = ""  # reason of a ban for abuse
    fraud: bool = False  # it signed two different events under one number
    breaches: tuple[str, ...] = ()  # of what it has signed
    doubts: tuple[str, ...] = ()  # answers to takes that a maker gives who waits for the price
    unreliable: bool = False  # the doubts are many
    failures: int = 0  # dials that failed in a row
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Reputation:
    standing: Standing
    reasons: tuple[str, ...]  # the weightiest first


def reputation(facts: PeerFacts) -> Reputation:
    """Return the standing that the facts give; the worst one counts."""
    abuse, away, slow, useful = _abuse(facts), _away(facts), _slow(facts), _useful(facts)
    if abuse:
        return Reputation("abusive", (*abuse, *facts.doubts, *slow, *useful))
    if away:
        return Reputation("unreachable", (*away, *facts.doubts, *useful))
    if facts.unreliable:
        return Reputation("unreliable", (*facts.doubts, *slow, *useful))
    if slow:
        return Reputation("slow", (*slow, *facts.doubts, *useful))
    return Reputation("useful" if useful else "ordinary", (*facts.doubts, *useful))


def _abuse(facts: PeerFacts) -> list[str]:
    found = ["signed two events under one number"] if facts.fraud else []
    found += facts.breaches
    if facts.ban:
        found.append(f"banned: {facts.ban}")
    if facts.invalid:
        found.append(f"{_number(facts.invalid, 'invalid message')}")
    if facts.dropped:
        found.append(f"{_number(facts.dropped, 'message')} beyond its budget")
    return found


def _away(facts: PeerFacts) -> list[str]:
    if facts.reached or facts.failures < MANY_FAILURES:
        return []
    text = f"{_number(facts.failures, 'dial')} failed in a row"
    return [f"{text}, the last: {facts.last_error}" if facts.last_error else text]


def _slow(facts: PeerFacts) -> list[str]:
    found = [facts.degraded] if facts.degraded else []
    if facts.rtt is not None and facts.rtt >= SLOW_TRIP:
        found.append(f"round trip of {facts.rtt:.1f} s")
    return found


def _useful(facts: PeerFacts) -> list[str]:
    found = []
    if facts.news >= USEFUL_NEWS:
        found.append(f"delivered {_number(facts.news, 'batch', 'batches')} first")
    if facts.requests_answered:
        found.append(f"answered {_number(facts.requests_answered, 'service call')}")
    return found


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
