"""The journal: all or nothing, and what was put comes back, whenever and wherever it was killed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from exchange_kit import M, Network, submit
from journal_kit import FILL, ORDER, RECORDS, random_records, replace

from exchange.engine.engine import Engine
from exchange.feeds import feed as feed_module
from exchange.journal import frames, snapshots, write_ahead_log
from exchange.journal import journal as journal_module
from exchange.journal.frames import FILE_HEAD_SIZE
from exchange.journal.journal import SCHEMA_VERSION, Journal, JournalError
from exchange.journal.state import JournalState
from exchange.model import records as records_module
from exchange.model.events import BUY, SELL
from exchange.model.records import Fill, PutBatch, PutMeta, Record, Recovered, unfolded
from tests.simulation.disk import JournalDisk, MemoryDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def open_journal(path: Path, **options: Any) -> Journal:
    """Small files, and nothing that happens by itself."""
    small = {"segment_bytes": 2000, "snapshot_bytes": 6000, "background": False, "sync": "normal"}
    return Journal(path, **{**small, **options})


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(open_journal(path)) as opened:
        yield opened


def reopened(path: Path) -> Recovered:
    with closing(open_journal(path)) as journal:
        return journal.recover()


def folded(records: list[Record]) -> Recovered:
    state = JournalState()
    state.apply(records)
    return state.recovered()


def work_all(journal: Journal) -> None:
    while journal.work():
        pass


def commits(seed: int, count: int, size: int = 4) -> list[list[Record]]:
    rng = random.Random(seed)
    return [random_records(rng, rng.randint(1, size)) for _ in range(count)]


def fills_in(written: list[list[Record]]) -> list[Fill]:
    return [r for records in written for r in unfolded(records) if isinstance(r, Fill)]


def flat(written: list[list[Record]]) -> list[Record]:
    return [record for records in written for record in records]


def test_recovery_reports_its_progress_from_snapshot_and_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = commits(5, 200)
    monkeypatch.setattr(snapshots, "CHUNK", 4)
    with closing(open_journal(path)) as journal:
        for records in written:
            journal.commit(records)
        steps: list[float] = []
        assert journal.recover(steps.append) == folded(flat(written))
        assert steps == pytest.approx([n / 200 for n in range(1, 201)])
        none = journal.snapshot_time()
        work_all(journal)
        for records in written:
            journal.commit(records)
        found = journal._snapshot
        assert found > 0
        assert journal._log.segments[0] > 1
        made = snapshots.path_of(path, found).stat().st_mtime
        assert (none, journal.snapshot_time()) == (None, made)
        sizes = journal.file_sizes()
        steps.clear()
        assert journal.recover(steps.append) == folded(flat([*written, *written]))
        assert (
            fills_in(written) == journal.history().fills(limit=-1)[::-1][: len(fills_in(written))]
        )
    share = sizes["snapshot"] / (sizes["snapshot"] + sizes["log"])
    frames = 400 - found
    from_log = [1 - (1 - share) * (frames - n) / frames for n in range(1, frames + 1)]
    assert steps[-frames:] == pytest.approx(from_log)
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-frames - 1] < share
    assert share - steps[-frames - 1] < 0.05


def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert journal.recover() == Recovered()
    history = journal.history()
    assert (history.orders(limit=9), history.fills(limit=9), history.ledger(limit=9)) == (
        [],
        [],
        [],
    )
    assert journal.order(1) is journal.by_client_id("x") is None


def test_nothing_to_commit_writes_nothing(journal: Journal, path: Path) -> None:
    before = {file: file.stat().st_size for file in path.iterdir()}
    journal.commit([])
    assert {file: file.stat().st_size for file in path.iterdir()} == before


def test_all_files_are_for_the_owner_alone(path: Path) -> None:
    with closing(open_journal(path)) as journal:
        for records in commits(1, 100):
            journal.commit(records)
        work_all(journal)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        kinds = {file.suffix for file in path.iterdir()}
        assert kinds == {".log", ".state", ".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ""}
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_the_version_goes_with_the_fields_of_the_records() -> None:
    """If this fails, raise SCHEMA_VERSION unless only fields with defaults came last, or only a kind of
    record is new, and put the new sum here: a journal of other fields would be read wrongly."""
    kinds = [
        kind
        for kind in vars(records_module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__struct_config__.array_like
    ]
    text = repr(sorted((kind.__name__, kind.__struct_fields__) for kind in kinds))
    assert (SCHEMA_VERSION, crc32(text.encode())) == (5, 3683435309)


# Killed


@pytest.mark.slow
def test_cut_at_every_byte_of_the_last_commits_it_holds_the_whole_ones(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    written = commits(3, 12, size=2)
    ends = []
    killed = tmp_path / "killed"
    with closing(open_journal(path, segment_bytes=10**6)) as journal:
        for records in written:
            journal.commit(records)
            ends.append(journal._log.size)
        journal.history()
        shutil.copytree(path, killed)  # nothing was flushed yet
    expected = [folded(flat(written[:count])) for count in range(len(written) + 1)]
    for length in range(ends[-3], ends[-1] + 1):
        copy = tmp_path / str(length)
        shutil.copytree(killed, copy)
        os.truncate(next(copy.glob("*.log")), length)
        whole = sum(end <= length for end in ends)
        with closing(open_journal(copy)) as journal:
            assert journal.recover() == expected[whole], length
            assert bool(journal.notes) == (whole < len(written))
            if length % 10 == 0:  # the archive has what the log does not know apart
                assert journal.history().fills(limit=-1)[::-1] == fills_in(written[:whole])
        shutil.rmtree(copy)


def test_a_flipped_bit_is_found_wherever_it_is(path: Path) -> None:
    with closing(open_journal(path)) as journal:
        for records in commits(4, 60):
            journal.commit(records)
    files = sorted(path.glob("*.log"))
    assert len(files) > 2
    for file in files:
        whole = file.read_bytes()
        for position in range(FILE_HEAD_SIZE, len(whole), 97):
            data = bytearray(whole)
            data[position] ^= 4
            file.write_bytes(data)
            with pytest.raises(JournalError, match=rf"{file.name}, offset \d+: "):
                reopened(path)
        file.write_bytes(whole)
    reopened(path)


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_file_change_it_holds_all_commits(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two writes, renames and deletions of log, snapshots and segments."""
    left = 0

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(os, "fsync", lambda fd: None)
    for module, name in (
        (write_ahead_log, "write_all"),
        (write_ahead_log, "flush_directory"),
        (snapshots, "write_all"),
        (snapshots, "flush_directory"),
        (Path, "replace"),
        (Path, "unlink"),
    ):
        counted(module, name)
    written = commits(seed, 150)
    expected = [folded(flat(written[:count])) for count in range(len(written) + 1)]
    kills = snapshots_made = 0
    for point in range(1, 10_000, 11):
        path = tmp_path / str(point)
        done, left, killed = 0, point, False
        try:
            with closing(open_journal(path)) as journal:
                for records in written:
                    journal.commit(records)
                    done += 1
                    journal.work()
                work_all(journal)
        except Killed:
            killed = True
        left = 0
        with closing(open_journal(path)) as journal:
            found = journal.recover()
            # The commit under way may be there or not.
            assert found in expected[done : done + 2], point
            now = expected.index(found, done)
            assert journal.history().fills(limit=-1)[::-1] == fills_in(written[:now])
            for records in written[now:]:
                journal.commit(records)
                journal.work()
            work_all(journal)
            snapshots_made += journal._snapshot > 0
        assert reopened(path) == expected[-1]
        assert len(list(path.glob("*.state"))) == 1
        shutil.rmtree(path)
        if not killed:
            break
        kills += 1
    assert kills > 10
    assert snapshots_made > 10


# Snapshots


def test_segments_stay_until_the_archive_has_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BEHIND", 1000)
    written = commits(7, 200)
    with closing(open_journal(path)) as journal:
        for records in written:
            journal.commit(records)
        for _ in journal._make_snapshot(journal._log.segments[-1] - 1):
            pass
        assert journal._log.segments[0] == 1
        assert journal.history().fills(limit=-1)[::-1] == fills_in(written)
        monkeypatch.setattr(journal_module, "SNAPSHOT_FACTOR", 0)
        for records in commits(8, 100):
            journal.commit(records)
        work_all(journal)
        assert journal._log.segments[0] > 1


@pytest.mark.parametrize("what", ["log", "state"])
def test_missing_files_are_noticed(what: str, path: Path) -> None:
    with closing(open_journal(path)) as journal:
        for records in commits(8, 200):
            journal.commit(records)
            journal.work()
        work_all(journal)
    for file in path.glob(f"*.{what}"):
        file.unlink()
    with pytest.raises(JournalError, match=r"lacks|no log"):
        reopened(path)


def test_a_damaged_snapshot_is_refused(path: Path) -> None:
    with closing(open_journal(path)) as journal:
        for records in commits(8, 200):
            journal.commit(records)
            journal.work()
        work_all(journal)
    (file,) = path.glob("*.state")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(JournalError, match=rf"{file.name}, offset"):
        reopened(path)


# The archive


def test_a_lost_archive_is_warned_of_and_the_latest_orders_are_kept(
    path: Path,
) -> None:
    written = commits(11, 300)
    with closing(open_journal(path)) as journal:
        for records in written:
            journal.commit(records)
            journal.work()
        work_all(journal)
        finished = journal.history().orders(limit=-1)
        first = journal._log.segments[0]
    (path / "archive.sqlite3").write_bytes(b"not any more" * 1000)
    with closing(open_journal(path)) as journal:
        unusable, lost = journal.notes
        assert "could not be used" in unusable
        assert f"before frame {first} of the log is lost" in lost
        kept = fills_in(written[first - 1 :])
        assert 0 < len(kept) < len(fills_in(written))
        assert journal.history().fills(limit=-1)[::-1] == kept
        done = [order for order in folded(flat(written)).orders if order.done]
        assert {o.number for o in done} <= {o.number for o in journal.history().orders(limit=-1)}
        assert finished


def test_commits_wait_for_an_archive_that_is_far_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BEHIND", 3)
    with closing(open_journal(path)) as journal:
        for records in commits(12, 200):
            journal.commit(records)
            behind = [s for s in journal._log.segments if s > journal._archive.at + 1]
            assert len(behind) <= 3


def test_looking_up_an_order_waits_for_the_archive_only_when_that_is_far_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RECENT", 5)
    done = replace(ORDER, done=True)
    with closing(open_journal(path)) as journal:
        journal.commit([done])
        journal.commit([PutMeta("a", 1)] * 4)
        assert journal.order(1) is journal.by_client_id("mine") is None
        assert not journal.behind
        journal.commit([PutMeta("a", 1)])
        assert journal.behind
        assert journal.order(1) == journal.by_client_id("mine") == done
    (path / "archive.sqlite3").unlink()
    with closing(open_journal(path)) as journal:
        journal.recover()  # has the archive made first
        assert journal.order(1) == done


def test_committed_records_are_found_at_once_while_the_thread_archives(path: Path) -> None:
    with closing(open_journal(path, background=True)) as journal:
        for number in range(1, 200):
            done = replace(ORDER, number=number, done=True, updated=number)
            journal.commit([done, replace(FILL, take=number, time=number)])
            if number % 3 == 0:
                history = journal.history()
                assert history.past_orders(0, limit=1) == [done]
                assert history.fills_of(2, limit=1)[0].take == number


def test_the_thread_archives_and_makes_snapshots_by_itself(path: Path) -> None:
    with closing(open_journal(path, background=True)) as journal:
        written = commits(13, 200)
        for records in written:
            journal.commit(records)
        deadline = time.monotonic() + 20
        while journal._archive.at < len(written) or journal._snapshot == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert journal._archive.fills(limit=-1)[::-1] == fills_in(written)
        assert journal.trouble is None
    assert reopened(path) == folded(flat(written))


def test_readers_and_two_committing_threads(path: Path) -> None:
    """Commits of two drains do not overlap, but come from any thread; readers see whole ones."""
    one_at_a_time = threading.Lock()
    wrong: list[object] = []
    finished = threading.Event()

    def watched(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            wrong.append(error)

    def write(start: int) -> None:
        for take in range(start, start + 200):
            fill = replace(FILL, take=take, time=take)
            with one_at_a_time:
                journal.commit([fill, replace(fill, role="taker")])
            if (
                take % 20 == 0
                and [f.take for f in journal.history().fills(limit=-1)].count(take) != 2
            ):
                wrong.append(take)

    def read() -> None:
        while not finished.is_set():
            takes = [fill.take for fill in journal.history().fills(limit=-1)]
            wrong.extend(take for take in set(takes) if takes.count(take) != 2)

    with closing(open_journal(path, background=True)) as journal:
        writers = [
            threading.Thread(target=watched, args=(partial(write, n * 1000),)) for n in range(2)
        ]
        reader = threading.Thread(target=watched, args=(read,))
        for thread in (*writers, reader):
            thread.start()
        for thread in writers:
            thread.join()
        finished.set()
        reader.join()
        assert wrong == []
        assert len(journal.history().fills(limit=-1)) == 800


# The disk fails


@pytest.mark.parametrize("written", [0, 10, 10**9])
def test_after_a_failed_write_nothing_more_is_committed(
    written: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, with nothing, a part, or all of the frame on it."""
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if written:
            real(fd, data[:written])
        raise OSError(28, "No space left on device")

    with closing(open_journal(path)) as journal:
        journal.commit([PutMeta("before", 1)])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(JournalError, match=rf"cannot write the journal {path}: .*No space"):
            journal.commit([PutMeta("lost", 1)])
        monkeypatch.undo()
        with pytest.raises(JournalError, match="No space"):
            journal.commit([PutMeta("after", 1)])
        assert journal.history().fills(limit=9) == []
    # Whether an unacknowledged commit is there is open; a part of it never is.
    assert reopened(path).meta == {"before": 1, **({"lost": 1} if written > 1000 else {})}


def test_a_failed_flush_is_a_failed_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with closing(open_journal(path, sync="full")) as journal:
        monkeypatch.setattr(write_ahead_log, "flush", failing)
        with pytest.raises(JournalError, match="Input/output"):
            journal.commit([PutMeta("a", 1)])
        monkeypatch.undo()
        with pytest.raises(JournalError, match="Input/output"):
            journal.commit([PutMeta("a", 2)])


def test_a_commit_that_is_too_long_is_a_journal_error(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "MAX_PAYLOAD", 100)
    with pytest.raises(JournalError, match="too large"):
        journal.commit([PutMeta("a" * 200, 1)])


def test_an_archive_that_cannot_be_written_stops_no_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_journal(path, background=True)) as journal:

        def failing(*arguments: object) -> None:
            raise JournalError("cannot write the archive")

        monkeypatch.setattr(journal._archive, "add", failing)
        journal.commit([FILL])
        deadline = time.monotonic() + 20
        while journal.trouble is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        journal.commit([PutMeta("a", 1)])
        with pytest.raises(JournalError, match="cannot write the archive"):
            journal.history()
        monkeypatch.undo()
        assert journal.history().fills(limit=9) == [FILL]
    assert reopened(path).meta == {"a": 1}


@pytest.mark.parametrize(("owner", "waits"), [("other", False), ("me", True)])
def test_only_a_commit_of_others_feeds_alone_does_not_wait_for_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, waits: bool
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(write_ahead_log, "flush", flushed.append)
    batch = next(record for record in RECORDS if isinstance(record, PutBatch))
    with closing(open_journal(path, sync="full", owner="me")) as journal:
        journal.commit([PutBatch(owner, batch.batch)])
        assert bool(flushed) == waits
        journal.commit([PutBatch(owner, batch.batch), PutMeta("one", 1)])
        assert len(flushed) == 1 + waits
    with closing(open_journal(path, sync="normal")) as journal:
        journal.commit([PutMeta("one", 1)])
        assert len(flushed) == 1 + waits


# Refusals


def test_a_journal_of_another_version_is_refused_by_name(path: Path) -> None:
    open_journal(path).close()
    (file,) = path.glob("*.log")
    file.write_bytes(frames.file_head(b"xchg-log", SCHEMA_VERSION + 1))
    with pytest.raises(
        JournalError, match=rf"{file.name} has journal version {SCHEMA_VERSION + 1}; this program"
    ):
        open_journal(path)


@pytest.mark.parametrize("name", ["journal", "exchange.sqlite3"])
def test_the_single_file_of_version_1_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / name)) as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(JournalError, match=rf"{name} has journal version 1; this program"):
        open_journal(tmp_path / "journal")


def test_a_journal_in_use_is_refused(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalError, match="in use"):
        open_journal(path)


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot open the journal .*nowhere"):
        open_journal(tmp_path / "nowhere" / "journal")


def test_a_frame_that_is_no_records_is_refused_by_its_number(path: Path) -> None:
    with closing(open_journal(path)) as journal:
        journal.commit([PutMeta("a", 1)])
        journal._log.append(b"\xc1\xc1", sync=False)
    with pytest.raises(JournalError, match="frame 2: "):
        reopened(path)


# The two journals of these tests


@pytest.mark.parametrize("seed", range(4))
def test_the_journal_agrees_with_a_plain_model(
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
            open_orders = [o for o in engine.order_store.open_orders if not o.cancelled]
            if open_orders and rng.random() < 0.3:
                engine.orders.cancel(net.now, rng.choice(open_orders).number)
            else:
                side, price = rng.choice((BUY, SELL)), rng.choice((None, 99, 100, 101))
                submit(engine, net.now, M, side, price, rng.randint(1, 9))
            net.run(0.1)
        for node, memory in zip(net.nodes, plain, strict=True):
            assert isinstance(node.store, JournalDisk)
            assert node.store.recover() == memory.recover()
            assert node.store.orders() == memory.orders()
            assert node.store.fills() == memory.fills()
            assert node.store.postings() == memory.postings()


def _both(*commits: Callable[[list[Record]], None]) -> Callable[[list[Record]], None]:
    def commit(records: list[Record]) -> None:
        for each in commits:
            each(records)

    return commit


def _all_of(recovered: Recovered) -> list[Record]:
    """Nothing but counters is there when a test begins."""
    assert not recovered.orders
    return [PutMeta(name, value) for name, value in recovered.meta.items()]
