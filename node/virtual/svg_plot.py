"""Line charts as SVG, with nothing but text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

BLUE, RED, GREEN, GREY = "#1b6ca8", "#c0392b", "#2e8b57", "#555555"
COLOURS = (BLUE, "#d68910", "#8e5ea2", GREEN, RED, GREY)
WIDTH, HEIGHT = 860, 300  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 58, 44  # margins of the plotted area
MAX_TICKS = 8


@dataclass(frozen=True)
class Line:
    label: str
    points: Sequence[tuple[float, float]]
    colour: str = ""  # the next of COLOURS
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a name: an outage, a phase."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Panel:
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    bands: Sequence[Band] = field(default_factory=tuple)


def svg(title: str, panels: Sequence[Panel]) -> str:
    """Draw a picture with panels below each other."""
    height = 36 + HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 24, title, size=16, weight="bold"),
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {36 + number * HEIGHT})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at most `MAX_TICKS`."""
    if high <= low:
        high = low + 1.0
    rough = (high - low) / (MAX_TICKS - 2)
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def _panel(panel: Panel) -> list[str]:
    xs = [x for line in panel.lines for x, _ in line.points] or [0.0]
    ys = [y for line in panel.lines for _, y in line.points] or [0.0]
    x_low, x_high = min(0.0, *xs), max(0.0, *xs) or 1.0
    x_ticks, y_ticks = ticks(x_low, x_high), ticks(min(0.0, *ys), max(ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (right - LEFT)

    def py(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    out = [_text(LEFT, 18, panel.title, size=13, weight="bold")]
    for band in panel.bands:
        start, end = px(max(band.start, x_low)), px(min(band.end, x_high))
        out.append(
            f'<rect x="{start:.1f}" y="{TOP}" width="{max(1.0, end - start):.1f}" '
            f'height="{bottom - TOP}" fill="#f3e3c3"/>'
        )
        out.append(_text(start + 3, TOP + 12, band.label, size=10, colour="#7a5a10"))
    for y in y_ticks:
        out.append(_rule(LEFT, py(y), right, py(y), "#dddddd"))
        out.append(_text(LEFT - 6, py(y) + 4, _number(y), anchor="end"))
    for x in x_ticks:
        if x_low <= x <= x_high:
            out.append(_rule(px(x), bottom, px(x), bottom + 5, "#555555"))
            out.append(_text(px(x), bottom + 18, _number(x), anchor="middle"))
    out.append(_rule(LEFT, bottom, right, bottom, "#555555"))
    out.append(_rule(LEFT, TOP, LEFT, bottom, "#555555"))
    out.append(_text((LEFT + right) / 2, HEIGHT - 8, panel.x, anchor="middle"))
    out.append(
        f'<text transform="translate(16 {(TOP + bottom) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(panel.y)}</text>'
    )
    legend = float(LEFT)
    for number, line in enumerate(panel.lines):
        colour = line.colour or COLOURS[number % len(COLOURS)]
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>'
        )
        out.append(
            f'<polyline points="{legend:.1f},34 {legend + 22:.1f},34" fill="none" stroke="{colour}" '
            f'stroke-width="3"{dashes}/>'
        )
        out.append(_text(legend + 28, 38, line.label))
        legend += 28 + 7.0 * len(line.label) + 22
    return out


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:g}"


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = "#222222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
