"""The state that records amount to, its snapshots, and records as bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from exchange_kit import M, Owner
from journal_kit import (
    BATCHES,
    DECISION,
    FILL,
    OWNER,
    RECORDS,
    SNAPSHOT,
    TRANSACTION,
    random_records,
)

from exchange.journal import snapshots, state
from exchange.journal.frames import JournalError
from exchange.journal.state import JournalState
from exchange.model.codec import pack, unpacker
from exchange.model.events import Opened
from exchange.model.records import (
    FAULT_META,
    DropDecisions,
    EarlierOrder,
    Order,
    PutBatch,
    PutCredit,
    PutMeta,
    PutSnapshot,
    Record,
    Recovered,
    StoredFeed,
    TransactionLine,
    upgraded,
)
from tests.simulation.disk import MemoryDisk

VERSION = 3


def folded(records: list[Any]) -> Recovered:
    found = JournalState()
    found.apply(records)
    return found.recovered()


# Records as bytes


def test_every_kind_of_record_has_an_example_here() -> None:
    assert {type(record) for record in RECORDS} == set(Record.__args__)


# Folding


@pytest.mark.parametrize("seed", range(20))
def test_the_state_equals_a_simple_model_and_survives_its_own_records(seed: int) -> None:
    records = random_records(random.Random(seed), 300)
    plain = MemoryDisk()
    plain.commit(records)
    expected = plain.recover()
    found = JournalState()
    for record in records:
        found.apply([record])
    assert found.recovered() == expected
    assert folded(list(found.records())) == expected


def test_dropping_decisions_keeps_later_ones_and_other_takers() -> None:
    made = [
        msgspec.structs.replace(DECISION, taker=taker, take=take)
        for taker in ("a", "b")
        for take in (1, 2, 3)
    ]
    found = folded([*made, DropDecisions("a", 3), DropDecisions("b", 1)])
    assert [(d.taker, d.take) for d in found.decisions] == [("a", 3), ("b", 1), ("b", 2), ("b", 3)]
    assert found.marks == {"a": 3, "b": 1}


def test_a_feed_begins_at_its_snapshot_and_has_the_first_copy_of_each_batch() -> None:
    puts: list[Record] = [PutBatch(OWNER.id, batch) for batch in BATCHES]
    snapshot = PutSnapshot(OWNER.id, M, SNAPSHOT)
    for order in ([*puts, snapshot], [snapshot, *puts], [*puts[:2], snapshot, *puts]):
        assert folded(order).feeds == [StoredFeed(OWNER.id, M, SNAPSHOT, BATCHES[4:])]
    copy = Owner(2).batch(Opened(2, 1, 100, 5, 1000))
    found = folded([PutBatch("o", BATCHES[0]), PutBatch("o", copy), snapshot]).feeds
    assert StoredFeed("o", M, None, [BATCHES[0]]) in found


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**200, -(2**200)])
def test_integers_of_any_size_come_back(value: int) -> None:
    line = TransactionLine("fees", "BTC", value, -value, "fee")
    wide = [
        Order(1, "null", 1, None, 5, 5, "17", value=value),
        msgspec.structs.replace(TRANSACTION, lines=(line,)),
        msgspec.structs.replace(FILL, fee=value),
        PutCredit("\0", "1e9", value),
    ]
    assert unpacker(list[Record]).decode(pack(wide)) == wide


def test_an_order_of_an_earlier_journal_has_terms_if_they_are_not_the_usual_ones() -> None:
    fields = {"side": 1, "price": 100, "quantity": 5, "time": 1000, "filled": 2}
    for more in ({}, {"kind": "stop", "stop": 90}, {"self_trade": "none"}, {"tif": "ioc"}):
        earlier = EarlierOrder(number=1, market=M, account=3, **fields, **more)
        order = upgraded(earlier)
        for name in EarlierOrder.__struct_fields__:
            assert getattr(order, name) == getattr(earlier, name), (more, name)
    assert upgraded(Order(1, M, 1, 100, 5, 1000)) == Order(1, M, 1, 100, 5, 1000)


def test_a_fault_that_is_over_leaves_no_meta_value() -> None:
    values = [PutMeta(f"{FAULT_META}a:M", 1), PutMeta("b", 0), PutMeta(f"{FAULT_META}a:M", 0)]
    assert folded(values[:2]).meta == {f"{FAULT_META}a:M": 1, "b": 0}
    assert folded(values).meta == {"b": 0}


def test_a_state_is_released_in_steps() -> None:
    found = JournalState()
    found.apply(Order(number, M, 1, 100, 5, 1000) for number in range(1, 2502))
    assert len(list(found.release())) == 3
    assert found.recovered().orders == []


def test_the_latest_orders_to_finish_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RECENT", 3)
    orders = [Order(number, M, 1, 100, 5, 1000) for number in range(1, 21)]
    found = JournalState()
    found.apply(order for order in orders)
    finish = [7, 3, 20, 11, 5, 1, 2]
    found.apply(msgspec.structs.replace(orders[number - 1], done=True) for number in finish)
    left = [order for order in found.recovered().orders if order.done]
    assert [order.number for order in left] == [1, 2, 5]
    assert len(found.recovered().orders) == 20 - len(finish) + 3


# Snapshots


def run(steps: Any) -> int:
    return sum(1 for _ in steps)


def loaded(path: Path) -> Recovered:
    found = JournalState()
    run(snapshots.load(path, VERSION, found))
    return found.recovered()


@pytest.fixture
def full() -> JournalState:
    found = JournalState()
    found.apply(random_records(random.Random(5), 3000))
    return found


def test_a_snapshot_holds_the_state(tmp_path: Path, full: JournalState) -> None:
    run(snapshots.save(tmp_path, 12, full, VERSION))
    assert snapshots.numbers(tmp_path) == [12]
    path = snapshots.path_of(tmp_path, 12)
    assert loaded(path) == full.recovered()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_whenever_the_writing_ends_there_is_a_whole_snapshot_or_none(
    tmp_path: Path, full: JournalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "CHUNK", 20)
    steps = run(snapshots.save(tmp_path, 1, full, VERSION))
    assert steps > 6
    for ended in range(steps):
        writing = snapshots.save(tmp_path, 2 + ended, full, VERSION)
        for _ in range(ended):
            next(writing)
        writing.close()
        assert snapshots.numbers(tmp_path)[-1] == 1
        snapshots.tidy(tmp_path)
        assert list(tmp_path.iterdir()) == [snapshots.path_of(tmp_path, 1)]


def test_a_damaged_snapshot_is_refused_by_name_and_offset(
    tmp_path: Path, full: JournalState
) -> None:
    run(snapshots.save(tmp_path, 1, full, VERSION))
    path = snapshots.path_of(tmp_path, 1)
    whole = path.read_bytes()
    rng = random.Random(1)
    for length in (0, 10, 16, 17, len(whole) // 2, len(whole) - 33, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(JournalError, match=rf"{path.name}, offset \d+: "):
            loaded(path)
    for _ in range(50):
        data = bytearray(whole)
        data[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(JournalError, match=rf"{path.name}, offset \d+: "):
            loaded(path)


def test_a_snapshot_of_another_version_is_refused(tmp_path: Path) -> None:
    run(snapshots.save(tmp_path, 1, JournalState(), VERSION + 1))
    with pytest.raises(JournalError, match=f"has journal version {VERSION + 1}"):
        loaded(snapshots.path_of(tmp_path, 1))
