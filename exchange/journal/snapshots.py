"""State snapshots beside the write-ahead log: the records that rebuild the state after one of its frames.

A snapshot is written under a temporary name, flushed, then renamed: a file with the final name is
whole. It is made from frames that are on the disk already, in small steps, while commits go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from exchange.journal.frames import (
    FILE_HEAD_SIZE,
    HEAD_SIZE,
    FrameFault,
    JournalError,
    file_head,
    frame,
    head_at,
    payload_at,
)
from exchange.journal.state import JournalState, SnapshotRecord
from exchange.journal.write_ahead_log import check_version, write_all
from exchange.model.codec import pack
from exchange.model.records import PutSnapshot, RecordsDecoder
from p2p.ground.durable_file import flush_directory

CHUNK: Final = 500  # records in a frame: a fraction of a millisecond to encode or decode
_MAGIC: Final = b"xchgstat"
_SUFFIX: Final = ".state"
_UNFINISHED: Final = ".tmp"

_records_of = RecordsDecoder(SnapshotRecord).decode


def path_of(directory: Path, number: int) -> Path:
    """Return the path of the snapshot after frame `number`."""
    return directory / f"{number:020}{_SUFFIX}"


def numbers(directory: Path) -> list[int]:
    """List the frames that have snapshots, ascending."""
    return sorted(int(path.stem) for path in directory.glob(f"*{_SUFFIX}"))


def tidy(directory: Path) -> None:
    """Delete unfinished snapshots and all finished ones except the newest."""
    for path in directory.glob(f"*{_SUFFIX}{_UNFINISHED}"):
        path.unlink()
    for number in numbers(directory)[:-1]:
        path_of(directory, number).unlink()


def save(directory: Path, number: int, state: JournalState, version: int) -> Iterator[None]:
    """Write the state after frame `number`, one step for each `next`.

    Raises:
        OSError: the disk failed; no snapshot was made.
    """
    path = path_of(directory, number)
    unfinished = path.with_name(path.name + _UNFINISHED)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, file_head(_MAGIC, version))
        count = 1
        for chunk in _chunks(state.records()):
            write_all(fd, frame(count, 0, pack(chunk)))
            count += 1
            yield
        write_all(fd, frame(count, 0, pack([])))  # end marker: proves that nothing was cut off
        os.fsync(fd)
    finally:
        os.close(fd)
    yield
    unfinished.replace(path)
    flush_directory(directory)


def _chunks(records: Iterator[SnapshotRecord]) -> Iterator[list[SnapshotRecord]]:
    chunk: list[SnapshotRecord] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == CHUNK or isinstance(record, PutSnapshot):  # feed snapshots may be long
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def load(path: Path, version: int, state: JournalState) -> Iterator[int]:
    """Load a snapshot into an empty state, one step for each `next`, which returns the bytes read.

    Raises:
        JournalError: the file is damaged or of another version.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        yield from load_from(file, path, version, state)


def load_from(file: BinaryIO, path: Path, version: int, state: JournalState) -> Iterator[int]:
    """As `load`, from the file's start; `path` is for messages."""
    file.seek(0)
    offset = 0
    try:
        check_version(path, file.read(FILE_HEAD_SIZE), _MAGIC, version)
        offset, count = FILE_HEAD_SIZE, 1
        while True:
            data = file.read(HEAD_SIZE)
            head = head_at(data, 0)
            if head.number != count:
                raise FrameFault(f"found part {head.number}, expected part {count}", torn=False)
            chunk = _records_of(payload_at(data + file.read(head.length), 0, head))
            if not chunk:
                return
            state.apply(chunk)
            offset += HEAD_SIZE + head.length
            count += 1
            yield offset
    except (FrameFault, msgspec.DecodeError) as error:
        raise JournalError(f"{path}, offset {offset}: {error}") from error
