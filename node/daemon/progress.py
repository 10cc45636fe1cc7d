"""Progress of work that takes more than two seconds: on a terminal a line that changes, else lines.

with Progress("reading the journal") as progress:
    for number, item in enumerate(items):
        ...
        progress.update(number / len(items))
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Final, Self

PATIENCE: Final = 2.0  # seconds before anything is shown
REDRAW: Final = 0.2  # seconds between two states of the line on a terminal
REPEAT: Final = 10.0  # seconds between two lines elsewhere
LEAST: Final = 0.01  # part of the work that an estimate is made from


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s; 90,000 -> 1 d 1 h."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def progress_text(what: str, part: float, elapsed: float) -> str:
    """Return how far the work is, with an estimate of the time left."""
    text = f"{what}: {part * 100:.0f} %"
    if part >= LEAST:
        text += f", about {duration(elapsed / part - elapsed)} left"
    return text


class Progress:
    """Shows how far one piece of work is. `stream` is standard error by default; where it is no
    terminal, `log` gets the lines, by default `stream` does."""

    def __init__(
        self,
        what: str,
        *,
        stream: IO[str] | None = None,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._log = log or self._line
        self._clock = clock
        self._began = clock()
        self._next = self._began + PATIENCE
        self._shown = False

    def update(self, part: float) -> None:
        """Note that `part` of the work (0 to 1) is done."""
        now = self._clock()
        if now < self._next:
            return
        text = progress_text(self._what, min(1.0, max(0.0, part)), now - self._began)
        self._shown = True
        if self._live:
            self._next = now + REDRAW
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
        else:
            self._next = now + REPEAT
            self._log(text)

    def end(self) -> None:
        """Clear the line, or say how long it took."""
        if not self._shown:
            return
        self._shown = False
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        else:
            self._log(f"{self._what}: done in {duration(self._clock() - self._began)}")

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


class ByteProgress(Progress):
    """Progress of work on `total` bytes, on standard error."""

    def __init__(self, work: str, total: int) -> None:
        super().__init__(work)
        self._total = max(total, 1)
        self._done = 0

    def advance(self, size: int) -> None:
        """Note that `size` more bytes are done."""
        self._done += size
        self.update(self._done / self._total)
