"""Checks of a journal that is being opened: nothing that was acknowledged is missing, and it is the
right node's.

Four things know how far the log got: the log, the newest state snapshot, the archive and the anchor
(exchange.journal.anchor). A log that ends before what one of the others knows of was cut, or is an older
copy. It is refused, with what is missing and what to do. One exception: with `JOURNAL_SYNC=normal` a
power cut may take what was written and not flushed; then the node says so and goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from exchange.journal.anchor import NAME, Anchor
from exchange.journal.archive import Archive
from exchange.journal.frames import FILE_HEAD_SIZE, JournalError
from exchange.model.records import Recovered

_RESTORE: Final = (
    "Put the missing files back from a backup ('exchange-node restore'), or start with another --data-dir "
    "to become a new node"
)
_GIVE_UP: Final = "If it is lost for good, 'exchange-node journal repair' goes on without it and says what that is"


def owner_of(path: Path) -> str | None:
    """The node whose commits are in the journal directory `path`: "" if it does not say whose they are,
    None if there are none.

    Raises:
        JournalError: its anchor is damaged.
        OSError: it cannot be read.
    """
    found = path / NAME
    written, owner = 0, ""
    if found.exists():
        anchor = Anchor(found)
        anchor.close()
        written, owner = anchor.written, anchor.owner
    logs = any(log.stat().st_size > FILE_HEAD_SIZE for log in path.glob("*.log"))
    return owner if written or logs or any(path.glob("*.state")) else None


class Completeness:
    """`notes`: what a user should know although the journal can be used."""

    def __init__(self, path: Path, anchor: Anchor | None, snapshot: int, *, full: bool) -> None:
        """`snapshot`: the frame of the newest state snapshot, 0 if there is none. `full`: whatever was
        acknowledged was flushed first."""
        self.notes: list[str] = []
        self._path = path
        self._anchor = anchor
        self._snapshot = snapshot
        self._full = full

    def owner(self, node_id: str) -> None:
        """Check whose journal it is.

        Raises:
            JournalError: it is another node's.
        """
        anchor = self._anchor
        if anchor is None or not anchor.written or not node_id or not anchor.owner:
            return
        if anchor.owner != node_id:
            raise JournalError(
                f"{self._path} is the journal of node {anchor.owner}, and node.key is the key of node "
                f"{node_id}. Put the key of node {anchor.owner} back, or start with another --data-dir"
            )

    def no_log(self) -> None:
        """The directory has no segment at all.

        Raises:
            JournalError: it had some.
        """
        known = max(self._snapshot, 0 if self._anchor is None else self._anchor.written)
        if known or (self._path / "archive.sqlite3").exists():
            what = (
                f"commits up to {known:,} are missing" if known else "what was committed is missing"
            )
            raise JournalError(f"{self._path} has no log: {what}. {_RESTORE}")

    def log_ends(self, last: int) -> None:
        """Check the log's last whole frame, before anything of it is changed.

        Raises:
            JournalError: it ends too early.
        """
        if last < self._snapshot:
            raise JournalError(
                f"{self._path}: the log ends at commit {last:,}, before commit {self._snapshot:,} of the newest "
                f".state file: it was cut short. {_RESTORE}"
            )
        anchor = self._anchor
        if anchor is None:
            return
        if last < anchor.flushed:
            raise self._short(last, anchor.flushed, anchor.path)
        if last >= anchor.written:
            return
        if self._full:
            raise JournalError(
                f"{self._path}: the log ends at commit {last:,}, and commits up to {anchor.written:,} "
                "were written. If a power cut came while the node ran with JOURNAL_SYNC=normal they are "
                "lost: start once with JOURNAL_SYNC=normal to go on without them. Otherwise put the "
                "missing end of the log back from a backup"
            )
        self.notes.append(
            f"the journal has lost its last commits, {last + 1:,} to {anchor.written:,}: they were written "
            "and not flushed, which a power cut takes with JOURNAL_SYNC=normal. Orders acknowledged in them "
            "are gone; JOURNAL_SYNC=full would have kept them"
        )

    def _short(self, last: int, known: int, source: Path) -> JournalError:
        return JournalError(
            f"{self._path}: the log ends at commit {last:,}, and {source.name} knows of commits up to "
            f"{known:,}: {known - last:,} commits, and what was acknowledged in them, are missing. The log was "
            f"cut short or is an older copy. {_RESTORE}. {_GIVE_UP}"
        )

    def archive(self, archive: Archive, last: int) -> None:
        """Check the archive against a log that ends at frame `last`. What a power cut took from the log
        stays in the archive's file, apart from the rest.

        Raises:
            JournalError: the archive has more than the log lost in a power cut.
        """
        if archive.at <= last:
            return
        rows = archive.count_after(last)
        if self._anchor is None or (rows and self._full):
            raise self._short(last, archive.at, archive.path)
        archive.set_aside_after(last)
        if rows:
            self.notes.append(
                f"{rows:,} finished orders, fills and lines of the ledger that came of the lost commits are "
                f"in the table `lost` of {archive.path}"
            )

    def belongs(self, recovered: Recovered, node_id: str) -> None:
        """Check whose orders a journal holds that does not say whose it is: version 0.1.0 had no anchor.

        Raises:
            JournalError: they are another node's.
        """
        shown = any(order.opened for order in recovered.orders)
        if shown and not any(feed.owner == node_id for feed in recovered.feeds):
            raise JournalError(
                f"{self._path} has the orders of another node than {node_id}, whose key node.key is. Put the "
                "key that belongs to this journal back, or start with another --data-dir"
            )
