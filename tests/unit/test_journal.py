"""The journal: all or nothing, and what was put comes back."""

from __future__ import annotations

import random
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from exchange_kit import M, Network, Owner

from exchange import feed as feed_module
from exchange.engine import Engine
from exchange.events import BUY, MAX_PRICE, MAX_QUANTITY, SELL, Opened
from exchange.journal import SCHEMA_VERSION, Journal, JournalError
from exchange.records import (
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    Order,
    PendingTake,
    PutBatch,
    PutDecision,
    PutFill,
    PutMeta,
    PutOrder,
    PutSnapshot,
    PutTake,
    Record,
    Recovered,
    StoredFeed,
)
from tests.simulation.disk import MemoryDisk

ORDER = Order(1, M, BUY, 100, 10, 1000, "mine", 3, 2, True, True, 5, 300, False)
TAKE = PendingTake(7, M, 1, "maker", 9, BUY, 100, 5, True, 44)
DECISION = Decision("taker", 7, M, 1, 100, 5, 1000, 44, "why")
FILL = Fill("taker", 7, "maker", M, 1, BUY, 100, 5, 1000, "taker", 3)

replace = msgspec.structs.replace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as opened:
        yield opened


def reopened(path: Path) -> Recovered:
    """What another process finds."""
    with closing(Journal(path)) as journal:
        return journal.recover()


def opened(number: int) -> Opened:
    return Opened(number, BUY, 100, 5, 1000 + number)


def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert journal.recover() == Recovered()
    assert journal.orders(market=None, limit=9) == []
    assert journal.fills(market=None, limit=9) == []
    assert journal.order(1) is None
    assert journal.by_client_id("x") is None


def test_every_kind_of_record_comes_back_as_it_was_put(journal: Journal, path: Path) -> None:
    owner = Owner(1)
    batches = [owner.batch(opened(i)) for i in (1, 2)]
    records: list[Record] = [
        PutMeta("next_order", 5),
        PutOrder(ORDER),
        PutTake(TAKE),
        PutDecision(DECISION),
        DropDecisions("other", 9),
        PutFill(FILL),
        *(PutBatch(owner.id, batch) for batch in batches),
    ]
    journal.commit(records)
    assert reopened(path) == Recovered(
        meta={"next_order": 5},
        orders=[ORDER],
        takes=[TAKE],
        decisions=[DECISION],
        marks={"other": 9},
        feeds=[StoredFeed(owner.id, M, None, batches)],
    )
    assert journal.fills(market=None, limit=9) == [FILL]


def test_the_record_types_above_are_all_there_are() -> None:
    tested = {PutMeta, PutOrder, PutTake, DropTake, PutDecision, DropDecisions, PutFill}
    assert set(Record.__args__) == tested | {PutBatch, PutSnapshot}


@pytest.mark.parametrize(
    "order",
    [
        replace(ORDER, price=None, client_id=None),
        replace(ORDER, side=SELL, done=True),
        replace(
            ORDER,
            price=MAX_PRICE - 1,
            quantity=MAX_QUANTITY - 1,
            filled=MAX_QUANTITY - 1,
            value=(MAX_PRICE - 1) * (MAX_QUANTITY - 1),  # beyond 64 bits
            time=2**62 - 1,
        ),
        replace(ORDER, client_id="null"),
        replace(ORDER, client_id="17"),
        replace(ORDER, client_id="\u00fc'; DROP TABLE orders; --"),
    ],
)
def test_orders_at_the_limits_come_back(order: Order, journal: Journal, path: Path) -> None:
    journal.commit([PutOrder(order)])
    assert reopened(path).orders == [order]
    assert journal.order(order.number) == order


def test_fills_and_takes_at_the_limits_come_back(journal: Journal, path: Path) -> None:
    big = replace(FILL, price=MAX_PRICE - 1, quantity=MAX_QUANTITY - 1, time=2**62, take=2**62)
    take = replace(TAKE, take=2**62, price=MAX_PRICE - 1, quantity=MAX_QUANTITY - 1)
    journal.commit([PutFill(big), PutTake(take)])
    assert journal.fills(market=None, limit=1) == [big]
    assert reopened(path).takes == [take]


def test_a_later_record_replaces_the_earlier(journal: Journal, path: Path) -> None:
    journal.commit([PutMeta("a", 1), PutOrder(ORDER), PutTake(TAKE)])
    journal.commit([PutMeta("a", 2), PutOrder(replace(ORDER, filled=4))])
    journal.commit([DropTake(7), DropTake(8)])
    found = reopened(path)
    assert (found.meta, found.orders[0].filled, found.takes) == ({"a": 2}, 4, [])


def test_dropping_decisions_keeps_later_ones_and_other_takers(journal: Journal, path: Path) -> None:
    kept = [replace(DECISION, take=8), replace(DECISION, taker="other", take=1)]
    journal.commit([PutDecision(d) for d in (DECISION, *kept)])
    journal.commit([DropDecisions("taker", 8)])
    found = reopened(path)
    assert found.decisions == sorted(kept, key=lambda d: (d.taker, d.take))
    assert found.marks == {"taker": 8}
    journal.commit([DropDecisions("taker", 9)])
    assert reopened(path).marks == {"taker": 9}


def test_a_batch_is_kept_as_it_was_first_put(journal: Journal, path: Path) -> None:
    one, other = Owner(1).batch(opened(1)), Owner(1).batch(opened(2))
    journal.commit([PutBatch("o", one), PutBatch("o", one)])
    journal.commit([PutBatch("o", other)])
    assert reopened(path).feeds == [StoredFeed("o", M, None, [one])]


def test_a_snapshot_drops_the_batches_that_it_stands_for_and_no_others(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    owner, other = Owner(1), Owner(2)
    elsewhere = Owner(1, market="ETH-USD")
    apart = [PutBatch(o.id, o.batch(opened(1))) for o in (other, elsewhere)]
    journal.commit(apart)
    for i in range(1, 6):
        journal.commit([PutBatch(owner.id, owner.batch(opened(i)))])
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    journal.commit([PutSnapshot(owner.id, M, snapshot)])
    query = "SELECT first FROM batches WHERE owner = ? AND market = ?"
    with closing(sqlite3.connect(path)) as rows:
        firsts = rows.execute(query, (owner.id, M)).fetchall()
    assert sorted(first for (first,) in firsts) == sorted(owner.writer.feed.batches)
    feeds = {(f.owner, f.market): f for f in reopened(path).feeds}
    assert feeds[owner.id, M].snapshot == snapshot
    held = [b for b, _ in owner.writer.feed.batches.values()]
    assert feeds[owner.id, M].batches == held
    assert len(feeds[other.id, M].batches) == len(feeds[owner.id, "ETH-USD"].batches) == 1


def test_a_batch_put_again_under_a_snapshot_is_not_recovered(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    owner = Owner(1)
    first, *_ = [owner.batch(opened(i)) for i in range(1, 6)]
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    journal.commit([PutSnapshot(owner.id, M, snapshot), PutBatch(owner.id, first)])
    assert reopened(path).feeds == [StoredFeed(owner.id, M, snapshot, [])]


# All or nothing


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_error_in_the_middle_leaves_nothing_and_the_journal_usable(
    position: int, journal: Journal, path: Path
) -> None:
    journal.commit([PutMeta("before", 1), PutFill(FILL)])
    records: list[Record] = [PutMeta("one", 1), PutOrder(ORDER)]
    records.insert(position, PutFill(FILL))  # its id is unique
    with pytest.raises(JournalError, match=r"cannot write the journal .*journal\.db"):
        journal.commit(records)
    assert reopened(path) == Recovered(meta={"before": 1})
    journal.commit([PutMeta("after", 1)])
    assert reopened(path).meta == {"before": 1, "after": 1}


def test_an_integer_that_the_database_cannot_hold_is_a_journal_error(
    journal: Journal, path: Path
) -> None:
    """Found by these tests: it left `commit` as an OverflowError."""
    with pytest.raises(JournalError, match="cannot write"):
        journal.commit([PutMeta("one", 1), PutMeta("two", 2**63)])
    assert reopened(path).meta == {}


def test_any_other_exception_rolls_back_too(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Journal._write

    def failing(self: Journal, records: Sequence[Record]) -> None:
        write(self, records)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "_write", failing)
    with pytest.raises(KeyboardInterrupt):
        journal.commit([PutMeta("one", 1), PutOrder(ORDER)])
    monkeypatch.undo()
    assert reopened(path) == Recovered()
    journal.commit([PutMeta("one", 1)])


def test_the_same_fill_on_both_sides_of_one_node_is_two_records(journal: Journal) -> None:
    taker_side = replace(FILL, role="taker", side=SELL, order=2)
    journal.commit([PutFill(FILL), PutFill(taker_side)])
    assert journal.fills(market=None, limit=9) == [taker_side, FILL]


def test_nothing_to_commit_writes_nothing(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # a write would have to wait for this
        journal.commit([])


def test_a_journal_that_another_process_holds_is_a_journal_error(
    journal: Journal, path: Path
) -> None:
    journal._db.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="locked"):
            journal.commit([PutMeta("one", 1)])


# The file


def test_the_journal_and_what_belongs_to_it_are_for_the_owner_alone(
    journal: Journal, path: Path
) -> None:
    journal.commit([PutMeta("one", 1)])
    files = sorted(path.parent.iterdir())
    assert [f.name for f in files] == ["journal.db", "journal.db-shm", "journal.db-wal"]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}


def test_the_write_ahead_log_and_the_level_of_syncing(path: Path) -> None:
    for sync, level in (("full", 2), ("normal", 1)):
        with closing(Journal(path, sync=sync)) as journal:  # type: ignore[arg-type]
            assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert journal._db.execute("PRAGMA synchronous").fetchone() == (level,)


def test_a_journal_of_another_version_is_refused_by_name(path: Path) -> None:
    Journal(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(
        JournalError, match=rf"journal\.db has journal version {SCHEMA_VERSION + 1}"
    ):
        Journal(path)


def test_a_file_that_is_no_database_is_refused_by_name(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(JournalError, match=r"cannot open the journal .*journal\.db"):
        Journal(path)


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        Journal(tmp_path / "nowhere" / "journal.db")


@pytest.mark.parametrize("table", ["takes", "decisions", "batches", "snapshots"])
def test_a_damaged_row_is_refused_by_the_files_name(table: str, path: Path) -> None:
    columns = {"takes": 2, "decisions": 3, "batches": 4, "snapshots": 3}[table]
    values = ", ".join(["1"] * (columns - 1) + ["x'c1c1'"])
    with closing(Journal(path)) as journal:
        journal._db.execute(f"INSERT INTO {table} VALUES ({values})")
        with pytest.raises(JournalError, match=r"cannot read the journal .*journal\.db"):
            journal.recover()


def test_a_damaged_page_is_refused_by_the_files_name(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit([PutOrder(replace(ORDER, number=i)) for i in range(1, 500)])
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"journal\.db"):  # at once, or when it is read
        reopened(path)


# History


def numbered(*numbers: int, market: str = M, done: bool = True) -> list[PutOrder]:
    return [PutOrder(replace(ORDER, number=n, market=market, done=done)) for n in numbers]


def test_orders_are_listed_newest_first_by_market_and_up_to_a_limit(journal: Journal) -> None:
    journal.commit([*numbered(1, 4, done=False), *numbered(2, 5), *numbered(3, market="ETH-USD")])
    assert [o.number for o in journal.orders(market=None, limit=9)] == [5, 4, 3, 2, 1]
    assert [o.number for o in journal.orders(market=M, limit=3)] == [5, 4, 2]
    assert [o.number for o in journal.orders(market="ETH-USD", limit=3)] == [3]
    assert journal.orders(market="", limit=3) == []


def test_fills_are_listed_newest_first_by_market_and_up_to_a_limit(journal: Journal) -> None:
    for take, market in ((9, M), (3, "ETH-USD"), (5, M)):
        journal.commit([PutFill(replace(FILL, take=take, market=market))])
    assert [f.take for f in journal.fills(market=None, limit=9)] == [5, 3, 9]
    assert [f.take for f in journal.fills(market=M, limit=1)] == [5]
    assert [f.take for f in journal.fills(market="ETH-USD", limit=9)] == [3]


def test_an_order_is_found_by_its_latest_client_id(journal: Journal) -> None:
    journal.commit(numbered(1, 2))
    found = journal.by_client_id("mine")
    assert found is not None
    assert found.number == 2
    assert journal.by_client_id("other") is None


def test_all_open_orders_and_the_latest_finished_ones_are_recovered(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.journal.RECENT", 2)
    journal.commit([*numbered(1, 5, done=False), *numbered(2, 3, 4, 6)])
    assert [o.number for o in journal.recover().orders] == [1, 4, 5, 6]


# The two journals of these tests


@pytest.mark.parametrize("seed", range(4))
def test_the_journal_holds_what_the_plain_one_holds(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever engines put: trades, cancels, takes, snapshots."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 10)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    rng = random.Random(seed)
    with closing(Network(2, path=tmp_path)) as net:
        plain = [MemoryDisk() for _ in net.nodes]
        for node, memory in zip(net.nodes, plain, strict=True):
            memory.commit(_all_of(node.store.recover()))
            monkeypatch.setattr(node.store, "commit", _both(node.store.commit, memory.commit))
        for _ in range(60):
            i = rng.randrange(2)
            engine: Engine = net[i]
            open_orders = [o for o in engine.open_orders if not o.cancelled]
            if open_orders and rng.random() < 0.3:
                engine.cancel(net.now, rng.choice(open_orders).number)
            else:
                side, price = rng.choice((BUY, SELL)), rng.choice((None, 99, 100, 101))
                engine.submit(net.now, M, side, price, rng.randint(1, 9))
            net.run(0.1)
        for node, memory in zip(net.nodes, plain, strict=True):
            assert _sorted(node.store.recover()) == _sorted(memory.recover())


def _both(*commits: Callable[[list[Record]], None]) -> Callable[[list[Record]], None]:
    def commit(records: list[Record]) -> None:
        for each in commits:
            each(records)

    return commit


def _all_of(recovered: Recovered) -> list[Record]:
    """Nothing but counters is there when a test begins."""
    assert not recovered.orders
    return [PutMeta(name, value) for name, value in recovered.meta.items()]


def _sorted(recovered: Recovered) -> Recovered:
    return replace(recovered, feeds=sorted(recovered.feeds, key=lambda f: (f.owner, f.market)))


def synchronous(journal: Journal) -> int:
    level: int = journal._db.execute("PRAGMA synchronous").fetchone()[0]
    return level


@pytest.mark.parametrize(("owner", "expected"), [("other", 1), ("me", 2)])
def test_only_a_commit_of_others_feeds_alone_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, expected: int
) -> None:
    levels: list[int] = []
    write = Journal._write

    def watched(self: Journal, records: Sequence[Record]) -> None:
        levels.append(synchronous(self))
        write(self, records)

    monkeypatch.setattr(Journal, "_write", watched)
    batch = PutBatch(owner, Owner(1).batch(opened(1)))
    with closing(Journal(tmp_path / "sync", sync="full", owner="me")) as journal:
        journal.commit([batch])
        journal.commit([batch, PutMeta("one", 1)])
        assert levels == [expected, 2]  # 1: NORMAL, 2: FULL
        assert synchronous(journal) == 2
