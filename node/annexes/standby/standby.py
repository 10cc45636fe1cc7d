"""Standby side of the standby protocol, without I/O.

Theory of operation. The standby appends the frames of its primary to its own log, flushes, and acknowledges. It takes over by
lease when it has acknowledged nothing for a whole lease, the store says that the lease has expired, and the row
says that this machine is in sync. Before the request to the store leaves, it stops acknowledging, and it acknowledges again only when
the row has a later version that is not its own: then the request can no longer be carried out.

A person promotes a standby in sync at any time: the primary, if it lives, cannot publish without it. One that is not
in sync is promoted only with `lossy`, and its node then has to recover from its peers before it starts.

Rules of this file: as in `node.annexes.standby.primary`. While an append is under way no attempt begins, and during an attempt nothing
is appended.
"""

from __future__ import annotations

from typing import NamedTuple

from node.annexes.standby.lease import Lease, Read, Swap, Terms
from node.annexes.standby.link_messages import Ack, Hello, Ship


class Gap(Exception):
    """The frames do not follow what the standby has. The connection must be made anew."""


class Promotion(NamedTuple):
    """Result of a take-over. `lossy`: the node must recover from its peers before it starts."""

    epoch: int
    lossy: bool


class _Request(NamedTuple):
    what: Read | Swap
    at: float


class Standby:
    """State of a machine that follows a node."""

    def __init__(
        self, machine: str, terms: Terms, epoch: int, position: int, checksum: int, now: float
    ) -> None:
        """`epoch` is that of the copy; `position` and `checksum` are those of the last frame of the log, all of which
        is on the disk. With a store it takes over by lease."""
        self.machine = machine
        self.terms = terms
        self.epoch = epoch
        self.position = position
        self.checksum = checksum
        self.promoted: Promotion | None = None
        self.refused: str | None = None  # why a person's request was not carried out
        self.row: Lease | None = None  # as it was read last
        self._store = terms.store
        self._appending: Ship | None = None
        self._quiet_since = now  # last acknowledgement
        self._heard = now  # last message of the primary, or new connection
        self._request: _Request | None = None
        self._asked = now - 1e9
        self._attempt: int | None = None  # version of an attempt that may still be carried out
        self._lossy = False  # of the attempt
        self._person: bool | None = None  # a person's request; its value is `lossy`

    @property
    def acknowledges(self) -> bool:
        """Report if frames are taken and acknowledged."""
        return self.promoted is None and self._attempt is None

    # Link

    def hello(self, now: float) -> Hello:
        """Return the first message of a new connection, made when no append is under way."""
        self._heard = now
        return Hello(self.machine, self.epoch, self.position, self.checksum)

    def heard(self, now: float) -> None:
        """The primary has sent something over the connection, such as a part of a copy."""
        self._heard = now

    def is_silent(self, now: float) -> bool:
        """Report if the connection has to be made anew, because the primary sends nothing."""
        return self._appending is None and now - self._heard >= self.terms.patience

    def shipped(self, ship: Ship, now: float) -> bool:
        """Check frames of the primary. If this returns True, the caller appends them, flushes, and calls `flushed`. If
        not, they are dropped with the connection.

        Raises:
            Gap: they do not follow.
        """
        self._heard = now
        # A person's request, once the store answers, is not kept waiting by a primary that always has more.
        if not self.acknowledges or (self._person is not None and self.row is not None):
            return False
        if ship.epoch != self.epoch or ship.after != self.position or self._appending is not None:
            raise Gap(
                f"got frames after {ship.after:,} of epoch {ship.epoch}, and have {self.position:,} of epoch "
                f"{self.epoch}"
            )
        self._appending = ship
        return True

    def flushed(self, ship: Ship, checksum: int, now: float) -> Ack:
        """The frames are on the disk; `checksum` is that of the last frame of the log. Returns the acknowledgement, for the
        connection that brought them."""
        self.position, self.checksum = ship.after + len(ship.frames), checksum
        self._appending = None
        self._quiet_since = now
        return Ack(self.epoch, self.position, ship.unit)

    # Promotion

    def promote(self, *, lossy: bool) -> None:
        """Request promotion on an operator's command; `poll` carries it out."""
        self._person, self.refused = lossy, None

    def poll(self, now: float) -> Read | Swap | None:
        """Return the request for the store."""
        if self.promoted is not None:
            return None
        if self._person is not None and not self._store:
            if self._appending is None:
                self._promote_without_store(lossy=self._person)
            return None
        if self._request is not None:
            if now - self._request.at < self.terms.store_timeout:
                return None
            self.unanswered(now)
        if not self._store or now - self._asked < self.terms.heartbeat:
            return None
        wanted = self._wanted(now)
        if wanted is not None:
            self._asked = now
            self._request = _Request(wanted, now)
        return wanted

    def _promote_without_store(self, *, lossy: bool) -> None:
        self._person = None
        if lossy:
            self.promoted = Promotion(self.epoch + 1, lossy=True)
        else:
            self.refused = "without a lease store it is not known if this standby is in sync"

    def _wanted(self, now: float) -> Read | Swap | None:
        if (
            self._person is None
            and self._attempt is None
            and now - self._quiet_since < self.terms.lease
        ):
            return None
        row, self.row = self.row, None  # every attempt begins with a fresh row
        if row is None:
            return Read()
        in_sync = row.in_sync and row.standby == self.machine and row.epoch == self.epoch
        if not in_sync and not self._person:
            if self._person is not None:
                self.refused, self._person = "this standby is not in sync", None
            return None
        if self._person is None and not row.expired:
            return None
        if self._appending is not None:
            self.row = row  # until the frames are on the disk
            return None
        self._attempt, self._lossy = row.version, not in_sync
        return Swap(
            version=row.version,
            epoch=row.epoch + 1,
            holder=self.machine,
            only_expired=self._person is None,
        )

    # Store

    def answered(self, request: Read | Swap, row: Lease | None, *, done: bool) -> None:
        """The store answered: `row` is what it has now, `done` that a swap was carried out."""
        if self._request is None or self._request.what is not request:
            return
        self._request = None
        self.row = row if isinstance(request, Read) else None
        if row is None:
            return
        if row.holder == self.machine and row.epoch > self.epoch:
            self.promoted = Promotion(row.epoch, self._lossy)
        elif self._attempt is not None and row.version > self._attempt:
            self._attempt = None

    def unanswered(self, now: float) -> None:
        """The last request to the store failed, or took too long. It may be carried out later."""
        self._request = None
