"""Verification finds every kind of damage; repair keeps what is whole and says what is lost."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from exchange_kit import Owner
from journal_kit import FILL, TRANSACTION, replace

from exchange.journal import write_ahead_log
from exchange.journal.frames import FILE_HEAD_SIZE, JournalError
from exchange.journal.journal import Journal, Retention
from exchange.journal.journal_reader import JournalReader
from exchange.journal.repair import examine, repair
from exchange.journal.verification import verify
from exchange.model.events import BUY, Opened
from exchange.model.records import Order, PutBatch, PutMeta

OWNER = Owner(7)
FRAMES = 40


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(write_ahead_log, "flush", lambda fd: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(tmp_path: Path, retention: Retention | None = None) -> Path:
    """A journal with snapshots and several segments. Frame n has order n and the meta value n."""
    owner = Owner(7)
    path = tmp_path / "journal"
    journal = Journal(
        path,
        owner=owner.id,
        background=False,
        segment_bytes=2000,
        snapshot_bytes=4000,
        retention=retention,
    )
    for number in range(1, FRAMES + 1):
        batch = owner.batch(Opened(number, BUY, 100, 5, 1000 + number))
        order = Order(number, batch.market, BUY, 100, 5, 1000 + number, opened=True, shown=5)
        fill = replace(FILL, take=number, order=number, market=batch.market)
        balance = replace(TRANSACTION.lines[0], balance=500 * number)
        fees = replace(TRANSACTION.lines[1], balance=-500 * number)
        money = replace(TRANSACTION, number=number, lines=(balance, fees))
        journal.commit([PutMeta("last", number), PutBatch(owner.id, batch), order, fill, money])
        while number <= FRAMES // 2 and journal.work():
            pass
    journal.history()  # the archive has it all
    journal.close()
    assert len(list(path.glob("*.log"))) >= 2
    assert list(path.glob("*.state"))
    return path


def failed(path: Path, key_owner: str | None = OWNER.id) -> set[str]:
    """Names of the checks that fail."""
    return {
        check.name for check in verify(path, OWNER.keys, OWNER.network, key_owner) if not check.ok
    }


def reopened(path: Path) -> int:
    journal = Journal(path, owner=OWNER.id, background=False)
    try:
        return journal.recover().meta["last"]
    finally:
        journal.close()


def damage(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x10
    file.write_bytes(data)


def newest(path: Path) -> Path:
    return max(path.glob("*.log"))


def test_a_whole_journal_passes_every_check(path: Path) -> None:
    assert failed(path) == set()
    assert not examine(path).damage
    assert failed(path, None) == {"key"}
    assert failed(path, "another") == {"key"}


@pytest.mark.parametrize("retention", [None, Retention(lambda: 5, 10**9)], ids=["none", "some"])
def test_the_figures_of_a_whole_journal(tmp_path: Path, retention: Retention | None) -> None:
    path = written(tmp_path, retention)
    first, snapshot = int(min(path.glob("*.log")).stem), int(next(path.glob("*.state")).stem)
    steps: list[int] = []
    checks = {
        check.name: check.detail
        for check in verify(path, OWNER.keys, OWNER.network, OWNER.id, steps.append)
    }
    count = FRAMES + 1 - first
    assert (first <= snapshot) is (retention is not None)
    assert checks == {
        "anchor": f"node {OWNER.id}, 40 written, 40 flushed",
        "key": f"of node {OWNER.id}",
        "archive": "up to commit 40",
        "snapshot": f"after commit {snapshot}",
        "frames": f"{count} whole, to commit 40, checksums right",
        "end of the log": "commit 40: nothing that is known of is missing",
        "archive and log": f"{count} fills and {2 * count} postings in both",
        "ledger": "2 balances, each asset sums to zero",
        "feeds": "1 with 40 batches: signatures and chains right",
    }
    with JournalReader(path) as reader:
        sizes = {file.suffix: 0 for file in path.iterdir()}
        for file in path.iterdir():
            sizes[file.suffix] += file.stat().st_size
        assert reader.size() == sizes[".log"] + sizes[".state"]
        assert reader.snapshot == snapshot
        assert reader.state().recovered().meta["last"] == snapshot
    assert sum(steps) == sizes[".log"]


def without_rows(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path / "archive.sqlite3")) as db:
        db.execute(f"DELETE FROM {table} WHERE frame = 40")
        db.commit()


def without_frames(path: Path) -> None:
    log = newest(path)
    with JournalReader(path) as reader:
        end = next(f.end for f in reader.frames(FRAMES - 2) if f.number == FRAMES - 1)
    log.write_bytes(log.read_bytes()[:end])


@pytest.mark.parametrize(
    ("harm", "name", "ok", "detail"),
    [
        (lambda p: (p / "anchor").unlink(), "anchor", True, "none"),
        (lambda p: (p / "archive.sqlite3").unlink(), "archive", True, "none"),
        (lambda p: (p / "archive.sqlite3").unlink(), "archive and log", True, "no commits"),
        (lambda p: damage(p / "archive.sqlite3", 3), "archive", False, "puts it aside"),
        (lambda p: without_rows(p, "fills"), "archive and log", False, "fills from commit"),
        (lambda p: without_rows(p, "postings"), "archive and log", False, "postings from commit"),
        (without_frames, "frames", False, "ends at frame 39, before 40"),
    ],
)
def test_each_kind_of_harm_has_its_check(
    path: Path, harm: Callable[[Path], object], name: str, *, ok: bool, detail: str
) -> None:
    harm(path)
    checks = list(verify(path, OWNER.keys, OWNER.network, OWNER.id))
    (check,) = [check for check in checks if check.name == name]
    assert (check.ok, detail in check.detail) == (ok, True), check
    assert [check.name for check in checks if not check.ok] == ([] if ok else [name])


def test_an_archive_beyond_the_end_of_a_log_without_an_anchor_is_found(path: Path) -> None:
    without_frames(path)
    (path / "anchor").unlink()
    assert "end of the log" in failed(path)


@pytest.mark.parametrize("content", [[], ["note.txt"]])
def test_a_directory_without_log_and_state_is_no_journal(
    tmp_path: Path, content: list[str]
) -> None:
    with pytest.raises(JournalError, match="is no journal"):
        JournalReader(tmp_path / "missing")
    for name in content:
        (tmp_path / name).touch()
    with pytest.raises(JournalError, match="neither"):
        JournalReader(tmp_path)


def test_the_commits_after_a_damage_are_listed_with_their_content(path: Path) -> None:
    log = newest(path)
    with JournalReader(path) as reader:
        bad = next(frame for frame in reader.frames(int(log.stem)) if frame.number == FRAMES - 3)
        log_bytes = sum(len(reader.segment_data(first)) for first in reader.segments)
    damage(log, bad.offset + 30)
    steps: list[int] = []
    report = examine(path, steps.append)
    assert report.damage.startswith(f"{log.name}, offset {bad.offset:,}")
    assert (report.kept, report.known, report.readable) == (FRAMES - 4, FRAMES, 3)
    kinds = ("PutMeta", "PutBatch", "Order", "Fill", "Transaction")
    assert report.records == dict.fromkeys(kinds, 3)
    assert [(f.order, f.price, f.quantity) for f in report.fills] == [
        (number, 100, 5) for number in range(FRAMES - 2, FRAMES + 1)
    ]
    assert sum(steps) == log_bytes


def test_every_flipped_byte_of_the_log_is_found_and_the_rest_kept(
    path: Path, tmp_path: Path
) -> None:
    log = newest(path)
    first = int(log.stem)
    whole = log.read_bytes()
    rng = random.Random(3)
    for offset in [FILE_HEAD_SIZE, *rng.sample(range(FILE_HEAD_SIZE, len(whole)), 20)]:
        damage(log, offset)
        assert "frames" in failed(path)
        report = examine(path)
        assert report.damage.startswith(log.name)
        assert first - 1 <= report.kept < FRAMES
        assert report.known == FRAMES
        assert report.lost == FRAMES - report.kept
        # The damaged frame cannot be read; those behind it can.
        assert report.orders == list(range(report.kept + 2, FRAMES + 1))
        log.write_bytes(whole)


def test_repair_keeps_the_original_and_the_journal_goes_on(path: Path, tmp_path: Path) -> None:
    log = newest(path)
    damage(log, len(log.read_bytes()) // 2)
    original = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(JournalError):
        reopened(path)
    aside = tmp_path / "journal.damaged"
    report = repair(path, aside, owner=OWNER.id)
    kept = {file.name: file.read_bytes() for file in aside.iterdir()}
    assert {name: kept[name] for name in original} == original
    assert failed(path) == set()
    assert reopened(path) == report.kept
    # Fills and postings (two in each frame) of lost commits are in the archive, apart from the rest.
    assert report.rows_set_aside == 3 * report.lost
    with closing(sqlite3.connect(path / "archive.sqlite3")) as db:
        assert db.execute("SELECT count(*) FROM lost").fetchone()[0] == 3 * report.lost
    assert [fill.order for fill in report.fills] == report.orders


def test_a_log_that_was_cut_short_is_repaired(path: Path, tmp_path: Path) -> None:
    log = newest(path)
    log.write_bytes(log.read_bytes()[:FILE_HEAD_SIZE])
    assert failed(path) & {"frames", "end of the log"}
    report = repair(path, tmp_path / "aside", owner=OWNER.id)
    assert report.kept == int(log.stem) - 1
    assert "cut off" in report.damage
    assert reopened(path) == report.kept
    assert failed(path) == set()


def test_a_missing_segment_is_named(path: Path) -> None:
    *_, before, last = sorted(path.glob("*.log"))
    before.unlink()
    report = examine(path)
    assert report.damage.startswith(last.name)
    assert "are missing" in report.damage


def test_a_damaged_snapshot_without_the_log_before_it_cannot_be_repaired(path: Path) -> None:
    (state,) = path.glob("*.state")
    damage(state, 200)
    assert "snapshot" in failed(path)
    with pytest.raises(JournalError, match="exchange-node restore"):
        examine(path)


def test_a_damaged_anchor_is_made_again(path: Path, tmp_path: Path) -> None:
    damage(path / "anchor", 20)
    assert "anchor" in failed(path)
    repair(path, tmp_path / "aside", owner=OWNER.id)
    assert failed(path) == set()
    assert reopened(path) == FRAMES


def test_a_forged_batch_a_broken_chain_and_wrong_sums_are_found(tmp_path: Path) -> None:
    owner = Owner(7)
    batches = [owner.batch(Opened(number, BUY, 100, 5, 1000)) for number in (1, 2, 3)]
    forged = replace(batches[1], events=(Opened(2, BUY, 999, 5, 1000),))
    cases = {
        "feeds": [
            [PutBatch(owner.id, batches[0]), PutBatch(owner.id, forged)],
            [PutBatch(owner.id, batches[0]), PutBatch(owner.id, batches[2])],
        ],
        "ledger": [
            [replace(TRANSACTION, lines=TRANSACTION.lines[:1])],
            [TRANSACTION, replace(TRANSACTION, number=6)],  # the same balances again
        ],
    }
    for name, lists in cases.items():
        for number, records in enumerate(lists):
            path = tmp_path / f"{name}{number}"
            journal = Journal(path, owner=owner.id, background=False)
            journal.commit(records)
            journal.close()
            assert failed(path) == {name}
