"""Output of a step: lines for the reader, and figures that a page can promise."""

from __future__ import annotations

from collections.abc import Sequence

Settings = dict[str, float]


class Sheet:
    """Lines and figures of a run. Figures are rounded, so that they read well and repeat exactly."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.figures: dict[str, float] = {}

    def event(self, at: float, text: str) -> None:
        """Add an event at virtual time `at` (seconds)."""
        self.lines.append(f"{at:8.2f} s  {text}")

    def text(self, line: str = "") -> None:
        self.lines.append(line)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are aligned to the right."""
        cells = [list(header), *([_cell(value) for value in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        for row in cells:
            first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
            self.lines.append("  ".join([first, *(text.rjust(width) for text, width in rest)]))

    def figure(self, name: str, value: float, digits: int = 3) -> None:
        self.figures[name] = round(float(value), digits)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else (
        f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)
    )  # fmt: skip
