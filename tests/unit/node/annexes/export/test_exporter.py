"""The export of a journal: every row once, whatever fails, and nothing of another journal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from exchange_kit import Owner
from journal_kit import FILL as A_FILL
from journal_kit import KEY, RECORDS
from journal_kit import ORDER as AN_ORDER
from memory_sink import MemoryDatabase, MemorySink, failing
from sink_conformance import check_sink

from exchange.journal.journal import Journal, Retention
from exchange.model.events import BUY, SELL, Filled, Opened
from exchange.model.instruments import Instruments
from exchange.model.records import (
    Decision,
    Fill,
    LocalTrade,
    Order,
    PutBatch,
    PutHalt,
    PutMeta,
    Record,
    Transaction,
    TransactionLine,
)
from node.annexes.export import position_file
from node.annexes.export.exporter import Diverged, Exporter
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.sink import SinkError
from node.annexes.export.tables import Row, moment
from node.annexes.export.verification import Verification, verify
from node.daemon.released_position import ReleasedPosition, remove

replace = msgspec.structs.replace
NODE = "node-a"
M = Instruments.default()["BTC-USD"].key
BAD = ("x", "", "BTC-USD", "BTC-USD@0/0", "B\x1b[2J-\0@1/1", "A-\u009b@1/1", "A" * 80)  # markets
EXAMPLES = 3  # fills of RECORDS: one, and both sides of a trade
ORDER, FILL = replace(AN_ORDER, market=M), replace(A_FILL, market=M)


def journal(path: Path, *, retention: Retention | None = None) -> Journal:
    """Small segments and snapshots, so that the log is dropped early."""
    return Journal(
        path / "journal",
        sync="normal",
        owner=NODE,
        background=False,
        segment_bytes=4096,
        snapshot_bytes=8192,
        retention=retention,
    )


def trade(number: int) -> list[Record]:
    """An order that is filled at once, with its fill, its postings and the public trade."""
    owner = Owner(number % 50 + 100, M)
    lines = (
        TransactionLine("account:1", "USD", -number, -number, "trade"),
        TransactionLine("account:1", "BTC", number, number, "trade"),
        TransactionLine("peer:maker", "USD", number, number, "trade"),
    )
    return [
        replace(ORDER, number=number, filled=10, done=True, terms=None, time=1000 + number),
        replace(FILL, take=number, order=number),
        Transaction(number, 1000 + number, f"taker:{number}", lines),
        PutBatch(
            owner.id,
            owner.batch(
                Opened(number, SELL, 100, 5, 1000),
                Filled(number, SELL, 5, 100, 0, 0, "taker", number, 1000 + number),
            ),
        ),
    ]


def _keyed(record: Record) -> Record:
    """The record with a market's whole key, which states its steps."""
    keyed = isinstance(record, (Order, Fill, LocalTrade, Decision, PutHalt))
    return replace(record, market=M) if keyed else record


def fill_journal(path: Path, first: int, count: int, *, drop: bool = True) -> None:
    with closing(journal(path)) as book:
        if first == 1:
            book.commit([PutMeta("decimals:USD", 10), PutMeta("decimals:BTC", 14)])
            book.commit([_keyed(record) for record in RECORDS])
        for number in range(first, first + count):
            book.commit(trade(number + 100))
        while drop and book.work():
            pass


def exporter(path: Path, database: MemoryDatabase) -> Exporter:
    source = JournalSource(path / "journal", path)
    return Exporter(source, database.connect, path / "export.json")


def check(path: Path, database: MemoryDatabase) -> None:
    report = Verification(JournalSource(path / "journal"), database.connect()).run()
    assert report.ok, [table for table in report.tables if not table.ok]


def test_the_sink_in_memory_conforms() -> None:
    check_sink(MemoryDatabase().connect)


def test_every_record_of_a_journal_is_a_row_and_secrets_are_in_none(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 3, drop=False)
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    counts = {name: len(rows) for name, rows in database.tables.items()}
    assert counts == {
        "orders": 4,
        "fills": 3 + EXAMPLES,
        "postings": 17,
        "accounts": 1,
        "api_keys": 1,
        "decisions": 1,
        "credit_limits": 1,
        "halts": 1,
        "trades": 3,
    }
    (fill,) = [row for row in database.values("fills") if row[2] == 101]
    assert fill[:5] == (NODE, "taker", 101, "maker", M.partition("@")[0])
    (first, *_) = [row for row in database.values("postings") if row[1] == 101]
    assert first[3:7] == ("account:1", "USD", Decimal("-0.0000000101"), Decimal("-0.0000000101"))
    assert not any(KEY.secret in map(str, row) for row in database.values("api_keys"))
    check(tmp_path, database)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", range(1, 6))
def test_a_sink_that_fails_at_any_delivery_has_every_row_once(
    tmp_path: Path, step: int, when: str
) -> None:
    database = MemoryDatabase()
    database.fault = failing(step, when=when)
    failures = 0
    for first in range(1, 101, 20):
        fill_journal(tmp_path, first, 20)
        try:
            exporter(tmp_path, database).run(until_current=True)
        except SinkError:
            failures += 1
    assert failures == 1
    exporter(tmp_path, database).run(until_current=True)
    assert len(database.tables["fills"]) == 100 + EXAMPLES
    check(tmp_path, database)


def test_frames_that_left_the_log_come_from_the_archive_and_the_gap_is_recorded(
    tmp_path: Path,
) -> None:
    fill_journal(tmp_path, 1, 100)
    first = JournalSource(tmp_path / "journal").first
    assert first > 1
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    assert database.gaps == [(1, first - 1)]
    assert len(database.tables["fills"]) == 100 + EXAMPLES
    assert len(database.tables["trades"]) < 100
    assert len(database.tables["accounts"]) == 1, "from the state"
    check(tmp_path, database)
    fill_journal(tmp_path, 101, 400)  # while the sink is away
    exporter(tmp_path, database).run(until_current=True)
    assert len(database.gaps) == 2
    assert len(database.tables["fills"]) == 500 + EXAMPLES
    check(tmp_path, database)


def test_a_catch_up_that_is_interrupted_while_the_log_moves_misses_nothing(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 100)
    for step in range(1, 5):
        database = MemoryDatabase()
        database.fault = failing(step)
        with pytest.raises(SinkError):
            exporter(tmp_path, database).run(until_current=True)
        fill_journal(tmp_path, 1 + 100 * step, 100)
        database.fault = lambda when: None
        exporter(tmp_path, database).run(until_current=True)
        assert len(database.tables["fills"]) == 100 * (step + 1) + EXAMPLES
        check(tmp_path, database)


def test_a_journal_that_lost_what_the_sink_has_is_not_exported(tmp_path: Path) -> None:
    for path, seed in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        path.mkdir()
        fill_journal(path, 1, 5 + seed, drop=False)
    database = MemoryDatabase()
    exporter(tmp_path / "b", database).run(until_current=True)
    rows = database.values("fills")
    with pytest.raises(Diverged, match="backfill --replace"):
        exporter(tmp_path / "a", database).run(until_current=True)  # shorter
    fill_journal(tmp_path / "a", 50, 9, drop=False)
    with pytest.raises(Diverged, match="restored or repaired"):
        exporter(tmp_path / "a", database).run(until_current=True)  # other frames
    assert database.values("fills") == rows
    database.connect().forget(NODE)
    exporter(tmp_path / "a", database).run(until_current=True)
    check(tmp_path / "a", database)


def test_progress_is_written_for_the_node(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 5, drop=False)
    exporter(tmp_path, MemoryDatabase()).run(until_current=True)
    progress = position_file.read(tmp_path / "export.json")
    assert progress is not None
    assert (progress.frame, progress.error) == (7, "")
    assert progress.rows > 20


@pytest.mark.parametrize("seed", range(3))
def test_a_comparison_finds_every_kind_of_difference(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fill_journal(tmp_path, 1, 60)
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    source = JournalSource(tmp_path / "journal")
    for table in ("orders", "fills", "postings"):
        store = database.tables[table]
        key = rng.choice(list(store))
        row = store.pop(key)
        (found,) = [
            t for t in Verification(source, database.connect()).run().tables if t.table == table
        ]
        assert found.missing == [" ".join(map(str, key[1:]))]
        store[key] = (*row[: len(key)], "changed", *row[len(key) + 1 :])
        (found,) = [
            t for t in Verification(source, database.connect()).run().tables if t.table == table
        ]
        assert found.different == [" ".join(map(str, key[1:]))]
        store[key] = row
        other = (*key[:-1], "invented")
        store[other] = (*row[: len(key) - 1], "invented", *row[len(key) :])
        (found,) = [
            t for t in Verification(source, database.connect()).run().tables if t.table == table
        ]
        assert found.extra == [" ".join(map(str, other[1:]))]
        del store[other]
    check(tmp_path, database)


def test_a_comparison_begins_anew_when_the_log_is_dropped_meanwhile(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 60)
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    source = JournalSource(tmp_path / "journal")
    first = source.first
    moves = 0

    class Moving(MemorySink):
        def rows(self, table: str, node: str) -> Iterator[Row]:
            nonlocal moves
            if moves < 1:
                moves += 1
                fill_journal(tmp_path, 100, 400)
                exporter(tmp_path, database).run(until_current=True)
            return super().rows(table, node)

    assert verify(source, Moving(database)).ok
    assert source.first > first
    assert moves == 1


def test_rows_that_a_sink_has_dropped_by_time_are_not_compared(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 60)
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    cut = moment(1130)  # microseconds: some of the postings, and not all
    store = database.tables["postings"]
    gone = [key for key, row in store.items() if row[7] < cut]  # type: ignore[operator]
    assert 0 < len(gone) < len(store)
    for key in gone:
        del store[key]
    source = JournalSource(tmp_path / "journal")
    assert not verify(source, database.connect()).ok
    database.kept["postings"] = cut
    assert verify(source, database.connect()).ok


def test_units_of_earlier_postings_are_those_of_their_time(tmp_path: Path) -> None:
    def line(amount: int, balance: int, kind: str = "deposit") -> tuple[TransactionLine, ...]:
        return (TransactionLine("account:1", "USD", amount, balance, kind),)  # type: ignore[arg-type]

    with closing(journal(tmp_path)) as book:
        book.commit([PutMeta("decimals:USD", 2)])
        book.commit([Transaction(1, 1, "", line(150, 150))])
        change = Transaction(2, 2, "decimals 2 to 4", line(14850, 15000, "transfer"))
        book.commit([change, PutMeta("decimals:USD", 4)])
        book.commit([Transaction(3, 3, "", line(1, 15001))])
        for number in range(100, 200):
            book.commit(trade(number))
        while book.work():
            pass
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    found = {row[1]: row[5:7] for row in database.values("postings") if int(str(row[1])) < 4}
    assert found[1] == (Decimal("1.5"), Decimal("1.5"))
    assert found[3] == (Decimal("0.0001"), Decimal("1.5001"))
    check(tmp_path, database)


def test_what_strangers_wrote_is_set_aside_and_the_rows_around_it_are_exported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = [
        Decision("taker", n, text, 1, 100, 0, 1000, 44, "gone") for n, text in enumerate(BAD)
    ]
    with closing(journal(tmp_path)) as book:
        book.commit(trade(1))
        for record in hostile:
            book.commit([record])
        book.commit(trade(2))
    database = MemoryDatabase()
    run = exporter(tmp_path, database)
    run.run(until_current=True)
    assert len(database.tables["trades"]) == 2
    assert not database.tables["decisions"]
    progress = position_file.read(tmp_path / "export.json")
    assert progress is not None
    assert progress.aside == len(BAD)
    kept = (tmp_path / "export.aside").read_bytes()
    assert kept.isascii()
    assert kept.count(b"\n") == len(BAD)
    assert b"\x1b" not in kept
    assert "is set aside" in caplog.text
    assert "\x1b" not in caplog.text


def test_open_orders_are_rows_that_change(tmp_path: Path) -> None:
    order: Order = replace(ORDER, number=500, side=BUY, cancelled=False, filled=0, terms=None)
    with closing(journal(tmp_path)) as book:
        book.commit([order])
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    assert [row[12] for row in database.values("orders")] == ["open"]
    with closing(journal(tmp_path)) as book:
        book.commit([replace(order, cancelled=True, done=True, reason="cancelled")])
    exporter(tmp_path, database).run(until_current=True)
    assert [row[12:14] for row in database.values("orders")] == [("cancelled", "cancelled")]
    check(tmp_path, database)


def test_frames_that_the_standby_may_lack_are_delivered_only_after_it_has_them(
    tmp_path: Path,
) -> None:
    fill_journal(tmp_path, 1, 3, drop=False)
    database = MemoryDatabase()
    with closing(ReleasedPosition(tmp_path, 3)) as released:
        exporter(tmp_path, database).run(until_current=True)
        found = database.connect().position(NODE)
        assert found is not None
        assert found.frame == 3
        check(tmp_path, database)
        released.note(4)
        exporter(tmp_path, database).run(until_current=True)
        assert len(database.values("fills")) == 2 + EXAMPLES
    remove(tmp_path)  # it has no standby any more
    exporter(tmp_path, database).run(until_current=True)
    assert len(database.values("fills")) == 3 + EXAMPLES
    check(tmp_path, database)


def test_a_sink_ahead_of_what_may_leave_after_a_restart_waits(tmp_path: Path) -> None:
    fill_journal(tmp_path, 1, 3, drop=False)
    database = MemoryDatabase()
    exporter(tmp_path, database).run(until_current=True)
    with closing(ReleasedPosition(tmp_path, 2)):
        exporter(tmp_path, database).run(until_current=True)
    assert len(database.values("fills")) == 3 + EXAMPLES
    check(tmp_path, database)
