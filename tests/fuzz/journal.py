"""Files of the journal, damaged in any way."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from exchange.journal.frames import (
    FILE_HEAD_SIZE,
    FrameFault,
    JournalError,
    file_head,
    frame,
    head_at,
    payload_at,
)
from exchange.journal.write_ahead_log import LOG_MAGIC, Tail, WriteAheadLog

VERSION = 1
PAYLOADS = [b"first", b"\x00", b"x" * 600, bytes(700), b"last"]

_directory = tempfile.TemporaryDirectory(prefix="fuzz-journal-")


def fuzz_journal(data: bytes) -> None:
    """A log of any bytes is refused with a `JournalError`, or opened. When it is opened, it can be read from its
    first frame to its last and written to; nothing that a later frame calls durable was cut off; and opening
    it a second time changes nothing."""
    directory = Path(_directory.name)
    path = directory / f"{1:020}.log"
    path.write_bytes(data)
    try:
        log = WriteAheadLog(directory, version=VERSION, start=1)
    except JournalError:
        assert path.read_bytes() == data, "refused, and changed"
        return
    try:
        kept = path.read_bytes()
        assert len(kept) >= FILE_HEAD_SIZE
        assert kept == data[: len(kept)] or len(data) <= FILE_HEAD_SIZE
        check_cut(data, log)
        read = read_all(log)
        assert len(read) == log.last
        log.append(b"more", sync=True)
        assert read_all(log) == [*read, b"more"]
    finally:
        log.close()
    again = WriteAheadLog(directory, version=VERSION, start=1)
    assert read_all(again) == [*read, b"more"]
    again.close()


def read_all(log: WriteAheadLog) -> list[bytes]:
    tail = Tail(log, 0)
    found: list[bytes] = []
    try:
        while tail.at < log.last:
            found += [payload for _, payload in tail.take(log.last)]
    finally:
        tail.close()
    return found


def check_cut(data: bytes, log: WriteAheadLog) -> None:
    """No whole frame anywhere calls one durable that is not in the log any more."""
    for offset in range(FILE_HEAD_SIZE, len(data)):
        with suppress(FrameFault):
            head = head_at(data, offset)
            payload_at(data, offset, head)
            inside_log = offset < log.size
            assert inside_log or head.durable <= log.last


def seeds_journal() -> list[bytes]:
    whole = file_head(LOG_MAGIC, VERSION)
    for number, payload in enumerate(PAYLOADS, 1):
        whole += frame(number, number - 1, payload)
    torn = whole[: FILE_HEAD_SIZE + 700]
    return [
        whole,
        torn,
        whole[:-2],
        whole[:-200] + bytes(200),
        whole[:100] + bytes(512) + whole[612:],
    ]
