"""Deliberate bugs of the standby protocol, which the simulation has to find. Others need a rare order of events, and are
tested with it in tests/unit/node/standby."""

from __future__ import annotations

from typing import Any

from node.annexes.standby.lease import Lease, Swap
from node.annexes.standby.link_messages import Ack, Hello
from node.annexes.standby.primary import Primary
from node.annexes.standby.standby import Standby
from tests.simulation.standbys import Rules


class _GoesAloneUnasked(Primary):
    """Goes on alone before the store has cleared `in_sync`."""

    @property
    def bound(self) -> bool:
        return super().bound and not self._leaving(self._asked)


class _JoinsEarly(Primary):
    """Sets `in_sync` before the standby has everything that has left."""

    def _wanted(self, now: float) -> Any:
        wanted = super()._wanted(now)
        if isinstance(wanted, Swap) and self._link is not None and not self._leaving(now):
            self._waiting = True
            return Swap(
                version=wanted.version,
                epoch=wanted.epoch,
                holder=wanted.holder,
                standby=wanted.standby,
                in_sync=True,
            )
        return wanted


class _StartsUnasked(Primary):
    """Trades after a start before it has read the store."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._known, self._waiting = True, False

    @property
    def bound(self) -> bool:
        return self._row is not None and super().bound


class _KeepsOldFrames(Primary):
    """Lets a standby of an earlier epoch go on without a copy."""

    def connected(self, hello: Hello, *, checksum: int | None, now: float) -> None:
        if hello.epoch < self.epoch and hello.position <= self.position:
            hello = Hello(hello.machine, self.epoch, hello.position, checksum or 0)
        super().connected(hello, checksum=checksum, now=now)


class _TrustsItself(Primary):
    """Does not look at the age of its last proof."""

    def leaves(self, now: float) -> int:
        self._proof = now
        return super().leaves(now)


class _CountsAnswersTwice(Primary):
    """Takes an acknowledgement for all messages that say the same."""

    def acked(self, ack: Ack, now: float) -> None:
        link = self._link
        while link is not None and link.outstanding and link.outstanding[0].unit <= ack.unit:
            before = len(link.outstanding)
            super().acked(ack, now)
            if len(link.outstanding) == before:
                break


class _TakesOverAnyway(Standby):
    """Takes over without being in sync."""

    def _wanted(self, now: float) -> Any:
        row = self.row
        if row is not None and row.expired and row.holder != self.machine:
            self.row = Lease(
                version=row.version,
                epoch=self.epoch,
                holder=row.holder,
                standby=self.machine,
                in_sync=True,
                expired=True,
            )
        return super()._wanted(now)


class _TakesOverEarly(Standby):
    """Takes over by what the store says alone, however short ago it acknowledged."""

    def poll(self, now: float) -> Any:
        self._quiet_since = -1e9
        return super().poll(now)


BUGS: dict[str, Rules] = {
    "goes alone unasked": Rules(primary=_GoesAloneUnasked),
    "joins early": Rules(primary=_JoinsEarly),
    "starts unasked": Rules(primary=_StartsUnasked),
    "keeps old frames": Rules(primary=_KeepsOldFrames),
    "trusts itself": Rules(primary=_TrustsItself),
    "counts answers twice": Rules(primary=_CountsAnswersTwice),
    "takes over anyway": Rules(standby=_TakesOverAnyway),
    "takes over early": Rules(standby=_TakesOverEarly),
    "acknowledges before the flush": Rules(flush_before_ack=False),
    "store ignores versions": Rules(compare_versions=False),
    "clock sleeps with the machine": Rules(sleeping_clock=True),
}
