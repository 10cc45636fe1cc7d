"""Frames of another copy of a journal."""

from __future__ import annotations

import zlib
from contextlib import closing
from pathlib import Path

import pytest

from exchange.journal.journal import Journal, JournalError
from exchange.model.codec import pack
from exchange.model.records import PutMeta


def frame(number: int) -> bytes:
    return pack([PutMeta(f"key {number}", number)])


def test_a_copy_of_all_frames_is_the_same_journal(tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path / "one", owner="n")) as one,
        closing(Journal(tmp_path / "two", owner="n", segment_bytes=200)) as two,
    ):
        for number in range(1, 20):
            one.commit([PutMeta(f"key {number}", number)])
        found = one.reader_after(0)
        assert found is not None
        reader, _ = found
        while reader.at < one.committed:
            for number, payload in reader.take(one.committed):
                two.append_frame(number, payload, sync=number % 2 == 0)
        reader.close()
        assert two.recover().meta == one.recover().meta


def test_a_frame_that_does_not_follow_or_is_none_is_refused(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "one", owner="n")) as journal:
        journal.append_frame(1, frame(1), sync=True)
        with pytest.raises(JournalError, match="got frame 3 after 1"):
            journal.append_frame(3, frame(3), sync=True)
        with pytest.raises(JournalError, match="frame 2"):
            journal.append_frame(2, b"\xc1", sync=True)
        journal.append_frame(2, frame(2), sync=True)
        assert journal.committed == 2


def test_a_reader_after_a_frame_has_its_checksum(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "one", owner="n")) as journal:
        for number in (1, 2, 3):
            journal.commit([PutMeta(f"key {number}", number)])
        assert journal.reader_after(4) is None
        found = journal.reader_after(2)
        assert found is not None
        reader, checksum = found
        assert checksum == zlib.crc32(frame(2))
        assert reader.take(3) == [(3, frame(3))]
        reader.close()


def test_a_frame_that_a_snapshot_has_replaced_has_no_reader(tmp_path: Path) -> None:
    with closing(
        Journal(
            tmp_path / "one", owner="n", segment_bytes=200, snapshot_bytes=400, background=False
        )
    ) as journal:
        for number in range(1, 60):
            journal.commit([PutMeta(f"key {number}", number)])
        while journal.work():
            pass
        assert journal.reader_after(0) is None
        assert journal.reader_after(1) is None
        found = journal.reader_after(59)
        assert found is not None
        found[0].close()
