"""Parts of all programs: a log that never holds them up, and lines on streams that may be gone."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from config import Settings
from node.daemon.process import QueuedHandler, configure_logging, tell


class Target(logging.Handler):
    """Takes lines once `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.busy = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.busy.set()
        assert self.open.wait(10)
        self.lines.append(record.getMessage())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("test")
    yield found
    for handler in found.handlers:
        handler.close()


def test_lines_without_a_reader_are_dropped_and_counted(logger: logging.Logger) -> None:
    target = Target()
    handler = QueuedHandler(target, held=3)
    logger.addHandler(handler)
    logger.warning("line 0")
    assert target.busy.wait(10)  # it is taken from the queue, and not written
    for number in range(1, 9):
        logger.warning("line %d", number)
    target.open.set()
    handler.close()
    dropped = "5 log lines were dropped: nothing read them in time"
    assert target.lines == ["line 0", "line 1", dropped, "line 2", "line 3"]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Handlers and levels are those of the other tests again afterwards."""
    loggers = [logging.getLogger(name) for name in (None, "node", "p2p", "exchange")]
    before = [(found, found.handlers, found.level) for found in loggers]
    yield
    for found, handlers, level in before:
        found.handlers = handlers
        found.setLevel(level)


@pytest.mark.usefixtures("logging_as_before")
def test_a_log_file_has_all_lines_at_the_end(tmp_path: Path) -> None:
    configure_logging(Settings(log_file=str(tmp_path / "log"), log_format="json"))
    for number in range(100):
        logging.getLogger("node.x").warning("line %d €", number)
    logging.getLogger().handlers[0].close()
    lines = (tmp_path / "log").read_text("utf-8").splitlines()
    assert len(lines) == 100
    assert '"message": "line 99 \\u20ac"' in lines[-1]


def test_a_line_for_a_full_closed_or_unread_stream_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.daemon.process.UNREAD", 0.01)
    if Path("/dev/full").exists():  # on Linux
        with Path("/dev/full").open("w") as full:
            tell("line", full)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as unread:
        with suppress(BlockingIOError):
            while os.write(writer, b"x" * 4096):
                pass
        tell("line", unread)
        os.close(reader)
        tell("line", unread)
    tell("line", unread)


def test_a_line_goes_to_any_stream(tmp_path: Path) -> None:
    text = io.StringIO()
    tell("line", text)
    assert text.getvalue() == "line\n"
    with (tmp_path / "f").open("w", encoding="ascii") as file:
        file.write("before\n")
        tell("é €", file)
    assert (tmp_path / "f").read_text("ascii") == "before\n\\xe9 \\u20ac\n"
