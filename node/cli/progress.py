"""Progress of long work: a line with an estimate on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, TextIO

import click

QUIET: Final = 2.0  # seconds without a line: most work is done by then
_TERMINAL_EVERY: Final = 0.2  # seconds
_LOG_EVERY: Final = 5.0


class Progress:
    """Progress of work on `total` bytes, on standard error. Use it as a context manager."""

    def __init__(self, work: str, total: int, stream: TextIO | None = None) -> None:
        self._work = work
        self._total = max(total, 1)
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._done = 0
        self._began = time.monotonic()
        self._next = self._began + QUIET
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._shown:
            return
        if self._terminal:
            click.echo("\r\x1b[2K", file=self._stream, nl=False)
        elif kind is None:
            took = time.monotonic() - self._began
            click.echo(f"exchange-node: {self._work}: done after {took:.0f} s", file=self._stream)

    def advance(self, size: int) -> None:
        """Note that `size` more bytes are done."""
        self._done += size
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_EVERY if self._terminal else _LOG_EVERY)
        self._shown = True
        text = f"{self._work}: {self._text(now - self._began)}"
        if self._terminal:
            click.echo(f"\r\x1b[2K{text}", file=self._stream, nl=False)
        else:
            click.echo(f"exchange-node: {text}", file=self._stream)

    def _text(self, took: float) -> str:
        share = min(self._done / self._total, 0.99)
        left = took / share - took if share else 0.0
        return f"{share:.0%} of {self._total / 2**20:,.0f} MiB, about {left:.0f} s left"
