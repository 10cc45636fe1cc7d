"""A log that lost its end is noticed, whoever lost it: nothing acknowledged goes without a word."""

from __future__ import annotations

import os
import random
import shutil
import struct
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import pytest
from journal_kit import BATCHES, ORDER, OWNER, random_records, replace

from exchange.journal import anchor, write_ahead_log
from exchange.journal.completeness import owner_of
from exchange.journal.frames import FILE_HEAD_SIZE, HEAD_SIZE, head_at
from exchange.journal.journal import Journal, JournalError
from exchange.journal.state import JournalState
from exchange.model.records import PutBatch, PutMeta, Record, Recovered

Sync = Literal["full", "normal"]
SMALL: dict[str, Any] = {"segment_bytes": 2000, "snapshot_bytes": 6000, "background": False}
CASES = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(write_ahead_log, "flush", lambda fd: None)


def open_journal(path: Path, **options: Any) -> Journal:
    return Journal(path, **{**SMALL, "sync": "normal", **options})


def newest(path: Path) -> Path:
    return max(path.glob("*.log"))


def boundaries(log: Path) -> list[int]:
    """Ends of the frames of a segment, from its head on."""
    data = log.read_bytes()
    ends = [FILE_HEAD_SIZE]
    while ends[-1] < len(data):
        ends.append(ends[-1] + HEAD_SIZE + head_at(data, ends[-1]).length)
    return ends


def written(
    path: Path, count: int, *, sync: Sync = "normal", killed: bool = False, **options: Any
) -> Path:
    """A journal of so many commits, closed, or as kill -9 leaves it."""
    with closing(open_journal(path, sync=sync, **options)) as journal:
        for number in range(1, count + 1):
            journal.commit([PutMeta("last", number), replace(ORDER, number=number, done=True)])
        if not killed:
            journal.history()
            return path
        left = path.with_name("killed")
        shutil.copytree(path, left)
        return left


def lost_end(path: Path, frames: int) -> None:
    """Cut the last frames off the newest segment."""
    log = newest(path)
    os.truncate(log, boundaries(log)[-1 - frames])


def opened(path: Path, **options: Any) -> tuple[int, list[str]]:
    """The last commit that is there, and what is said about it."""
    with closing(open_journal(path, **options)) as journal:
        return journal.recover().meta.get("last", 0), journal.notes


# Every cut


@dataclass(frozen=True)
class Left:
    """A journal's directory as it was left, and the states after each of its commits."""

    path: Path
    sync: Sync
    killed: bool
    states: list[Recovered]


def leave(path: Path, seed: int, sync: Sync, *, killed: bool, archive: bool) -> Left:
    rng = random.Random(seed)
    state: list[Record] = []
    states = [JournalState().recovered()]
    with closing(open_journal(path, sync=sync)) as journal:
        for _ in range(70):
            records = [PutMeta("own", rng.randrange(9)), *random_records(rng, rng.randint(1, 3))]
            journal.commit(records)
            state += records
            folded = JournalState()
            folded.apply(state)
            states.append(folded.recovered())
            if rng.random() < 0.9:
                journal.work()
        if archive:
            journal.history()
        left = path.with_name(f"{path.name}-killed")
        if killed:
            shutil.copytree(path, left)
    found = left if killed else path
    if not archive:
        for file in found.glob("archive*"):
            file.unlink()
    return Left(found, sync, killed, states)


def cuts(left: Left, rng: random.Random, count: int) -> list[tuple[str, int]]:
    """(segment, length) to cut it to; -1: it is gone. Every frame's end, then random bytes."""
    logs = sorted(left.path.glob("*.log"))
    ends = [(log.name, end) for log in logs for end in boundaries(log)]
    ends += [(log.name, -1) for log in logs]
    while len(ends) < count:
        log = logs[-1] if rng.random() < 0.7 else rng.choice(logs)
        ends.append((log.name, rng.randrange(log.stat().st_size + 1)))
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_cut_journal_is_whole_or_repaired_or_refused_and_never_silently_shorter(
    seed: int, tmp_path: Path
) -> None:
    sync: Sync = "full" if seed & 1 else "normal"
    killed, archive = bool(seed & 2), bool(seed & 4)
    left = leave(tmp_path / "journal", seed, sync, killed=killed, archive=archive)
    rng = random.Random(seed)
    whole = repaired = refused = 0
    for segment, length in cuts(left, rng, CASES // 8):
        copy = tmp_path / "copy"
        shutil.copytree(left.path, copy)
        if length < 0:
            (copy / segment).unlink()
        else:
            os.truncate(copy / segment, length)
        before = {file.name: file.stat().st_size for file in copy.glob("*.log")}
        try:
            with closing(open_journal(copy, sync=sync)) as journal:
                found, notes = journal.recover(), journal.notes
        except JournalError:
            refused += 1
            if segment == newest(left.path).name and length >= 0:
                # Nothing was made shorter than it was found.
                after = {file.name: file.stat().st_size for file in copy.glob("*.log")}
                assert after == before
        else:
            shorter = found != left.states[-1]
            assert any("lost its last commits" in note for note in notes) == shorter, (
                segment,
                length,
                notes,
            )
            assert not (shorter and (sync == "full" or not killed)), (segment, length)
            assert found in left.states
            repaired += shorter
            whole += not shorter
        shutil.rmtree(copy)
    assert whole
    assert refused
    assert bool(repaired) == (killed and sync == "normal")


def test_an_unfinished_last_frame_is_cut_off_without_a_word(path: Path) -> None:
    left = written(path, 5, sync="full", killed=True)
    with newest(left).open("ab") as log:
        log.write(newest(left).read_bytes()[FILE_HEAD_SIZE : FILE_HEAD_SIZE + HEAD_SIZE + 3])
    assert opened(left, sync="full") == (5, [])


# What is known of a log that is too short


def test_with_full_sync_commits_that_were_not_flushed_are_not_given_up(path: Path) -> None:
    left = written(path, 9, killed=True)
    lost_end(left, 3)
    with pytest.raises(JournalError, match=r"up to 9 were written.*start once with JOURNAL_SYNC=n"):
        opened(left, sync="full")
    assert opened(left)[0] == 6
    assert opened(left, sync="full") == (6, [])


def test_unflushed_feeds_of_other_nodes_are_no_loss(path: Path) -> None:
    killed = path.with_name("killed")
    with closing(open_journal(path, sync="full", owner="me")) as journal:
        journal.commit([PutMeta("last", 1)])
        journal.commit([PutBatch(OWNER.id, BATCHES[0])])
        journal._archive_to(2)
        shutil.copytree(path, killed)
    lost_end(killed, 1)
    assert opened(killed, sync="full") == (1, [])


def test_an_archive_alone_knows_that_the_log_is_too_short(path: Path) -> None:
    written(path, 9)
    (path / "anchor").unlink()
    lost_end(path, 3)
    for _ in range(2):  # it is not made to forget
        with pytest.raises(JournalError, match=r"archive\.sqlite3 has commits up to 9"):
            opened(path)
    (path / "archive.sqlite3").rename(path / "elsewhere")
    assert opened(path) == (6, [])


def test_with_full_sync_an_archive_of_lost_commits_is_refused_though_the_anchor_is_late(
    path: Path,
) -> None:
    written(path, 9, sync="full")
    anchor.write(path / "anchor", owner="", position=5).close()
    lost_end(path, 3)
    with pytest.raises(JournalError, match=r"archive\.sqlite3 has commits up to 9"):
        opened(path, sync="full")


def test_archived_rows_of_lost_commits_are_set_aside(path: Path) -> None:
    with closing(open_journal(path)) as journal:
        for number in range(1, 10):
            journal.commit([PutMeta("last", number), replace(ORDER, number=number, done=True)])
        journal.history()
        left = path.with_name("killed")
        shutil.copytree(path, left)
    lost_end(left, 3)
    with closing(open_journal(left)) as journal:
        commits, rows = journal.notes
        assert "7 to 9" in commits
        assert "3 finished orders" in rows
        journal.commit([replace(ORDER, number=7, done=True, updated=77)])
        assert [order.number for order in journal.history().orders(limit=9)] == [*range(7, 0, -1)]


def test_a_newest_segment_that_is_gone_is_missed(path: Path) -> None:
    written(path, 40)
    for file in path.glob("archive*"):
        file.unlink()
    newest(path).unlink()
    with pytest.raises(JournalError, match="anchor has commits up to 40"):
        opened(path)


def test_a_journal_without_a_log_is_refused(path: Path) -> None:
    written(path, 3)
    newest(path).unlink()
    with pytest.raises(JournalError, match=r"has no log: commits up to 3 are missing\. Restore"):
        opened(path)
    (path / "anchor").unlink()
    with pytest.raises(JournalError, match="has no log: all commits are missing"):
        opened(path)


def test_a_journal_may_be_closed_twice(path: Path) -> None:
    journal = open_journal(path)
    journal.commit([PutMeta("last", 1)])
    journal.close()
    journal.close()
    assert opened(path) == (1, [])


# The anchor's file


@pytest.mark.parametrize("data", [b"", b"x" * 1536, bytes(1536)])
def test_damaged_anchors_are_refused(data: bytes, path: Path) -> None:
    written(path, 3)
    (path / "anchor").write_bytes(data)
    with pytest.raises(
        JournalError, match="anchor, the record of the log's last position, is damaged"
    ):
        opened(path)


def test_an_anchor_of_a_later_version_is_refused(path: Path) -> None:
    written(path, 3)
    data = bytearray((path / "anchor").read_bytes())
    data[8:12] = struct.pack("<I", 2)
    data[76:80] = struct.pack("<I", crc32(data[:76]))
    (path / "anchor").write_bytes(data)
    with pytest.raises(JournalError, match="anchor has version 2; this program reads version 1"):
        opened(path)


# Whose it is


def test_another_nodes_journal_is_refused(path: Path) -> None:
    written(path, 3, owner="node-a")
    assert owner_of(path) == "node-a"
    with pytest.raises(
        JournalError, match=r"journal of node node-a.* key of node node-b\. Restore the"
    ):
        opened(path, owner="node-b")
    assert opened(path, owner="node-a") == (3, [])


def test_an_empty_journal_belongs_to_the_node_that_opens_it(path: Path) -> None:
    open_journal(path, owner="node-a").close()
    assert owner_of(path) is None
    assert opened(path, owner="node-b") == (0, [])
    written(path, 1, owner="node-b")
    assert owner_of(path) == "node-b"


def test_a_journal_of_version_0_1_0_is_taken_over_by_the_node_whose_orders_are_in_it(
    path: Path,
) -> None:
    with closing(open_journal(path, owner=OWNER.id)) as journal:
        journal.commit([replace(ORDER, opened=True), PutBatch(OWNER.id, BATCHES[0])])
        journal.commit([PutMeta("last", 2)])
    (path / "anchor").unlink()
    assert owner_of(path) == ""
    with pytest.raises(JournalError, match="contains orders of another node than node-b"):
        opened(path, owner="node-b")
    assert owner_of(path) == ""
    assert opened(path, owner=OWNER.id) == (2, [])
    assert owner_of(path) == OWNER.id
    with pytest.raises(JournalError, match="the journal of node"):
        opened(path, owner="node-b")
