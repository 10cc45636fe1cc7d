"""Primary side of the standby protocol, without I/O.

Theory of operation. Whatever wants to leave the node (an answer, a batch, presence, a take, its result, a snapshot) is a
unit. Units are numbered, and leave in order. With `both`, a unit leaves when the standby has flushed all frames
that were written before it. A standby that has begun to take over acknowledges nothing more, so a primary that was
deposed cannot publish: that does not depend on clocks.

The primary goes on alone, without acknowledgements, only after the store has confirmed that `in_sync` is cleared: then no
standby can be promoted by lease. It sets `in_sync` again only after it has begun to wait for acknowledgements and the
standby has all that has left. A swap whose answer was lost may still be carried out, until the row has a later version;
until then `in_sync` counts as set.

A proof is the time at which a renewal of the lease, or a message that was acknowledged later, was sent. Nothing leaves a
bound primary whose last proof is older than half a lease. The standby waits for a whole lease after its last
acknowledgement, and the store for a whole lease after the last renewal.

Rules of this file: all times are arguments, in seconds of CLOCK_BOOTTIME; inputs change the state and return nothing;
`poll` returns what to send, and is called after each input and every few milliseconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from node.annexes.standby.lease import Lease, Read, Swap, Terms
from node.annexes.standby.link_messages import Ack, CopyNeeded, Hello, Refused
from node.daemon.role_file import Role

CHUNK: Final = 256  # frames in a message
WINDOW: Final = 4  # messages that were not acknowledged
NEAR: Final = 64  # frames that a standby may lack when the primary begins to wait for it


class ShipFrames(NamedTuple):
    """Read the frames after `after` up to `upto` from the log, and send them with `unit`."""

    after: int
    upto: int
    unit: int


class _Sent(NamedTuple):
    upto: int
    unit: int
    at: float


class _Link:
    """State of the connection to the standby."""

    def __init__(self, position: int, now: float) -> None:
        self.sent = self.acked = position
        self.unit = 0  # last one sent
        self.acked_unit = 0
        self.last_sent = now - 1e9  # the first message goes at once
        self.progress = now  # last acknowledgement, or when nothing was outstanding
        self.answers = False  # it has acknowledged over this connection
        self.outstanding: deque[_Sent] = deque()


class _Request(NamedTuple):
    what: Read | Swap
    at: float


Effect = ShipFrames | Read | Swap | CopyNeeded | Refused


class Primary:
    """State of a node that has a standby."""

    def __init__(
        self,
        machine: str,
        standby: str,
        terms: Terms,
        role: Role,
        position: int,
        now: float,
    ) -> None:
        """`standby` is the only machine that is served. `role` is what this machine's disk says: its epoch, and that
        the store had a row for it once. `position` is the end of the log, which is on the disk. With `both` every frame is on this machine's disk before `wants_to_leave` is called (`JOURNAL_SYNC=full`)."""
        self.machine = machine
        self.standby = standby
        self.terms = terms
        self.epoch = role.epoch
        self.position = position
        self.stopped: str | None = None  # reason why nothing leaves ever again
        self.unit = 0  # last one that wants to leave
        self.left = 0  # last one that may have left
        self._both = terms.both
        self._store = terms.store and self._both
        self._had_lease = role.had_lease
        self._row: Lease | None = None
        self._known = not self._store  # the row was read
        self._request: _Request | None = None
        self._asked = now - 1e9  # last request to the store
        self._renewed = now - 1e9
        # Expected version of the last swap that sets `in_sync` and may still be carried out.
        self._hoped: int | None = None
        self._waiting = self._both  # units wait for acknowledgements
        self._proof = self._no_proof = now - 1e9
        self._link: _Link | None = None
        self._reply: CopyNeeded | Refused | None = None
        self._alone_since = now  # without a standby that answers

    # What the node asks

    def wants_to_leave(self, position: int) -> int:
        """Return the number of a new unit, before which the log was written up to `position`."""
        self.position = max(self.position, position)
        self.unit += 1
        return self.unit

    def leaves(self, now: float) -> int:
        """Return the last unit that may leave now. What this returns counts as having left."""
        if self.stopped is not None or not self._known:
            return self.left
        if not self.bound:
            self.left = self.unit
        elif self._link is not None and now - self._proof < self.terms.half:
            self.left = max(self.left, self._link.acked_unit)
        return self.left

    def serves(self, now: float) -> bool:
        """Report if this machine is known to be the node: if not, it answers no request, not even a reading one."""
        if self.stopped is not None or not self._known:
            return False
        return not self.bound or now - self._proof < self.terms.half

    @property
    def bound(self) -> bool:
        """Report if units wait for the standby's acknowledgement."""
        return self._both and (self._waiting or self._maybe_in_sync)

    @property
    def knows_lease(self) -> bool:
        """Report if the lease store has answered, or is not asked."""
        return self._known

    @property
    def waits(self) -> bool:
        """Report if the standby may acknowledge what leaves (`both`)."""
        return self._both

    @property
    def in_sync(self) -> bool:
        """Report if the standby may take over by lease, as far as this machine knows."""
        return self._row is not None and self._row.in_sync

    @property
    def lag(self) -> int | None:
        """Number of frames that the standby has not acknowledged; None without a standby."""
        return None if self._link is None else self.position - self._link.acked

    def proof_age(self, now: float) -> float | None:
        """Return the seconds since the last proof; None before the first."""
        return None if self._proof == self._no_proof else now - self._proof

    @property
    def _maybe_in_sync(self) -> bool:
        row = self._row
        if row is None:
            return self._store
        return row.in_sync or (self._hoped is not None and self._hoped >= row.version)

    # Link

    def connected(self, hello: Hello, *, checksum: int | None, now: float) -> None:
        """A standby has dialled, and replaces one that had before. `checksum` is the CRC of this log's frame at the
        standby's position; None if the log does not have it any more."""
        if self.stopped is not None:
            self._reply = Refused(self.stopped)
        elif hello.machine != self.standby:
            self._reply = Refused(f"STANDBY_ALLOW does not name {hello.machine}")
            return
        elif hello.epoch > self.epoch:
            self._stop(f"the standby was promoted: it has epoch {hello.epoch}")
        elif hello.epoch < self.epoch:
            self._reply = CopyNeeded()
        elif hello.position > self.position or checksum not in (None, hello.checksum):
            self._stop(
                f"the standby has {hello.position:,} frames of this epoch that differ from this machine's "
                f"{self.position:,}: this machine lost the end of its log"
            )
        elif checksum is None:
            self._reply = CopyNeeded()
        else:
            self._link = _Link(hello.position, now)
            return
        self.disconnected(now)

    def take_reply(self) -> CopyNeeded | Refused | None:
        """Return the answer to the last Hello that was not followed; `poll` returns it otherwise."""
        reply, self._reply = self._reply, None
        return reply

    def disconnected(self, now: float) -> None:
        """The connection to the standby is gone."""
        if self._link is not None:
            self._link = None
            self._alone_since = now

    def acked(self, ack: Ack, now: float) -> None:
        """The standby acknowledged, over the connection of now, the first message that it had not."""
        link = self._link
        if link is None or self.stopped is not None:
            return
        if ack.epoch != self.epoch:
            self._stop(f"the standby was promoted: it has epoch {ack.epoch}")
            return
        sent = link.outstanding[0] if link.outstanding else None
        if sent is None or ack.position != sent.upto or ack.unit != sent.unit:
            return
        # No more than one: a message that was sent later may say the same, and is no proof before its own answer.
        link.outstanding.popleft()
        link.acked, link.acked_unit = sent.upto, sent.unit
        link.progress, link.answers = now, True
        self._proof = max(self._proof, sent.at)

    # Store

    def answered(self, request: Read | Swap, row: Lease | None, *, done: bool, now: float) -> None:
        """The store answered: `row` is what it has now, `done` that a swap was carried out."""
        sent = self._request
        if sent is None or sent.what is not request:
            return  # it was given up, and a later one says more
        self._request = None
        if self.stopped is not None or not self._ours(row):
            return
        self._known = True
        if row is not None and (self._row is None or row.version >= self._row.version):
            self._row = row
        if row is not None:
            self._had_lease = True
        if done and isinstance(request, Swap):
            self._renewed = sent.at
            self._proof = max(self._proof, sent.at)

    def unanswered(self, now: float) -> None:
        """The last request to the store failed, or took too long. It may be carried out later."""
        self._request = None

    def _ours(self, row: Lease | None) -> bool:
        """Check that the row does not rule this machine out."""
        if row is None:
            if self._had_lease:
                self._stop(
                    "the lease store has lost this node's row: it is not the store of before"
                )
        elif row.epoch < self.epoch:
            self._stop(f"the lease store has epoch {row.epoch}, before this machine's {self.epoch}")
        elif row.epoch > self.epoch or row.holder != self.machine:
            self._stop(f"machine {row.holder} has taken over with epoch {row.epoch}")
        return self.stopped is None

    def _stop(self, why: str) -> None:
        if self.stopped is None:
            self.stopped = why

    # What to send

    def poll(self, now: float) -> list[Effect]:
        """Return what to send now."""
        effects: list[Effect] = []
        if self._reply is not None:
            effects.append(self._reply)
            self._reply = None
        if self.stopped is not None:
            return effects
        if self._link is not None:
            effects += self._ship(self._link, now)
        if self._both:
            self._choose(now)
        if self._store:
            effects += self._ask_store(now)
        return effects

    def _ship(self, link: _Link, now: float) -> list[Effect]:
        shipped: list[Effect] = []
        while len(link.outstanding) < WINDOW and (
            link.sent < self.position
            or link.unit < self.unit
            or now - link.last_sent >= self.terms.heartbeat
        ):
            upto = min(self.position, link.sent + CHUNK)
            # Units belong to the end of the log: a message that stops before it carries no new one.
            unit = self.unit if upto == self.position else link.unit
            if not link.outstanding:
                link.progress = now
            shipped.append(ShipFrames(link.sent, upto, unit))
            link.outstanding.append(_Sent(upto, unit, now))
            link.sent, link.unit, link.last_sent = upto, unit, now
        return shipped

    def _choose(self, now: float) -> None:
        """Wait for a standby that has almost everything, and no more for one that is given up."""
        if self._leaving(now):
            if self._store and self._known and not self._maybe_in_sync:
                self._waiting = False
        elif not self._waiting and self._link is not None and self._link.answers:
            self._waiting = self.position - self._link.acked <= NEAR

    def _leaving(self, now: float) -> bool:
        """Report if the standby is given up."""
        link = self._link
        if link is None:
            return now - self._alone_since >= self.terms.patience
        return bool(link.outstanding) and now - link.progress >= self.terms.patience

    def _ask_store(self, now: float) -> list[Effect]:
        if self._request is not None:
            if now - self._request.at < self.terms.store_timeout:
                return []
            self.unanswered(now)
        wanted = self._wanted(now)
        if wanted is None or now - self._asked < self.terms.heartbeat:
            return []
        self._asked = now
        self._request = _Request(wanted, now)
        if isinstance(wanted, Swap) and wanted.in_sync:
            self._hoped = wanted.version
        return [wanted]

    def _wanted(self, now: float) -> Read | Swap | None:
        """Return the request that the store should get now."""
        row = self._row
        if row is None:
            if not self._known:
                return Read()
            return Swap(version=0, epoch=self.epoch, holder=self.machine, standby=self.standby)
        in_sync = self._maybe_in_sync
        if in_sync and self._leaving(now):
            in_sync = False
        elif not in_sync and self._waiting and self._link is not None:
            in_sync = self._link.answers and self._link.acked_unit >= self.left
        if (
            in_sync == row.in_sync
            and in_sync == self._maybe_in_sync
            and row.standby == self.standby
            and now - self._renewed < self.terms.renewal
        ):
            return None
        return Swap(
            version=row.version,
            epoch=self.epoch,
            holder=self.machine,
            standby=self.standby,
            in_sync=in_sync,
        )
