"""Lease of a node: the row in a third place that says which machine may be the node.

Rules of this file:
- The row is changed by `Swap` alone: compare the version, then set all fields and count the version up, in one
  atomic step. A request that was lost on its way and arrives late finds another version and does nothing.
- A lease expires by the clock of the store. Once a version is expired it stays so, because a renewal
  makes another version.
"""

from __future__ import annotations

import msgspec


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Row of the lease store. `holder` and `standby` are ids of machines, not of nodes: both machines are
    the same node."""

    version: int
    epoch: int  # counts the take-overs
    holder: str
    standby: str = ""  # machine that may take over
    in_sync: bool = False  # the standby has all that has left the holder
    expired: bool = False  # when the row was read


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Request to replace the row of version `version`; 0 if there is none yet. It then expires after the
    time of a lease, by the clock of the store."""

    version: int
    epoch: int
    holder: str
    standby: str = ""
    in_sync: bool = False
    only_expired: bool = False  # refuse it while the row has not expired


class Read(msgspec.Struct, frozen=True):
    """Request to read the row."""


def allows(row: Lease | None, swap: Swap) -> bool:
    """Report if the store carries out a swap on this row."""
    if row is None:
        return swap.version == 0
    return row.version == swap.version and (row.expired or not swap.only_expired)


def swapped(swap: Swap) -> Lease:
    """Return the row after a swap."""
    return Lease(
        version=swap.version + 1,
        epoch=swap.epoch,
        holder=swap.holder,
        standby=swap.standby,
        in_sync=swap.in_sync,
    )


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Terms of the standby protocol. Times are seconds of CLOCK_BOOTTIME, which counts while a machine sleeps."""

    lease: float = 5.0
    both: bool = True  # nothing leaves before the standby has it on the disk
    store: bool = True  # there is a lease store

    @property
    def half(self) -> float:
        """Age of the last proof after which a primary stops. The other half is for clocks that differ."""
        return self.lease / 2

    @property
    def renewal(self) -> float:
        """Time between two renewals of the lease."""
        return self.lease / 6

    @property
    def patience(self) -> float:
        """Time without an acknowledgement after which a primary goes on alone."""
        return self.lease / 5

    @property
    def heartbeat(self) -> float:
        """Time after which a primary that has nothing to ship asks for an acknowledgement."""
        return self.lease / 20

    @property
    def store_timeout(self) -> float:
        """Time after which a request to the store counts as lost. It may be carried out all the same."""
        return self.lease / 8
