"""The position up to which other processes may read the journal."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from node.daemon.released_position import NAME, ReleasedPosition, read, remove


def test_another_process_reads_what_was_noted_and_it_survives_the_node(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    with closing(ReleasedPosition(tmp_path, 7)) as released:
        assert read(tmp_path) == 7
        released.note(9)
        assert read(tmp_path) == 9
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    with closing(ReleasedPosition(tmp_path, 12)):
        assert read(tmp_path) == 9  # frames 10 to 12 were written and did not leave
    remove(tmp_path)
    assert read(tmp_path) is None
    remove(tmp_path)


def test_a_position_is_whole_while_it_changes(tmp_path: Path) -> None:
    stop = threading.Event()
    with closing(ReleasedPosition(tmp_path, 0)) as released:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 0x0101_0101_0101
                released.note(number % 2**60)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(2000):
                found = read(tmp_path)
                assert found is not None
                assert found % 0x0101_0101_0101 == 0 or found < 2**60
        finally:
            stop.set()
            writer.join()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"x" * 16)
    with pytest.raises(OSError, match="with the node stopped, remove it") as raised:
        read(tmp_path)
    assert raised.value.filename == str(tmp_path / NAME)
