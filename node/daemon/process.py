"""Process set-up shared by all programs of the package: exit codes, logging, event loop.

It imports no part of a node, so that a program without one (`exchange-node grape`) stays small.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Final, TextIO

from config import Settings

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2  # a restart does not mend it: settings, ports, directories, files
EXIT_FAILED: Final = 4

FILES_NEEDED: Final = 64  # open files: journal, databases, listeners, a few links and clients
FILES_USED: Final = 16_384
STANDARD_ERROR: Final = 2
UNREAD: Final = 1.0  # seconds that a program waits for a reader of what it prints or logs
LINES_HELD: Final = (
    10_000  # log lines that wait for a slow reader; further ones are dropped and counted
)


class StartError(Exception):
    """The program cannot start. The message names the problem and the remedy."""

    def __init__(self, text: str, code: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.code = code


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """For `asyncio.Runner`: uvloop where it is installed, None for the loop of asyncio."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def claim_descriptors() -> None:
    """Raise the limit of open files to what a node can use.

    Raises:
        StartError: the system allows too few for a node.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_USED if hard == resource.RLIM_INFINITY else min(hard, FILES_USED)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # some systems have further limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft != resource.RLIM_INFINITY and soft < FILES_NEEDED:
        raise StartError(
            f"this process may open {soft} files (RLIMIT_NOFILE), and a node needs {FILES_NEEDED} at least: raise the limit "
            "with 'ulimit -n 4096', LimitNOFILE=4096 in a unit, or --ulimit nofile=4096 of a container"
        )


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print a line on standard output, or on `stream`; give up if it is closed, full or not being read.

    Past the stream's buffer: what cannot be printed must not fail again when the process ends.
    """
    stream = sys.stdout if stream is None else stream
    with suppress(OSError, ValueError):
        try:
            descriptor = stream.fileno()
        except OSError:  # not a stream of the system, as in tests
            print(text, file=stream, flush=True)
            return
        stream.flush()
        if select.select([], [descriptor], [], UNREAD)[1]:
            os.write(descriptor, f"{text}\n".encode(stream.encoding, "backslashreplace"))


class _DescriptorHandler(logging.Handler):
    """Writes lines to a descriptor, without a buffer, whose lock would outlive the main thread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        data = f"{record.msg}\n".encode("utf-8", "backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


class QueuedHandler(logging.Handler):
    """Hands lines to `target` in a thread: the caller never waits for a disk or for a reader.

    At most `held` lines wait; further ones are dropped, and their number is logged as soon as there is room.
    """

    def __init__(self, target: logging.Handler, held: int = LINES_HELD) -> None:
        super().__init__()
        self._target = target
        self._held = held
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None  # started by the first line

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        with self._changed:
            if len(self._lines) >= self._held:
                self._dropped += 1
                return
            self._lines.append(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write the lines that wait, while they are being read."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(UNREAD)
        self._target.close()
        super().close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._ended:
                    self._changed.wait()
                if not self._lines:
                    return
                text = self._lines.popleft()
                dropped, self._dropped = self._dropped, 0
            self._write(text)
            if dropped:
                self._write(
                    self.format(
                        logging.makeLogRecord(
                            {
                                "name": __name__,
                                "levelno": logging.WARNING,
                                "levelname": "WARNING",
                                "msg": f"{dropped} log lines were dropped: nothing read them in time",
                            }
                        )
                    )
                )

    def _write(self, text: str) -> None:
        # Not `handle`, whose lock the end of the process would wait for.
        self._target.emit(logging.makeLogRecord({"msg": text}))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _log_handler(settings: Settings) -> logging.Handler:
    path = settings.log_file
    if path is None:
        return _DescriptorHandler(STANDARD_ERROR)
    from logging.handlers import RotatingFileHandler

    class PrivateFileHandler(RotatingFileHandler):
        def _open(self) -> TextIOWrapper:
            descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            return os.fdopen(descriptor, "a", encoding="utf-8")

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return PrivateFileHandler(
            path, maxBytes=settings.log_file_size << 20, backupCount=settings.log_file_count
        )
    except OSError as error:
        raise StartError(
            f"cannot write the log file {path}: {error.strerror or error} (LOG_FILE)"
        ) from error


def configure_logging(settings: Settings) -> None:
    """Log in the format and from the level of the settings, to LOG_FILE or standard error. Logging never
    waits for either, see `QueuedHandler`.

    Raises:
        StartError: the log file cannot be written.
    """
    handler = QueuedHandler(_log_handler(settings))
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_msec_format = "%s.%03dZ"
        formatter.default_time_format = "%H:%M:%S"
        handler.setFormatter(formatter)
    root = logging.getLogger()
    for before in root.handlers:
        if isinstance(before, QueuedHandler):
            before.close()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    level = settings.log_level.upper()
    for room in ("node", "p2p", "exchange"):
        logging.getLogger(room).setLevel(level)
    if level == "ERROR":
        root.setLevel(level)
