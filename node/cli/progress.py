"""Progress of work on a number of bytes: a line with an estimate on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import TextIO

from node.daemon import progress


class Progress(progress.Progress):
    """Progress of work on `total` bytes, on standard error. Use it as a context manager."""

    def __init__(self, work: str, total: int, stream: TextIO | None = None) -> None:
        super().__init__(f"exchange-node: {work} of {total / 2**20:,.0f} MiB", stream=stream)
        self._total = max(total, 1)
        self._done = 0

    def advance(self, size: int) -> None:
        """Note that `size` more bytes are done."""
        self._done += size
        self.update(min(self._done / self._total, 0.99))
