"""Checks at the opening of a journal: its commits are complete, and this node owns it.

Four files show the last position of the log: the log, the newest state snapshot, the archive and
the anchor (exchange.journal.anchor). A log that ends before the position in one of the others was
cut, or is an older copy. It is refused, and the error names the missing commits and the remedy. One
exception: with `JOURNAL_SYNC=normal` a power failure may lose frames that were written but not
flushed; then the node warns and continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from exchange.journal.anchor import NAME, Anchor
from exchange.journal.archive import Archive
from exchange.journal.frames import FILE_HEAD_SIZE, JournalError
from exchange.model.records import Recovered

_RESTORE: Final = (
    "Restore the missing files from a backup ('exchange-node restore'), or start with another "
    "--data-dir "
    "to become a new node"
)
_GIVE_UP: Final = "If the missing commits are lost for good, run 'exchange-node journal repair', which reports the losses and continues without them"


def owner_of(path: Path) -> str | None:
    """Return the owner of the commits in the journal directory `path`: "" if none is recorded, None
    without commits.

    Raises:
        JournalError: the anchor is damaged.
        OSError: the anchor cannot be read.
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
    """Checks of one journal. `notes`: warnings for the user about a journal that can be used."""

    def __init__(self, path: Path, anchor: Anchor | None, snapshot: int, *, full: bool) -> None:
        """`snapshot`: the frame of the newest state snapshot, 0 if there is none. `full`: commits
        are flushed before they are acknowledged."""
        self.notes: list[str] = []
        self._path = path
        self._anchor = anchor
        self._snapshot = snapshot
        self._full = full

    def owner(self, node_id: str) -> None:
        """Check that this node owns the journal.

        Raises:
            JournalError: another node owns it.
        """
        anchor = self._anchor
        if anchor is None or not anchor.written or not node_id or not anchor.owner:
            return
        if anchor.owner != node_id:
            raise JournalError(
                f"{self._path} is the journal of node {anchor.owner}, and node.key is the key of node "
                f"{node_id}. Restore the key of node {anchor.owner}, or start with another --data-dir"
            )

    def no_log(self) -> None:
        """Check that a directory without any segment never had commits.

        Raises:
            JournalError: it had commits.
        """
        known = max(self._snapshot, 0 if self._anchor is None else self._anchor.written)
        if known or (self._path / "archive.sqlite3").exists():
            what = f"commits up to {known:,} are missing" if known else "all commits are missing"
            raise JournalError(f"{self._path} has no log: {what}. {_RESTORE}")

    def log_ends(self, last: int) -> None:
        """Check the log's last complete frame, before the log is changed.

        Raises:
            JournalError: the log ends too early.
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
                "were written. If the power failed while the node ran with JOURNAL_SYNC=normal, they are "
                "lost: start once with JOURNAL_SYNC=normal to continue without them. Otherwise restore the "
                "missing end of the log from a backup"
            )
        self.notes.append(
            f"the journal has lost its last commits, {last + 1:,} to {anchor.written:,}: they were written "
            "but not flushed, and JOURNAL_SYNC=normal does not protect such commits from a power failure. "
            "Orders acknowledged in them are lost; set JOURNAL_SYNC=full to prevent this"
        )

    def _short(self, last: int, known: int, source: Path) -> JournalError:
        return JournalError(
            f"{self._path}: the log ends at commit {last:,}, and {source.name} has commits up to "
            f"{known:,}: {known - last:,} commits, and the orders acknowledged in them, are missing. The log was "
            f"cut short or is an older copy. {_RESTORE}. {_GIVE_UP}"
        )

    def archive(self, archive: Archive, last: int) -> None:
        """Check the archive against a log that ends at frame `last`. Rows of frames that the log
        lost in a power failure are moved to the archive's table `lost`.

        Raises:
            JournalError: the archive is ahead of the log by more than a power failure explains.
        """
        if archive.at <= last:
            return
        rows = archive.count_after(last)
        if self._anchor is None or (rows and self._full):
            raise self._short(last, archive.at, archive.path)
        archive.set_aside_after(last)
        if rows:
            self.notes.append(
                f"{rows:,} finished orders, fills and ledger postings of the lost commits are "
                f"in the table `lost` of {archive.path}"
            )

    def belongs(self, recovered: Recovered, node_id: str) -> None:
        """Check the owner of a journal without a recorded owner, by its feeds: version 0.1.0 had no
        anchor.

        Raises:
            JournalError: the orders are another node's.
        """
        shown = any(order.opened for order in recovered.orders)
        if shown and not any(feed.owner == node_id for feed in recovered.feeds):
            raise JournalError(
                f"{self._path} contains orders of another node than {node_id}, the owner of node.key. Restore the "
                "key that belongs to this journal, or start with another --data-dir"
            )
