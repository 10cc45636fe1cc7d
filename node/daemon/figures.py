"""State of a node that its metrics are made of, without the library that writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exchange.journal.journal import Journal
from node.service.committer import Committer
from node.service.diagnostics import Diagnostics
from node.service.readiness import Readiness


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Parts of a node that the metrics of its machine are read from."""

    diagnostics: Diagnostics
    readiness: Readiness
    journal: Journal
    data_dir: Path


@dataclass(frozen=True, slots=True)
class ExchangeFigures:
    """Counts since the start; `books` has (market, side, levels, orders)."""

    orders: int
    fills: int
    open_orders: int
    pending_takes: int
    feeds: int
    feeds_behind: int
    books: list[tuple[str, str, int, int]]
    committer: Committer
