"""Progress of long work."""

from __future__ import annotations

import io

import pytest

from node.daemon.progress import Progress, progress_text
from node.virtual.server_model import VirtualTime


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_shows_nothing() -> None:
    out, clock = Terminal(), VirtualTime()
    with Progress("reading", stream=out, clock=lambda: clock.now) as progress:
        clock.now = 1.9
        progress.update(0.9)
    assert out.getvalue() == ""


def test_a_terminal_gets_one_line_that_is_cleared_at_the_end() -> None:
    out, clock = Terminal(), VirtualTime()
    with Progress("reading", stream=out, clock=lambda: clock.now) as progress:
        for second in range(1, 11):
            clock.now = float(second)
            progress.update(second / 10)
    shown = out.getvalue()
    assert "reading: 50 %, about 5 s left" in shown
    assert "\n" not in shown
    assert shown.endswith("\r\x1b[K")


def test_elsewhere_lines_come_now_and_then_and_at_the_end() -> None:
    out, clock = io.StringIO(), VirtualTime()
    with Progress("reading", stream=out, clock=lambda: clock.now) as progress:
        for second in range(1, 26):
            clock.now = float(second)
            progress.update(second / 25)
    assert out.getvalue().splitlines() == [
        "reading: 8 %, about 23 s left",
        "reading: 48 %, about 13 s left",
        "reading: 88 %, about 3 s left",
        "reading: done in 25 s",
    ]


@pytest.mark.parametrize(
    ("part", "elapsed", "text"),
    [(0.0, 3.0, "x: 0 %"), (0.001, 9.0, "x: 0 %"), (0.5, 90.0, "x: 50 %, about 1 min 30 s left")],
)
def test_the_estimate_follows_from_the_time_so_far(part: float, elapsed: float, text: str) -> None:
    assert progress_text("x", part, elapsed) == text
