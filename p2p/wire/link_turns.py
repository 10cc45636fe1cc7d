"""Turns of links at the processor: deficit round robin in which new flows go first. No I/O, no clock.

Scheduling is that of FQ-CoDel (RFC 8290, section 4) with processor time in place of bytes, and without its dropping,
which the budgets of messages do (`p2p.mesh.message_budget`). Links of one network group are one flow, so an operator with
many links has one turn; a local link is a flow of its own. A flow that had nothing to be handled goes before those that
wait, for one quantum; so a peer that sends little waits for one turn of another flow, whatever these send.

A flow that used less than NEGLIGIBLE of its quantum leaves no trace; one that used it up stays among those that wait until
its turn comes, even without frames: otherwise it would be new again with each message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

NEGLIGIBLE: Final = 0.25  # of a quantum

Link = TypeVar("Link", bound=Hashable)


@dataclass(slots=True)
class _Flow(Generic[Link]):
    credit: float  # seconds
    links: dict[Link, None] = field(default_factory=dict)  # with frames; next one first


class LinkTurns(Generic[Link]):
    """Order in which links with unhandled frames are served. `quantum`: seconds of a turn."""

    def __init__(self, quantum: float) -> None:
        self._quantum = quantum
        self._flows: dict[Hashable, _Flow[Link]] = {}
        self._new: deque[Hashable] = deque()
        self._old: deque[Hashable] = deque()
        self._links = 0

    @property
    def waiting(self) -> bool:
        """True while a link has frames."""
        return self._links > 0

    def allowance(self, flow: Hashable) -> float:
        """Return the seconds for which frames of a flow are handled as they arrive, 0 if they have to wait."""
        known = self._flows.get(flow)
        if known is None:
            return self._quantum
        return max(known.credit, 0.0) if flow in self._new else 0.0

    def arrived(self, link: Link, flow: Hashable) -> None:
        """Note that a link has frames."""
        known = self._flows.get(flow)
        if known is None:
            self._flows[flow] = known = _Flow(self._quantum)
            self._new.append(flow)
        if link not in known.links:
            known.links[link] = None
            self._links += 1

    def gone(self, link: Link, flow: Hashable) -> None:
        """Forget a link, and its flow if no other link of it has frames."""
        known = self._flows.get(flow)
        if known is None:
            return
        if link in known.links:
            del known.links[link]
            self._links -= 1
        if not known.links:
            self._forget(flow)

    def next(self) -> tuple[Link, float] | None:
        """Return the link to serve and its seconds, None if no link has frames."""
        while self._links:
            queue = self._new or self._old
            name = queue[0]
            flow = self._flows[name]
            if flow.credit <= 0.0:
                flow.credit += self._quantum
                self._old.append(queue.popleft())
            elif flow.links:
                return next(iter(flow.links)), flow.credit
            elif queue is self._new:
                self._old.append(queue.popleft())
            else:
                del self._flows[queue.popleft()]
        return None

    def charge(self, link: Link, flow: Hashable, seconds: float, *, more: bool) -> None:
        """Charge a turn to its flow. `more`: the link has more frames, and goes behind the others of its flow."""
        known = self._flows.get(flow)
        if known is None:
            return
        known.credit -= seconds
        if link in known.links:
            del known.links[link]
            if more:
                known.links[link] = None
            else:
                self._links -= 1
        if not known.links and known.credit > (1.0 - NEGLIGIBLE) * self._quantum:
            self._forget(flow)

    def _forget(self, flow: Hashable) -> None:
        del self._flows[flow]
        (self._new if flow in self._new else self._old).remove(flow)
