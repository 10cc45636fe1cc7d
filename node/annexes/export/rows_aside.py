"""Rows set aside: what a sink cannot take is kept in a file and counted, and the next rows go on.

The file has one JSON object for each, in ASCII, so that nothing in it acts on a terminal. It is bounded: what comes after
is counted alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

LONGEST: Final = 2000  # characters of a row
MOST: Final = 1 << 20  # bytes of the file
WARNED: Final = 10  # rows that are logged one by one


class AsideRow(NamedTuple):
    """A row that cannot be taken, or the record that it was to be made of."""

    table: str
    row: object
    reason: str


class RowsAside:
    """Rows that one run of an export has set aside. `path`: the file that keeps them, over runs."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path

    def put(self, rows: Iterable[AsideRow]) -> None:
        """Keep rows and warn of them."""
        lines = []
        for row in rows:
            self.count += 1
            if self.count <= WARNED:
                log.warning(
                    "export: a row of %s is set aside: %s; see %s",
                    row.table,
                    ascii(row.reason[:200])[1:-1],
                    self._path,
                )
            fields = {
                "table": row.table,
                "reason": row.reason[:LONGEST],
                "row": repr(row.row)[:LONGEST],
            }
            lines.append(json.dumps(fields) + "\n")
        if lines:
            self._keep("".join(lines))

    def _keep(self, text: str) -> None:
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size + len(text) > MOST:
                return
            with self._path.open("a", encoding="ascii") as file:
                self._path.chmod(0o600)
                file.write(text)
