"""The journal: commits of what an engine drains, in groups, and reading them back; ratios are to SQLite.

The operations are those of the engine's benchmark. Only commits are timed, of records made before. The
archive's thread runs meanwhile, as it does in a node. The notes are processor time of the thread that
commits, which other work on the machine moves less.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from exchange.engine.engine import CommandRejected, Engine
from exchange.journal.journal import Journal
from exchange.model.records import Record
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from tests.benchmarks.bench_engine import MARKET, operations, submit
from tests.benchmarks.journal_peers import SqliteJournal
from tests.benchmarks.report import Row

ROUNDS = 3
GROUPS = (1, 64, 1024)  # operations to a commit
FLUSHED = 300  # commits that are timed at most when each waits for the disk
Sync = Literal["normal", "full"]


class Commits(Protocol):
    def commit(self, records: list[Record]) -> None: ...

    def close(self) -> None: ...


def drains(count: int, group: int) -> list[list[Record]]:
    """Records that a node makes durable for so many operations, `group` to a drain."""
    engine = Engine(
        NodeKeys(Identity.from_seed(b"b" * 32)),
        [MARKET],
        network="bench",
        epoch_us=1_700_000_000_000_000,
        rng=random.Random(3),
    )
    rng = random.Random(2)
    live: list[int] = []
    found = []
    for number, (what, side, price, quantity) in enumerate(operations(count)):
        now = number * 1e-5
        if what == "limit":
            live.append(submit(engine, now, side, price, quantity).number)
        elif what == "market":
            submit(engine, now, side, None, quantity)
        elif live:
            with contextlib.suppress(CommandRejected):  # it was filled meanwhile
                engine.orders.cancel(now, live.pop(rng.randrange(len(live))))
        if number % group == group - 1:
            found.append(engine.drain(now).records)
    return found


@dataclass(frozen=True)
class Took:
    """Seconds, and those of them that this thread had a processor."""

    wall: float
    cpu: float


@contextlib.contextmanager
def timed(into: list[Took]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.thread_time()
    yield
    into.append(Took(time.perf_counter() - wall, time.thread_time() - cpu))


def one_round(commits: list[list[Record]], sync: Sync, scratch: Path) -> list[Took]:
    """Commits to the log, commits to SQLite, opening and recovering, archiving it all."""
    took: list[Took] = []
    journals: list[Commits] = [
        Journal(scratch / "journal", sync=sync),
        SqliteJournal(scratch / "peer.sqlite3", sync=sync),
    ]
    for each in journals:
        with contextlib.closing(each):
            with timed(took):
                for records in commits:
                    each.commit(records)
            if isinstance(each, Journal):
                each.history()  # or the recovery would have to
    with timed(took):
        journal = Journal(scratch / "journal", sync=sync, background=False)
        journal.recover()
    journal.close()
    for file in (scratch / "journal").glob("archive*"):
        file.unlink()
    journal = Journal(scratch / "journal", sync=sync, background=False)
    with contextlib.closing(journal), timed(took):
        journal.history()
    return took


def row(
    what: str, took: Took, done: int, records: int, unit: str, ratio: float | None = None
) -> Row:
    note = f"{took.cpu / records * 1e6:.2f} us a record, {records / took.wall:,.0f} of them/s"
    return Row(what, (done if unit == "op/s" else records) / took.wall, unit, ratio, note)


def run(quick: bool) -> list[Row]:
    count = 8_192 if quick else 65_536
    rows: list[Row] = []
    behind: list[Row] = []
    for group in GROUPS:
        commits = drains(count, group)
        for sync in ("normal", "full"):
            chosen = commits if sync == "normal" else commits[:FLUSHED]
            operations_done = len(chosen) * group
            records = sum(len(each) for each in chosen)
            rounds = []
            for _ in range(1 if quick else ROUNDS):
                with tempfile.TemporaryDirectory() as scratch:
                    rounds.append(one_round(chosen, sync, Path(scratch)))
            ratio = statistics.median(sqlite.wall / mine.wall for mine, sqlite, _, _ in rounds)
            mine, sqlite, recovered, archived = (
                Took(
                    statistics.median(each.wall for each in part),
                    statistics.median(each.cpu for each in part),
                )
                for part in zip(*rounds, strict=True)
            )

            done = (operations_done, records)
            rows.append(row(f"{sync}, {group} to a commit", mine, *done, "op/s", ratio))
            rows.append(row("  the same in SQLite", sqlite, *done, "op/s"))
            if sync == "normal":
                name = f"recovery, {group} to a commit"
                behind.append(row(name, recovered, *done, "records/s"))
                name = f"archiving alone, {group} to a commit"
                behind.append(row(name, archived, *done, "records/s"))
    return rows + behind
