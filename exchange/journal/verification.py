"""Verification of a journal: everything in it that can be checked, without changing a byte of it.

The journal may belong to a running node; then it is checked up to the position that the anchor shows.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from exchange.feeds.feed import FeedFault, FeedState
from exchange.journal.frames import FrameFault, JournalError
from exchange.journal.journal_reader import Advance, JournalReader, no_progress
from exchange.journal.state import JournalState
from exchange.model.events import Batch, InvalidBatch, check_batch
from exchange.model.ports import KeyChecker
from exchange.model.records import Fill, Recovered, StoredFeed, Transaction, unfolded


class Check(msgspec.Struct, frozen=True):
    """Result of one check. `detail`: figures, or the fault and its cure."""

    name: str
    ok: bool
    detail: str


class Figures:
    """Counts taken while the log is read."""

    def __init__(self) -> None:
        self.frames = 0
        self.last = 0
        self.batches = 0
        self.rows: Counter[str] = Counter()  # by table of the archive, from the log
        self.balances: dict[tuple[str, str], int] = {}
        self.ledger_fault = ""

    def add(self, number: int, record: object, archived: int) -> None:
        """Count a record of frame `number`; the archive has frames up to `archived`."""
        if isinstance(record, Transaction):
            self._transaction(record)
            if number <= archived:
                self.rows["postings"] += len(record.lines)
        elif isinstance(record, Fill) and number <= archived:
            self.rows["fills"] += 1

    def _transaction(self, record: Transaction) -> None:
        sums: Counter[str] = Counter()
        for line in record.lines:
            sums[line.asset] += line.amount
            key = line.holder, line.asset
            before = self.balances.get(key)
            if before is not None and before + line.amount != line.balance:
                self.ledger_fault = self.ledger_fault or (
                    f"transaction {record.number}: {line.holder} has {line.balance} units of {line.asset} after "
                    f"{before} and {line.amount}"
                )
            self.balances[key] = line.balance
        if any(sums.values()):
            self.ledger_fault = self.ledger_fault or (
                f"the postings of transaction {record.number} do not sum to zero"
            )


def verify(
    path: Path,
    keys: KeyChecker,
    network: str,
    key_owner: str | None,
    advance: Advance = no_progress,
) -> Iterator[Check]:
    """Yield the result of each check of the journal in `path`.

    `keys` verifies signatures; `key_owner` is the node that the key file belongs to, None without a key.

    Raises:
        JournalError: there is no journal.
        OSError: a file cannot be read.
    """
    with JournalReader(path) as reader:
        try:
            anchor = reader.anchor()
        except JournalError as error:
            yield Check("anchor", False, f"{error}; or run 'exchange-node journal repair'")
            anchor = None
        else:
            yield _anchor(anchor)
        yield _key(anchor, key_owner)
        archived, archive = _archive(path / "archive.sqlite3")
        yield archive
        try:
            state = reader.state()
        except JournalError as error:
            yield Check(
                "snapshot", False, f"{error}. 'exchange-node journal repair' goes on without it"
            )
            return
        number = reader.snapshot
        yield Check("snapshot", True, f"after commit {number:,}" if number else "none yet")
        upto = None if anchor is None else anchor[1]
        figures = Figures()
        figures.last = number
        for (holder, asset), balance in state.recovered().balances.items():
            figures.balances[holder, asset] = balance
        try:
            _read(reader, state, figures, upto, archived, advance)
        except (JournalError, FrameFault) as error:
            yield Check(
                "frames", False, f"{error}. 'exchange-node journal repair' says what can be kept"
            )
            return
        recovered = state.recovered()
        aside = f"; {recovered.unfit:,} records are set aside" if recovered.unfit else ""
        yield Check(
            "frames",
            True,
            f"{figures.frames:,} whole, to commit {figures.last:,}, checksums right{aside}",
        )
        yield _ends(anchor, archived, number, figures.last)
        yield _rows(path / "archive.sqlite3", reader, figures, archived)
        yield _ledger(recovered, figures)
        yield _feeds(recovered, keys, network, anchor[0] if anchor else key_owner or "", advance)


def _read(
    reader: JournalReader,
    state: JournalState,
    figures: Figures,
    upto: int | None,
    archived: int,
    advance: Advance,
) -> None:
    first = reader.segments[0] if reader.segments else reader.snapshot + 1
    for frame in reader.frames(first - 1, upto, advance):
        records = frame.records()
        figures.frames += 1
        figures.last = max(figures.last, frame.number)
        if frame.number > reader.snapshot:
            state.apply(records)
            for record in unfolded(records):
                figures.add(frame.number, record, archived)
        elif frame.number <= archived:
            for record in unfolded(records):
                if isinstance(record, Fill):
                    figures.rows["fills"] += 1
                elif isinstance(record, Transaction):
                    figures.rows["postings"] += len(record.lines)


def _anchor(anchor: tuple[str, int, int] | None) -> Check:
    if anchor is None:
        return Check("anchor", True, "none: written by version 0.1.0")
    owner, written, flushed = anchor
    return Check(
        "anchor", True, f"node {owner or 'unknown'}, {written:,} written, {flushed:,} flushed"
    )


def _key(anchor: tuple[str, int, int] | None, key_owner: str | None) -> Check:
    if key_owner is None:
        return Check("key", False, "node.key is missing: put it back from a backup")
    if anchor is not None and anchor[0] and anchor[0] != key_owner:
        return Check(
            "key",
            False,
            f"node.key is the key of node {key_owner}, the journal is of node {anchor[0]}",
        )
    return Check("key", True, f"of node {key_owner}")


def _archive(path: Path) -> tuple[int, Check]:
    if not path.exists():
        return 0, Check("archive", True, "none: it is made again from the log at the next start")
    try:
        with closing(sqlite3.connect(path)) as db:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            (frame,) = db.execute("SELECT frame FROM place").fetchone()
    except sqlite3.Error as error:
        return 0, Check("archive", False, f"{error}: a start puts it aside and makes it again")
    if found != "ok":
        return 0, Check("archive", False, f"{found}: a start puts it aside and makes it again")
    return frame, Check("archive", True, f"up to commit {frame:,}")


def _ends(anchor: tuple[str, int, int] | None, archived: int, snapshot: int, last: int) -> Check:
    known = max(archived, snapshot, 0 if anchor is None else anchor[1])
    if last < known:
        return Check(
            "end of the log",
            False,
            f"it ends at commit {last:,}, and commits up to {known:,} were written: put the rest back from a "
            "backup, or run 'exchange-node journal repair' to go on without it",
        )
    return Check("end of the log", True, f"commit {last:,}: nothing that is known of is missing")


def _rows(path: Path, reader: JournalReader, figures: Figures, archived: int) -> Check:
    """Compare the number of archived rows with the log, for the frames that both have."""
    first = reader.segments[0] if reader.segments else figures.last + 1
    if not path.exists() or archived < first:
        return Check("archive and log", True, "no commits in common")
    with closing(sqlite3.connect(path)) as db:
        for table in ("fills", "postings"):
            text = f"SELECT count(*) FROM {table} WHERE frame BETWEEN ? AND ?"  # noqa: S608
            (count,) = db.execute(text, (first, archived)).fetchone()
            if count != figures.rows[table]:
                return Check(
                    "archive and log",
                    False,
                    f"the log has {figures.rows[table]:,} {table} from commit {first:,} to {archived:,}, the archive "
                    f"{count:,}: move archive.sqlite3 away, and a start makes it again as far as the log goes",
                )
    return Check(
        "archive and log",
        True,
        f"{figures.rows['fills']:,} fills and {figures.rows['postings']:,} postings in both",
    )


def _ledger(recovered: Recovered, figures: Figures) -> Check:
    sums: Counter[str] = Counter()
    for (_, asset), balance in recovered.balances.items():
        sums[asset] += balance
    wrong = [asset for asset, total in sums.items() if total]
    if figures.ledger_fault or wrong:
        text = figures.ledger_fault or f"the balances of {', '.join(wrong)} do not sum to zero"
        return Check("ledger", False, text)
    return Check("ledger", True, f"{len(recovered.balances):,} balances, each asset sums to zero")


def _feeds(
    recovered: Recovered, keys: KeyChecker, network: str, owner: str, advance: Advance
) -> Check:
    """Check signatures, hash chain and contents of all feeds."""
    batches = 0
    for stored in recovered.feeds:
        try:
            batches += check_feed(stored, keys, network)
        except (InvalidBatch, FeedFault, msgspec.DecodeError) as error:
            whose = "the own feed" if stored.owner == owner else f"the feed of node {stored.owner}"
            return Check(
                "feeds", False, f"{whose} for {stored.market}: {error} (network {network})"
            )
    return Check(
        "feeds",
        True,
        f"{len(recovered.feeds):,} with {batches:,} batches: signatures and chains right",
    )


def check_feed(stored: StoredFeed, keys: KeyChecker, network: str) -> int:
    """Check a stored feed. Returns the number of its batches.

    Raises:
        InvalidBatch, FeedFault: a batch is not the owner's, or does not follow the one before it.
    """
    state = FeedState()
    if stored.snapshot is not None:
        check_batch(keys, network, stored.snapshot.batch)
        state = FeedState.restore(stored.snapshot)
        if state.head != stored.snapshot.batch.digest(network):
            raise FeedFault("the snapshot's hash is not that of its batch")
    for batch in stored.batches:
        _check_next(state, batch, keys, network, stored.owner)
    return len(stored.batches)


def _check_next(state: FeedState, batch: Batch, keys: KeyChecker, network: str, owner: str) -> None:
    digest = check_batch(keys, network, batch)
    if keys.node_id_of(batch.key) != owner:
        raise FeedFault(f"batch {batch.first} is of node {keys.node_id_of(batch.key)}")
    if batch.first != state.number + 1 or batch.previous != state.head:
        raise FeedFault(f"batch {batch.first} does not follow number {state.number}")
    for event in batch.events:
        state.apply(event)
    state.head = digest
