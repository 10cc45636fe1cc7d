"""Progress of work that is measured in bytes."""

from __future__ import annotations

from node.daemon.progress import Progress


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
