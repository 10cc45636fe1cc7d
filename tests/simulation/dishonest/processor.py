"""A node's processor in virtual time: messages wait for it, and each takes as long as its counted work.

The work of a message is counted, never timed, so that a seed replays exactly: calls of functions while it is
handled, signatures checked, bytes. Links take turns of `limits.TURN_TIME` (p2p.wire.link_turns), longer by as much as the
processor is slower.

Counting slows a run down. So every message of a hostile link is counted until that kind is well known, and then
one of SAMPLE; the others, and those of honest links, cost the mean of the last ones of their kind. A broadcast that is
known already is of another kind than a new one: no signature is checked for it.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable
from types import FrameType
from typing import TypeVar

from node.virtual.server_model import VirtualTime
from p2p.base.limits import TURN_TIME
from p2p.wire.link_turns import LinkTurns

# The simulated machine is slower by this than that of docs/performance.md, and so are budgets (`gangs.SMALL`):
# the same part of a processor is used up by fewer messages, which a run can simulate.
SLOWER = 10
# Seconds: a call, measured as the time of handling messages divided by the calls counted; a check of an Ed25519
# signature; hashing and decoding of a byte.
CALL = 0.15e-6 * SLOWER
SIGNATURE = 130e-6 * SLOWER
BYTE = 0.02e-6 * SLOWER
SAMPLE = 8
WELL_KNOWN = 40  # messages of a kind from one hostile link
WEIGHT = 0.25  # of the last message in the mean of its kind

T = TypeVar("T")


class Meter:
    """Counts the calls of functions, of Python and C, while something runs."""

    def __init__(self) -> None:
        self.calls = 0

    def _on_event(self, frame: FrameType, event: str, arg: object) -> None:
        self.calls += 1

    def count(self, run: Callable[[], T]) -> tuple[int, T]:
        self.calls = 0
        collecting = gc.isenabled()
        gc.disable()  # its callbacks, such as those of hypothesis, are not of the message
        sys.setprofile(self._on_event)
        try:
            result = run()
        finally:
            sys.setprofile(None)
            if collecting:
                gc.enable()
        return self.calls // 2, result  # each call is seen as it begins and as it ends


class Processor:
    """One node's processor. `handle(peer, packed)` handles a message; `checks()` counts signatures checked; peers of one
    `flow_of` share their turns.
    """

    def __init__(
        self,
        clock: VirtualTime,
        handle: Callable[[int, bytes], str],
        checks: Callable[[], int],
        hostile: Callable[[int], bool],
        flow_of: Callable[[int], Hashable],
        handle_deferred: Callable[[int, str], bool],
    ) -> None:
        self._clock = clock
        self._handle = handle
        self._handle_deferred = handle_deferred
        self._checks = checks
        self._hostile = hostile
        self._flow_of = flow_of
        self._meter = Meter()
        self._queues: dict[int, deque[bytes]] = {}
        self._turns: LinkTurns[int | tuple[int, str]] = LinkTurns(TURN_TIME * SLOWER)
        self._known: dict[
            tuple[str, bool], float
        ] = {}  # mean work of those of a kind that were counted
        self._seen: Counter[tuple[int, str]] = Counter()
        self._due = False
        self._epoch = 0
        self.busy_until = 0.0
        self.work: Counter[int] = Counter()  # seconds by hostile peer
        self.longest = 0.0  # work of one message, seconds
        self.longest_kind = ""

    def restart(self) -> None:
        """The process starts anew: nothing waits."""
        self._queues.clear()
        self._turns = LinkTurns(TURN_TIME * SLOWER)
        self._epoch += 1
        self._due = False
        self.busy_until = self._clock.now

    def forget(self, peer: int) -> None:
        """The link is gone, with what was not read."""
        if self._queues.pop(peer, None) is not None:
            self._turns.gone(peer, self._flow_of(peer))

    def waiting(self, peer: int) -> int:
        """Bytes of a peer that were not read yet."""
        return sum(map(len, self._queues.get(peer, ())))

    def arrived(self, peer: int, packed: bytes) -> None:
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = deque()
            self._turns.arrived(peer, self._flow_of(peer))
        queue.append(packed)
        self._schedule()

    def defer(self, peer: int, origin: str) -> None:
        """Broadcasts of an origin that a peer brought wait for turns of their own."""
        self._turns.arrived((peer, origin), self._deferred_flow(peer))
        self._schedule()

    def _deferred_flow(self, peer: int) -> Hashable:
        return "deferred", self._flow_of(peer)

    def spend(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self._clock.now) + seconds

    def when_free(self, call: Callable[[], None]) -> None:
        """Call as soon as the work under way is done."""
        self._clock.at(self.busy_until, call)

    def count(self, kind: str, run: Callable[[], T]) -> T:
        """Run something of the node's own, such as a tick, and spend what it takes."""
        self._seen[-1, kind] += 1
        if self._seen[-1, kind] % SAMPLE == 1:
            calls, result = self._meter.count(run)
            self._known[kind, False] = calls * CALL
        else:
            result = run()
        self.spend(self._known[kind, False])
        return result

    def _schedule(self) -> None:
        if not self._due and self._turns.waiting:
            self._due = True
            epoch = self._epoch
            self._clock.at(self.busy_until, lambda: self._serve(epoch))

    def _serve(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._due = False
        if self._clock.now < self.busy_until:  # spent by something else meanwhile
            self._schedule()
            return
        chosen = self._turns.next()
        if chosen is None:
            return
        link, _ = chosen
        if isinstance(link, tuple):
            flow = self._deferred_flow(link[0])
            work, more = self._work_deferred(*link)
        else:
            flow = self._flow_of(link)
            work, more = self._work_queued(link)
        self._turns.charge(link, flow, work, more=more)
        self._schedule()

    def _work_queued(self, peer: int) -> tuple[float, bool]:
        """Handle a peer's next message; returns its work, and if more wait."""
        queue = self._queues[peer]
        packed = queue.popleft()
        work = self._work(peer, lambda: self._handle(peer, packed), len(packed))
        self.spend(work)
        if not queue and self._queues.get(peer) is queue:
            del self._queues[peer]
        return work, peer in self._queues

    def _work_deferred(self, peer: int, origin: str) -> tuple[float, bool]:
        more = False

        def handle() -> str:
            nonlocal more
            more = self._handle_deferred(peer, origin)
            return "deferred"

        work = self._work(peer, handle, 0)
        self.spend(work)
        return work, more

    def _work(self, peer: int, handle: Callable[[], str], size: int) -> float:
        """Handle a message of `size` bytes, whose kind `handle` returns, and return its work."""
        hostile = self._hostile(peer)
        checks = self._checks()
        # Kinds are known once handled: the decision to count follows what came before.
        turn = self._seen[peer, ""] = self._seen[peer, ""] + 1
        if turn % SAMPLE == 1 or (hostile and turn <= WELL_KNOWN):
            calls, kind = self._meter.count(handle)
            checks = self._checks() - checks
            work = calls * CALL
            mean = self._known.get((kind, checks > 0), work)
            self._known[kind, checks > 0] = mean + WEIGHT * (work - mean)
            if work > self.longest:
                self.longest, self.longest_kind = work, kind
        else:
            kind = handle()
            checks = self._checks() - checks
            work = self._known.get((kind, checks > 0), 100e-6)
        work += checks * SIGNATURE + size * BYTE
        if hostile:
            self.work[peer] += work
        return work
