"""Standard streams that a command can rely on, whatever its caller did with the descriptors.

A closed descriptor 0, 1 or 2 would be given to the next file or socket that is opened, and the event loop
aborts the process when it closes such a socket. So closed ones are opened on /dev/null first. Printing to
a standard output that cannot take it raises `OutputLost`, apart from all other errors: the command has
done its work by then, and its exit code has to tell. Messages on standard error are given up silently.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, Final, TextIO

OUTPUT: Final = 1
MESSAGES: Final = 2


class OutputLost(Exception):
    """Standard output did not take what was printed. `error` is the system's reason; `changed` tells that
    the command had changed something by then."""

    def __init__(self, error: OSError) -> None:
        super().__init__((error.strerror or str(error)).lower())
        self.error = error
        self.changed = False

    @property
    def reader_left(self) -> bool:
        """True if the reader of a pipe has closed it, as `head` does."""
        return isinstance(self.error, BrokenPipeError)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            written: int | None
            while (
                written := super().write(data)
            ) is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
        except OSError as error:
            raise OutputLost(error) from error
        return written


class _Messages(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            written: int | None = super().write(data)
        except OSError:
            written = None
        return len(memoryview(data).cast("B")) if written is None else written


def prepare() -> None:
    """Open closed descriptors, and replace the streams of `sys`."""
    for descriptor in (0, OUTPUT, MESSAGES):
        try:
            os.fstat(descriptor)
        except OSError:
            # Read-only for the output, so that printing fails as it would have on the closed one.
            mode = os.O_WRONLY if descriptor == MESSAGES else os.O_RDONLY
            os.set_inheritable(os.open(os.devnull, mode), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = _text(_Output(OUTPUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(MESSAGES, "w", closefd=False), sys.stderr, lines=True)


def _text(raw: io.FileIO, before: TextIO | None, *, lines: bool = False) -> TextIO:
    """Return a stream of text over `raw`, encoded like the one before; what it cannot encode is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=lines or raw.isatty() or getattr(before, "write_through", False),
    )


def discard_output() -> None:
    """Send what is still buffered for standard output nowhere: the interpreter flushes it at its end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
