"""Journal of a node: everything that an acknowledged order depends on, in one directory.

    NUMBER.log        the log: every commit is one frame (exchange.journal.write_ahead_log); the truth
    NUMBER.state      the state after a frame, so that earlier ones need not be read (exchange.journal.snapshots)
    archive.sqlite3   finished orders, fills and postings for queries, made from the log (exchange.journal.archive)
    anchor            owner of the journal, and the last position of its log (exchange.journal.anchor)
    lock              held by the process that writes

Rules of this file:
- With `sync="full"` a commit is on the disk when it returns, so an acknowledged order survives power
  loss; with "normal" it survives the death of the process only.
- The log is the truth. Archive and snapshots are derived from it by a thread of their own, never on the
  way to an acknowledgement.
- After a failed write nothing more is committed: the content of the disk is unknown then.
"""

from __future__ import annotations

import fcntl
import gc
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from exchange.journal import anchor, snapshots
from exchange.journal.archive import Archive
from exchange.journal.completeness import Completeness
from exchange.journal.frames import JournalError
from exchange.journal.state import RECENT, JournalState
from exchange.journal.write_ahead_log import (
    SEGMENT_BYTES,
    Tail,
    WriteAheadLog,
    need,
)
from exchange.model.codec import pack
from exchange.model.commands import HOUSE
from exchange.model.records import (
    Fill,
    Order,
    Posting,
    PutBatch,
    PutSnapshot,
    Record,
    Recovered,
    Transaction,
    decode_records,
    unfolded,
)
from p2p.ground.durable_file import flush_directory

__all__ = ["SCHEMA_VERSION", "Journal", "JournalError"]

SCHEMA_VERSION: Final = 5  # of the records too: raise it when their fields change
SNAPSHOT_BYTES: Final = 2 * SEGMENT_BYTES  # least log between two snapshots
SNAPSHOT_FACTOR: Final = 3  # least log, in sizes of the last snapshot
BEHIND: Final = 16  # segments of log that the archive may lack; then commits wait for it
ARCHIVE_BYTES: Final = 256 * 1024  # of log in one transaction of the archive
GATHER: Final = 0.02  # s from a commit to its archiving, to gather more commits
PAUSE_MAX: Final = (
    0.1  # s; the thread rests as long as it worked, to leave the processor to trading
)
RETRY: Final = 1.0  # s after the archive could not be written


class Retention(NamedTuple):
    """Log kept for a reader of its own. `reader_at` returns the last frame that the reader has; at most
    `most_bytes` of log are kept for it."""

    reader_at: Callable[[], int]
    most_bytes: int


class Journal:
    """Journal of one node. `commit` may be called from another thread than the constructor, one call at
    a time. `history` may be called from any thread, and blocks until the archive has what was
    committed before: `await asyncio.to_thread(lambda: journal.history().fills_of(account))`."""

    def __init__(
        self,
        path: Path,
        *,
        sync: Literal["full", "normal"] = "full",
        owner: str = "",
        background: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        retention: Retention | None = None,
    ) -> None:
        """Open or create the journal of the node `owner` in the directory `path`.

        Feeds of others can be fetched again, so a commit with nothing else does not wait for the disk.
        Without `background` only queries write the archive, and only `work` makes snapshots. `retention`: log
        that is kept for a reader although a snapshot has replaced it.

        Raises:
            JournalError: not a journal, damaged, incomplete, another node's, of another version, in use,
                or not writable.
        """
        self.path = path
        self.notes: list[str] = []  # messages for the user about the journal found
        self.written_bytes = 0  # of records, since the start
        self.flush_all = False  # what can be fetched again too: a standby has every frame
        self.trouble: str | None = None  # error of the last write of archive or snapshot
        self._sync = sync == "full"
        self._owner = owner
        self._snapshot_bytes = snapshot_bytes
        self._retention = retention
        self._failed: str | None = None
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._archiving = threading.Lock()
        self._thread: threading.Thread | None = None
        self._background = background
        self._making: Iterator[None] | None = None  # a snapshot, step by step
        self._lock = -1
        self._anchor: anchor.Anchor | None = None
        try:
            self._open(segment_bytes)
        except BaseException as error:
            self._release()
            if isinstance(error, (OSError, ValueError)):
                raise JournalError(
                    f"cannot open the journal {path}: {error}{need(error)}"
                ) from error
            raise

    def _open(self, segment_bytes: int) -> None:
        path = self.path
        earlier = path if path.is_file() else path.with_name("exchange.sqlite3")
        if earlier.exists():
            raise JournalError(
                f"{earlier} has journal version 1; this program reads version {SCHEMA_VERSION}, "
                "and cannot convert it"
            )
        if not path.exists():
            path.mkdir(mode=0o700)
            flush_directory(path.parent)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                f"the journal {path} is in use by another process: stop that one first"
            ) from error
        snapshots.tidy(path)
        self._snapshot = max(snapshots.numbers(path), default=0)
        found = path / anchor.NAME
        self._anchor = anchor.Anchor(found) if found.exists() else None
        checks = Completeness(path, self._anchor, self._snapshot, full=self._sync)
        checks.owner(self._owner)
        if not any(path.glob("*.log")):
            checks.no_log()
        self._log = WriteAheadLog(
            path,
            version=SCHEMA_VERSION,
            start=1,
            segment_bytes=segment_bytes,
            check=checks.log_ends,
        )
        if self._log.segments[0] > self._snapshot + 1:
            raise JournalError(
                f"{path} lacks the segment of frame {self._snapshot + 1:,}: put the missing .log and .state "
                "files back from a backup, or run 'exchange-node journal repair' to keep what is whole"
            )
        self._committed = self._found = self._log.last
        self._records = self._archived = 0  # since the start: committed; of them in the archive
        self._segments = self._log.segments
        self._archive = Archive(path / "archive.sqlite3")
        checks.archive(self._archive, self._log.last)
        self._begin_archive(checks.notes)
        self.notes = checks.notes
        self._checks = checks
        # A journal of version 0.1.0 has no recorded owner: checked after it has been read.
        self._anchor = anchor.cast(found, self._anchor, self._owner, self._log.last)
        self._tail = Tail(self._log, self._archive.at)

    def _begin_archive(self, notes: list[str]) -> None:
        """Continue the archive from its last frame."""
        archive, log = self._archive, self._log
        if archive.put_aside is not None:
            notes.append(f"the archive {archive.path} could not be used ({archive.put_aside})")
        first = log.segments[0]
        if archive.at + 1 < first:
            notes.append(
                f"history before frame {first} of the log is lost, because the archive that had it is missing"
            )
            orders = [
                (first - 1, order) for order in self._state().recovered().orders if order.done
            ]
            archive.add(orders, [], [], first - 1)

    def close(self) -> None:
        """Close all files. The next start reads from the log what the archive lacks."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._failed is None:
                self._log.settle()
                self._note_position()
        except OSError as error:
            self._failed = f"cannot write the journal {self.path}: {error}"
        self._release()

    def _release(self) -> None:
        for name in ("_archive", "_tail", "_log"):
            if hasattr(self, name):
                getattr(self, name).close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Writing

    def commit(self, records: Sequence[Record]) -> None:
        """Make `records` durable, all or none.

        Raises:
            JournalError: the records may or may not be durable; the node must stop. Nothing more
                can be committed.
        """
        if self._failed is not None:
            raise JournalError(self._failed)
        if not records:
            return
        sync = self._sync and (
            self.flush_all or not all(self._can_be_fetched(record) for record in records)
        )
        self._append(lambda: pack(records), len(records), sync=sync)

    def append_frame(self, number: int, payload: bytes, *, sync: bool) -> None:
        """Append a frame of another copy of this journal. Without `sync` it is on the disk after a later one with it.

        Raises:
            JournalError: the frame does not follow, has no records of this version, or cannot be written.
        """
        if self._failed is not None:
            raise JournalError(self._failed)
        if number != self._committed + 1:
            raise JournalError(f"{self.path}: got frame {number:,} after {self._committed:,}")
        self._append(lambda: payload, len(self._decoded(number, payload)), sync=sync)

    def _append(self, encode: Callable[[], bytes], count: int, *, sync: bool) -> None:
        try:
            data = encode()
            self._committed = self._log.append(data, sync=sync)
            self.written_bytes += len(data)
        except BaseException as error:
            # The content of the disk is unknown, and a second flush would not show it.
            self._failed = f"cannot write the journal {self.path}: {error}{need(error)}"
            if isinstance(error, (OSError, ValueError, TypeError)):
                raise JournalError(self._failed) from error
            raise
        self._note_position()
        self._records += count
        if self._log.segments is not self._segments:
            self._segments = segments = self._log.segments
            if len(segments) > BEHIND:
                self._archive_to(segments[-BEHIND] - 1)
        if self._background and not self._wake.is_set():
            self._start()

    def reader_after(self, number: int) -> tuple[Tail, int] | None:
        """Return a reader of the frames after `number`, which another thread may use, and the CRC of that frame's
        payload (0 for frame 0); None if the log has the frame no more, or not yet. Reads up to a segment.

        Raises:
            JournalError, OSError: the log cannot be read.
        """
        first = self._log.segments[0]
        if number > self._committed or number < (0 if first == 1 else first):
            return None
        if number == 0:
            return Tail(self._log, 0), 0
        tail = Tail(self._log, number - 1)
        try:
            return tail, zlib.crc32(tail.take(number, 1)[0][1])
        except BaseException:
            tail.close()
            raise

    @property
    def appends_only(self) -> bool:
        """Report if the next commit only appends to a file: no flush, no new segment, no archiving."""
        return not self._sync and self._failed is None and not self._log.full

    def _note_position(self) -> None:
        """Write the position to the anchor. With `sync="full"` only flushed frames count: nothing else was
        acknowledged."""
        log = self._log
        durable = log.durable
        if self._anchor is not None:
            self._anchor.note(durable if self._sync else log.last, durable)

    def _can_be_fetched(self, record: Record) -> bool:
        return isinstance(record, (PutBatch, PutSnapshot)) and record.owner != self._owner

    # Reading it all

    def recover(self, progress: Callable[[float], None] | None = None) -> Recovered:
        """Return the state for a restarted node, and bring the archive up to date. `progress` is called
        with the part that is done, 0 to 1.

        Raises:
            JournalError: a file is damaged, the journal is another node's, or the archive cannot be
                written.
        """
        collecting = gc.isenabled()
        gc.disable()  # everything read here is kept, and the collector would visit it many times
        try:
            state = JournalState()
            for part in self._fold(state, self._committed):
                if progress is not None:
                    progress(part)
            recovered = state.recovered()
        finally:
            if collecting:
                gc.enable()
        held = self._anchor
        if self._owner and held is not None and not held.owner:
            self._checks.belongs(recovered, self._owner)
            held.close()
            self._anchor = anchor.write(held.path, owner=self._owner, position=self._log.last)
        self._archive_to(self._found)
        if self._background:
            self._start()
        return recovered

    def _state(self, upto: int = 0) -> JournalState:
        """Return the state after frame `upto`, or that of the snapshot if it is later."""
        state = JournalState()
        for _ in self._fold(state, upto):
            pass
        return state

    def _fold(self, state: JournalState, upto: int) -> Iterator[float]:
        """Build the state of frame `upto` in steps, which return the part of the bytes that is read."""
        snapshot = self._snapshot
        tail = Tail(self._log, snapshot)
        share = 0.0  # of the snapshot in all bytes
        try:
            if snapshot:
                path = snapshots.path_of(self.path, snapshot)
                size = path.stat().st_size
                share = size / max(1, size + self._log_bytes())
                for offset in snapshots.load(path, SCHEMA_VERSION, state):
                    yield share * offset / size
            frames = max(1, upto - tail.at)
            while tail.at < upto:
                for number, payload in tail.take(upto):
                    state.apply(self._decoded(number, payload))
                    yield 1.0 - (1.0 - share) * (upto - number) / frames
        except OSError as error:
            raise JournalError(f"cannot read the journal {self.path}: {error}") from error
        finally:
            tail.close()

    def _log_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob("*.log"))

    def _decoded(self, number: int, payload: bytes) -> list[Record]:
        try:
            records = decode_records(payload)
        except msgspec.DecodeError as error:
            raise JournalError(f"{self.path}, frame {number}: {error}") from error
        return records

    # Behind the commits: archive and snapshots

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
            self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(GATHER)
            self._wake.clear()
            more = True
            while more and not self._closing.is_set():
                began = time.monotonic()
                try:
                    more = self.work()
                    self.trouble = None
                except (JournalError, OSError) as error:
                    self.trouble = str(error)
                    self._closing.wait(RETRY)
                self._closing.wait(min(time.monotonic() - began, PAUSE_MAX))

    @property
    def committed(self) -> int:
        """Number of the last commit."""
        return self._committed

    @property
    def archive_behind(self) -> int:
        """Number of committed records that the archive lacks."""
        return self._records - self._archived

    def file_sizes(self) -> dict[str, int]:
        """Return the bytes on the disk by kind of file: log, snapshot, archive."""
        kinds = {".log": "log", ".state": "snapshot"}
        sizes = {"log": 0, "snapshot": 0, "archive": 0}
        for path in self.path.iterdir():
            kind = "archive" if path.name.startswith("archive.") else kinds.get(path.suffix)
            if kind is not None:
                sizes[kind] += _size(path)
        return sizes

    def snapshot_time(self) -> float | None:
        """Return when the newest snapshot was made, in seconds since the epoch; None without one."""
        if not self._snapshot:
            return None
        with suppress(FileNotFoundError):
            return snapshots.path_of(self.path, self._snapshot).stat().st_mtime
        return None

    def work(self) -> bool:
        """Do one step of the background work. Returns True if there is more to do.

        Raises:
            JournalError, OSError: the archive or a snapshot cannot be written; try again later.
        """
        if self._archive.at < self._committed:
            self._archive_some(self._committed)
        if self._making is None and self._snapshot_due():
            self._making = self._make_snapshot(self._log.segments[-1] - 1)
        if self._making is not None:
            try:
                if next(self._making, self) is self:
                    self._making = None
            except BaseException:
                self._making = None
                raise
        return self._archive.at < self._committed or self._making is not None

    def _snapshot_due(self) -> bool:
        *sealed, newest = self._log.segments
        if newest - 1 <= self._snapshot:
            return False
        since = sum(_size(self._log.path(s)) for s in sealed if s > self._snapshot)
        last = _size(snapshots.path_of(self.path, self._snapshot))
        return since >= max(self._snapshot_bytes, SNAPSHOT_FACTOR * last)

    def _make_snapshot(self, number: int) -> Iterator[None]:
        """Write a snapshot of closed segments, step by step; no commit waits for it."""
        state = JournalState()
        for _ in self._fold(state, number):
            yield
        yield from snapshots.save(self.path, number, state, SCHEMA_VERSION)
        yield from state.release()
        self._snapshot = number
        yield
        snapshots.tidy(self.path)
        yield
        with self._archiving:  # a committing thread may be writing the archive too
            flushed = self._archive.flush()
        self._log.drop(self._released(min(number, flushed)))

    def _released(self, upto: int) -> int:
        """Return the frame up to which the log may be deleted: `upto`, or less for a reader that is behind."""
        if self._retention is None:
            return upto
        kept, bound = 0, 0
        for segment in reversed(self._log.segments):
            kept += _size(self._log.path(segment))
            if kept > self._retention.most_bytes:
                bound = segment
                break
        return min(upto, max(bound, self._retention.reader_at()))

    def _archive_some(self, upto: int) -> None:
        """Copy the next part of the log into the archive."""
        with self._archiving:
            if self._archive.at >= upto:
                return
            try:
                frames = self._tail.take(upto, ARCHIVE_BYTES)
                orders: list[tuple[int, Order]] = []
                fills: list[tuple[int, Fill]] = []
                postings: list[tuple[int, Posting]] = []
                count = 0
                for number, payload in frames:
                    records = self._decoded(number, payload)
                    for record in unfolded(records):
                        if isinstance(record, Order):
                            if record.done:
                                orders.append((number, record))
                        elif isinstance(record, Fill):
                            fills.append((number, record))
                        elif isinstance(record, Transaction):
                            postings += [(number, posting) for posting in record.postings()]
                    count += len(records) if number > self._found else 0
                self._archive.add(orders, fills, postings, self._tail.at)
                self._archived += count
            except BaseException as error:
                self._tail.close()
                self._tail = Tail(self._log, self._archive.at)
                if isinstance(error, OSError):
                    raise JournalError(f"cannot read the journal {self.path}: {error}") from error
                raise

    def _archive_to(self, upto: int) -> None:
        while self._archive.at < upto:
            self._archive_some(upto)

    # History

    def history(self) -> Archive:
        """Return the archive after adding everything committed before this call.

        Raises:
            JournalError: the archive cannot be written, or the log not read.
        """
        self._archive_to(self._committed)
        return self._archive

    def order(self, number: int) -> Order | None:
        """Find a finished order. The latest ones may be missing: see `behind`."""
        return self._look_up().order(number)

    def by_client_id(self, client_id: str, account: int = HOUSE) -> Order | None:
        """Find the account's latest finished order with a client id. See `behind`."""
        return self._look_up().by_client_id(client_id, account)

    @property
    def behind(self) -> bool:
        """Report if a search for an order has to wait for the archive. It need not while
        everything that the archive lacks is in the engine's memory: the latest `RECENT` finished
        orders."""
        return self._records - self._archived > RECENT

    def _look_up(self) -> Archive:
        return self.history() if self.behind else self._archive


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
