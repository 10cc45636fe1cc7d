"""Process set-up shared by all programs of the package: exit codes, logging, event loop.

It imports no part of a node, so that a program without one (`exchange-node grape`) stays small.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Final

from config import Settings

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2  # a restart does not mend it: settings, ports, directories, files
EXIT_FAILED: Final = 4


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
        return logging.StreamHandler(sys.stderr)
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
    """Log in the format and from the level of the settings, to LOG_FILE or standard error.

    Raises:
        StartError: the log file cannot be written.
    """
    handler = _log_handler(settings)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_msec_format = "%s.%03dZ"
        formatter.default_time_format = "%H:%M:%S"
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    level = settings.log_level.upper()
    for room in ("node", "p2p", "exchange"):
        logging.getLogger(room).setLevel(level)
    if level == "ERROR":
        root.setLevel(level)
