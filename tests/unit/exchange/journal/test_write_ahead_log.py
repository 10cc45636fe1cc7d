"""The log: whole frames or none, whatever a crash leaves; damage is found and named."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exchange.journal import frames, write_ahead_log
from exchange.journal.frames import FILE_HEAD_SIZE, HEAD_SIZE, FrameFault, JournalError
from exchange.journal.write_ahead_log import EARLIEST_VERSION, Tail, WriteAheadLog

VERSION = 7


def open_log(path: Path, start: int = 1, segment_bytes: int = 1 << 20) -> WriteAheadLog:
    return WriteAheadLog(path, version=VERSION, start=start, segment_bytes=segment_bytes)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[WriteAheadLog]:
    with closing(open_log(tmp_path)) as found:
        yield found


def payloads(found: WriteAheadLog, after: int = 0) -> list[bytes]:
    with closing(Tail(found, after)) as tail:
        taken = []
        while tail.at < found.last:
            taken += tail.take(found.last)
        assert [number for number, _ in taken] == list(range(after + 1, found.last + 1))
        return [payload for _, payload in taken]


def again(path: Path) -> list[bytes]:
    """Records found after a restart."""
    with closing(open_log(path)) as found:
        return payloads(found)


def only_segment(path: Path) -> Path:
    (found,) = path.glob("*.log")
    return found


def write(path: Path, *contents: bytes, sync: bool = True, segment_bytes: int = 1 << 20) -> None:
    with closing(open_log(path, segment_bytes=segment_bytes)) as found:
        for content in contents:
            found.append(content, sync=sync)


def test_segments_follow_each_other_from_any_number(tmp_path: Path) -> None:
    contents = [bytes([i]) * 40 for i in range(9)]
    with closing(open_log(tmp_path, start=40, segment_bytes=100)) as found:
        assert found.last == 39
        assert [found.append(content, sync=True) for content in contents] == [*range(40, 49)]
    files = sorted(tmp_path.glob("*.log"))
    assert [int(file.stem) for file in files] == [40, 42, 44, 46, 48]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    with closing(open_log(tmp_path)) as found:
        assert (found.last, found.durable) == (48, 48)
        assert payloads(found, 39) == contents
    files[1].unlink()
    with closing(open_log(tmp_path)) as found, pytest.raises(JournalError, match="offset"):
        payloads(found, 39)


@pytest.mark.parametrize("size", [1, 60, 100, 10_000])
def test_a_tail_reads_on_while_the_log_grows_in_pieces_of_any_size(
    tmp_path: Path, size: int
) -> None:
    expected = [(i + 1, bytes([i]) * (i * 7)) for i in range(20)]
    with closing(open_log(tmp_path, segment_bytes=150)) as found, closing(Tail(found, 0)) as tail:
        taken: list[tuple[int, bytes]] = []
        for number, content in expected:
            found.append(content, sync=False)
            while number % 3 == 2 and tail.at < found.last:
                piece = tail.take(found.last, size)
                assert len(piece) == 1 or sum(HEAD_SIZE + len(part) for _, part in piece) <= size
                taken += piece
        assert taken == expected


def test_frames_of_a_killed_process_are_flushed_before_anything_follows(
    tmp_path: Path, flushes: list[str]
) -> None:
    with closing(open_log(tmp_path)) as found:
        flushes.clear()
        found.append(b"x", sync=False)
        assert (flushes, found.durable) == ([], 0)
        found.append(b"x", sync=True)
        found.append(b"x", sync=False)
        assert (flushes, found.durable) == (["1.log"], 2)
    flushes.clear()
    with closing(open_log(tmp_path)) as found:
        assert (flushes, found.durable) == (["1.log"], 3)
        found.settle()
        assert flushes == ["1.log"]
        found.append(b"x", sync=False)
        found.settle()
        assert (flushes, found.durable) == (["1.log"] * 2, 4)


def test_a_tail_does_not_read_beyond_its_limit(opened: WriteAheadLog) -> None:
    for i in range(5):
        opened.append(bytes([i]), sync=False)
    with closing(Tail(opened, 1)) as tail:
        assert tail.take(3) == [(2, b"\1"), (3, b"\2")]
        assert tail.take(3) == []


def test_dropped_segments_are_gone_and_the_rest_is_readable(tmp_path: Path) -> None:
    with closing(open_log(tmp_path, segment_bytes=100)) as found:
        for i in range(10):
            found.append(bytes([i]) * 40, sync=False)
        found.drop(5)
        assert found.segments == (5, 7, 9)  # frame 6 shares a segment with 5
        assert payloads(found, 5) == [bytes([i]) * 40 for i in range(5, 10)]
        found.drop(1000)
        assert found.segments == (9,)  # the newest stays
        with pytest.raises(JournalError, match="lacks the segment of frame 6"):
            Tail(found, 5).take(10)


# Torn ends


def test_an_end_that_was_never_written_is_cut_off(tmp_path: Path) -> None:
    """A power cut may leave the size of a file without its contents."""
    write(tmp_path, b"first", b"second" * 500)
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    start = FILE_HEAD_SIZE + HEAD_SIZE + 5
    for hole in (start, 512, 1024, 2048):
        for end in (hole + 512 - hole % 512, len(whole)):
            data = bytearray(whole)
            data[hole:end] = bytes(end - hole)
            path.write_bytes(data)
            assert again(tmp_path) == [b"first"], (hole, end)
    path.write_bytes(bytes(FILE_HEAD_SIZE))
    assert again(tmp_path) == []


# Damage


def test_every_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    write(tmp_path, b"first", b"second", b"third")
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    starts = [FILE_HEAD_SIZE, FILE_HEAD_SIZE + HEAD_SIZE + 5, FILE_HEAD_SIZE + 2 * HEAD_SIZE + 11]
    for position in range(len(whole)):
        for bit in (0, 3, 7):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            offset = max((s for s in starts if s <= position), default=0)
            with pytest.raises(JournalError, match=rf"{path.name}, offset {offset}: "):
                open_log(tmp_path)


def test_a_hole_before_a_durable_frame_is_damage(tmp_path: Path) -> None:
    for sync in (True, False):
        path = tmp_path / str(sync)
        path.mkdir()
        write(path, b"first", b"second" * 500, b"third", sync=sync)
        file = only_segment(path)
        data = bytearray(file.read_bytes())
        data[1024:2048] = bytes(1024)
        file.write_bytes(data)
        if sync:
            with pytest.raises(JournalError, match="checksum is wrong"):
                open_log(path)
        else:  # nobody was promised the second and the third
            assert again(path) == [b"first"]


def test_damage_in_an_older_segment_is_found_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, *[bytes([i + 1]) * 40 for i in range(4)], segment_bytes=100)
    oldest, _ = sorted(tmp_path.glob("*.log"))
    whole = oldest.read_bytes()
    for data in (whole[:-1], whole[:-45] + b"!" + whole[-44:], whole[:20], b""):
        oldest.write_bytes(data)
        with pytest.raises(JournalError, match=oldest.name):
            again(tmp_path)


def test_a_frame_of_another_number_is_damage(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    path = only_segment(tmp_path)
    path.write_bytes(path.read_bytes() + frames.frame(3, 0, b"x"))
    with pytest.raises(JournalError, match="found frame 3, expected frame 2"):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (frames.file_head(b"xchg-log", VERSION + 1), f"has journal version {VERSION + 1}; this"),
        (frames.file_head(b"anything", VERSION), "another kind of file"),
        (b"no log at all, whatever its name", "another kind of file"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, head: bytes, text: str) -> None:
    write(tmp_path, b"one")
    path = only_segment(tmp_path)
    path.write_bytes(head + path.read_bytes()[FILE_HEAD_SIZE:])
    with pytest.raises(JournalError, match=rf"{path.name}.*{text}"):
        open_log(tmp_path)


def test_a_log_of_an_earlier_version_goes_on_in_a_segment_of_the_present_one(
    tmp_path: Path,
) -> None:
    with closing(WriteAheadLog(tmp_path, version=EARLIEST_VERSION, start=1)) as earlier:
        earlier.append(b"one", sync=True)
    later = EARLIEST_VERSION + 1
    with closing(WriteAheadLog(tmp_path, version=later, start=1)) as log:
        assert log.append(b"two", sync=True) == 2
        with closing(Tail(log, 0)) as tail:
            assert [*tail.take(2), *tail.take(2)] == [(1, b"one"), (2, b"two")]
        versions = [
            frames.version_of(log.path(segment).read_bytes(), b"xchg-log")
            for segment in log.segments
        ]
    assert versions == [EARLIEST_VERSION, later]
    with pytest.raises(JournalError, match=f"has journal version {later}; this program reads"):
        WriteAheadLog(tmp_path, version=EARLIEST_VERSION, start=1)


def test_a_payload_that_is_too_long_is_refused(
    opened: WriteAheadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "MAX_PAYLOAD", 10)
    with pytest.raises(ValueError, match="11 bytes"):
        opened.append(b"x" * 11, sync=True)
    assert opened.append(b"x" * 10, sync=True) == 1


# When the disk is waited for


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of files that were flushed, in order."""
    done: list[str] = []

    def watched(real: Callable[[int], None]) -> Callable[[int], None]:
        def call(fd: int) -> None:
            name = Path(f"/proc/self/fd/{fd}").readlink()
            done.append("directory" if name.is_dir() else name.name.lstrip("0"))
            real(fd)

        return call

    monkeypatch.setattr(write_ahead_log, "flush", watched(write_ahead_log.flush))
    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    return done


def test_a_segment_is_on_the_disk_before_the_next_and_the_next_ones_name_before_its_frames(
    opened: WriteAheadLog, flushes: list[str]
) -> None:
    opened.append(b"x", sync=False)
    opened.seal()
    assert (flushes, opened.durable) == (["1.log", "2.log", "directory"], 1)
    opened.seal()  # nothing in it yet
    assert opened.segments == (1, 2)


def test_a_short_write_goes_on(opened: WriteAheadLog, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    opened.append(b"some more than seven bytes", sync=True)
    assert payloads(opened) == [b"some more than seven bytes"]


def test_a_whole_frame_that_nothing_promises_is_no_promise() -> None:
    whole = frames.frame(5, 4, b"payload")
    assert frames.known_durable(b"??" + whole, 0, 4)
    assert not frames.known_durable(b"??" + whole, 0, 5)
    assert not frames.known_durable(b"??" + whole[:-1], 0, 4)
    with pytest.raises(FrameFault, match="cut off"):
        frames.payload_at(whole[:-1], 0, frames.head_at(whole, 0))
