"""Repair of a damaged journal: keep the records before the first damage, and report the loss.

Theory of operation. A journal can be continued from any commit, because each holds complete changes. So the
repair keeps the newest readable snapshot and the frames that follow it without a gap. What comes after the
first damage cannot be applied, for it depends on what is missing; whole frames found there are listed.

Rules of this file:
- The damaged journal is kept: it is renamed, and the repaired one is a copy.
- The repaired journal is opened once before it takes its place.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from exchange.journal import anchor, snapshots
from exchange.journal.archive import Archive
from exchange.journal.frames import (
    FILE_HEAD_SIZE,
    HEAD_SIZE,
    MARK,
    FrameFault,
    JournalError,
    head_at,
    payload_at,
)
from exchange.journal.journal import SCHEMA_VERSION, Journal
from exchange.journal.journal_reader import (
    Advance,
    Frame,
    JournalReader,
    frames_of,
    no_progress,
)
from exchange.journal.state import JournalState
from exchange.journal.write_ahead_log import LOG_SUFFIX
from exchange.model.records import Fill, Order, Record, unfolded
from p2p.ground.durable_file import flush_directory

MAX_LISTED: Final = 1000  # orders and fills in a report


class LostFill(msgspec.Struct, frozen=True):
    """A fill in a frame that could not be kept."""

    order: int
    market: str
    price: int  # ticks
    quantity: int  # lots
    counterparty: str
    account: int


class Repair(msgspec.Struct):
    """Report of a repair. `damage`: where and what; "" if nothing was damaged."""

    kept: int = 0  # last frame kept
    known: int = 0  # last frame that was ever written, as far as is known
    damage: str = ""
    notes: list[str] = []
    readable: int = 0  # frames after the damage that are whole, thus listed below
    records: dict[str, int] = {}  # in them, by kind
    orders: list[int] = []  # in them, by number
    fills: list[LostFill] = []
    rows_set_aside: int = 0  # of the archive, in its table `lost`
    original: str = ""  # where the damaged journal is now

    @property
    def lost(self) -> int:
        """Number of commits that are lost."""
        return max(self.known - self.kept, 0)


def examine(path: Path, advance: Advance = no_progress) -> Repair:
    """Report what a repair would keep and lose, without changing anything.

    Raises:
        JournalError: nothing can be kept.
        OSError: a file cannot be read.
    """
    report = Repair()
    with JournalReader(path) as reader:
        _examine(reader, report, advance)
    return report


def repair(path: Path, aside: Path, *, owner: str, advance: Advance = no_progress) -> Repair:
    """Repair the journal in `path` and move the original to `aside`. The caller has checked that no
    process uses it.

    Raises:
        JournalError: nothing can be kept; the journal is as it was.
        OSError: a file cannot be read or written; the journal is as it was.
    """
    report = Repair()
    draft = path.with_name(path.name + ".repairing")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    try:
        with JournalReader(path) as reader:
            snapshot = _examine(reader, report, advance)
            known = _owner(reader, report) or owner
            if snapshot:
                _copy(snapshots.path_of(path, snapshot), draft)
            _copy_log(reader, draft, snapshot, report.kept)
        _copy_archive(path / "archive.sqlite3", draft, report)
        anchor.write(draft / anchor.NAME, owner=known, position=report.kept).close()
        repaired = Journal(draft, owner=known, background=False)
        try:
            report.notes += repaired.notes
            repaired.recover()
        finally:
            repaired.close()
        path.rename(aside)
        draft.rename(path)
        flush_directory(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report.original = str(aside)
    return report


def _owner(reader: JournalReader, report: Repair) -> str:
    try:
        found = reader.anchor()
    except JournalError:
        return ""
    return "" if found is None else found[0]


def _examine(reader: JournalReader, report: Repair, advance: Advance) -> int:
    """Fill the report; returns the frame of the snapshot to keep, 0 for none."""
    snapshot = _usable_snapshot(reader, report)
    try:
        found = reader.anchor()
        report.known = found[1] if found is not None else 0
    except JournalError as error:
        report.notes.append(str(error))
    report.known = max(report.known, snapshot, _archived(reader.path / "archive.sqlite3"))
    report.kept = snapshot
    rest: list[tuple[Path, bytes]] = []  # segments from the damage on
    for first in reader.segments:
        path, data = reader.segment_path(first), reader.segment_data(first)
        advance(len(data))
        if report.damage:
            rest.append((path, data))
        elif first > report.kept + 1:
            report.damage = f"{path.name}: commits {report.kept + 1:,} to {first - 1:,} are missing"
            rest.append((path, data))
        else:
            fault, end = _walk(path, data, first, report)
            if fault:
                report.damage = f"{path.name}, offset {end:,}: {fault}"
                rest.append((path, data[end:]))
    if not report.kept and not snapshot:
        raise JournalError(
            f"{reader.path}: nothing can be kept: neither the first commits nor a snapshot can be read. Restore "
            "a backup with 'exchange-node restore'"
        )
    _list_lost(rest, report)
    if not report.damage and report.known > report.kept:
        report.damage = f"the log ends at commit {report.kept:,}: its end was cut off"
    return snapshot


def _usable_snapshot(reader: JournalReader, report: Repair) -> int:
    """Return the newest snapshot that can be read whole; 0 if there is none."""
    for number in reversed(snapshots.numbers(reader.path)):
        path = snapshots.path_of(reader.path, number)
        try:
            for _ in snapshots.load(path, SCHEMA_VERSION, JournalState()):
                pass
        except JournalError as error:
            report.notes.append(f"snapshot not usable: {error}")
            continue
        return number
    return 0


def _archived(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path)) as db:
            (frame,) = db.execute("SELECT frame FROM place").fetchone()
            return int(frame)
    except (sqlite3.Error, TypeError):
        return 0


def _walk(path: Path, data: bytes, first: int, report: Repair) -> tuple[str, int]:
    """Read a segment up to its first damage. Returns the fault ("" for none) and the offset."""
    end = FILE_HEAD_SIZE
    try:
        for frame in frames_of(path, data, first):
            if frame.number > report.kept:
                frame.records()
                report.kept = frame.number
            end = frame.end
    except FrameFault as fault:
        return str(fault), end
    return "", end


def _list_lost(rest: list[tuple[Path, bytes]], report: Repair) -> None:
    """List the content of whole frames after the damage."""
    kinds: Counter[str] = Counter()
    orders: dict[int, None] = {}
    for _, data in rest:
        offset = 0
        while (offset := data.find(MARK, offset)) >= 0:
            frame = _frame_at(data, offset)
            if frame is None or frame.number <= report.kept:
                offset += 1 if frame is None else frame.end - offset
                continue
            offset = frame.end
            report.known = max(report.known, frame.number)
            report.readable += 1
            for record in unfolded(_records(frame)):
                kinds[type(record).__name__] += 1
                if isinstance(record, Order):
                    orders[record.number] = None
                elif isinstance(record, Fill) and len(report.fills) < MAX_LISTED:
                    report.fills.append(
                        LostFill(
                            record.order,
                            record.market,
                            record.price,
                            record.quantity,
                            record.counterparty,
                            record.account,
                        )
                    )
    report.records = dict(kinds)
    report.orders = sorted(orders)[:MAX_LISTED]


def _frame_at(data: bytes, offset: int) -> Frame | None:
    try:
        head = head_at(data, offset)
        payload = payload_at(data, offset, head)
    except FrameFault:
        return None
    return Frame(head.number, offset, offset + HEAD_SIZE + head.length, payload)


def _records(frame: Frame) -> list[Record]:
    try:
        return frame.records()
    except FrameFault:
        return []


def _copy(path: Path, directory: Path) -> None:
    target = directory / path.name
    shutil.copyfile(path, target)
    target.chmod(0o600)
    _flush(target)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy_log(reader: JournalReader, draft: Path, snapshot: int, kept: int) -> None:
    """Copy the segments with frames after the snapshot, the last one cut at frame `kept`."""
    segments = reader.segments
    for index, first in enumerate(segments):
        following = segments[index + 1] if index + 1 < len(segments) else kept + 1
        if first > kept or (following <= snapshot + 1 and following <= kept):
            continue
        path, data, end = reader.segment_path(first), reader.segment_data(first), FILE_HEAD_SIZE
        try:
            for frame in frames_of(path, data, first):
                if frame.number > kept:
                    break
                end = frame.end
        except FrameFault:
            pass  # the damage
        target = draft / f"{first:020}{LOG_SUFFIX}"
        fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data[:end])
        _flush(target)


def _copy_archive(path: Path, draft: Path, report: Repair) -> None:
    """Copy the archive, if it is whole, and set aside what it has of lost commits."""
    if not path.exists():
        return
    target = draft / path.name
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        report.notes.append(
            f"the archive could not be kept ({found}): history from before the log is lost"
        )
        target.unlink(missing_ok=True)
        return
    target.chmod(0o600)
    archive = Archive(target)
    try:
        if archive.at > report.kept:
            report.rows_set_aside = archive.count_after(report.kept)
            archive.set_aside_after(report.kept)
    finally:
        archive.close()
