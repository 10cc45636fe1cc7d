"""Figures of a running node: quantiles of bins, lag, warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from node.service.committer import COMMIT_BOUNDS
from node.service.diagnostics import Diagnostics


@dataclass
class Parts:
    """A journal and a committer, as far as they are read."""

    archive_behind: int = 0
    commits: int = 0
    write_age: float = 0.0
    commit_bins: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_BOUNDS) + 1))

    @property
    def journal(self) -> Parts:
        return self


def diagnostics(parts: Parts, folder: Path) -> Diagnostics:
    return Diagnostics(cast(Any, parts), folder)


def test_errors_come_with_a_remedy(tmp_path: Path) -> None:
    parts = Parts(archive_behind=200_000, commits=10)
    parts.commit_bins[-1] = 10
    found = diagnostics(parts, tmp_path)
    found.note_lag(0.4, 1.0)
    view = found.view(orders=0, fills=0, uptime_s=0.0)
    assert view.commit_p50_ms == COMMIT_BOUNDS[-1] * 2000
    slow, busy, archive = view.warnings
    assert "faster" in slow
    assert "400 ms" in busy
    assert "200000 records" in archive


def test_sizes_are_of_the_data_directory_and_this_process(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"x" * 234)
    view = diagnostics(Parts(), tmp_path).view(orders=0, fills=0, uptime_s=0.0)
    assert view.data_bytes == 1234
    assert view.memory_bytes > 10_000_000
    assert view.disk_free_bytes > 0


def test_a_write_that_does_not_end_is_reported(tmp_path: Path) -> None:
    parts = Parts(write_age=3.5)
    view = diagnostics(parts, tmp_path).view(orders=0, fills=0, uptime_s=0.0)
    assert view.journal_lag_ms == 3500
    assert "has taken 4 s so far" in view.warnings[0]
