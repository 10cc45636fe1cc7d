"""Results of a benchmark, and their presentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure. `value` is None when it could not be measured; `note` then says why."""

    what: str
    value: float | None
    unit: str
    ratio: float | None = None  # to the row this one is compared with, measured in the same run
    note: str = ""


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(title: str, rows: Sequence[Row]) -> str:
    """Aligned plain text, figures to the right."""
    head = ("", "value", "unit", "ratio", "note")
    cells = [
        (
            row.what,
            figure(row.value),
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    right = (1, 3)

    def line(columns: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(columns, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(
        [title, line(head), line(["-" * width for width in widths]), *map(line, cells)]
    )
