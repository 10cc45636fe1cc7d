"""The candle chart: values under the pointer, every length, and back into history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from exchange.market.candles import TIMEFRAMES
from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from tests.web.browser import Pages

OLDER = 300  # candles of the first request for history


def test_candles_of_every_length_with_values_and_history(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.sell(5, 100)
    node.buy(2, 100)
    page = pages.open(node.api_url)
    page.locator(".ladder").wait_for()
    asked: list[str] = []

    def history(route: Any) -> None:
        """A market that was traded for five hours before, which this node was not."""
        asked.append(route.request.url)
        begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
        rows = [
            {
                "time": (begin - timedelta(minutes=n)).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "open": "50",
                "high": "61.5",
                "low": "40",
                "close": "60",
                "volume": "7",
                "trades": 3,
            }
            for n in range(OLDER)
        ]
        route.fulfill(json=rows if len(asked) == 1 else [])

    page.route("**/v1/candles/**", history)
    page.goto(f"{node.api_url}/#/market/TEST-USD")
    readout = page.locator(".chart .readout")
    readout.get_by_text("O 100.00 H 100.00 L 100.00 C 100.00 V 2 · 1 trade").wait_for()
    chart = page.locator(".chart canvas")
    chart.focus()
    for _ in range(3):
        page.keyboard.press("Home")  # as far back as there is, which asks for more
        page.wait_for_timeout(100)
    page.keyboard.press("ArrowLeft")
    readout.get_by_text("O 50.00 H 61.50 L 40.00 C 60.00 V 7 · 3 trades").wait_for()
    assert "limit=300" in asked[0]
    page.get_by_role("button", name="Latest").click()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 66, box["y"] + 40)  # the newest candle
    readout.get_by_text("C 100.00 V 2").wait_for()
    page.mouse.move(box["x"] + box["width"] - 66 - 20 * 9, box["y"] + 40)
    readout.get_by_text("C 60.00 V 7").wait_for()
    for length in TIMEFRAMES:
        page.get_by_label("length of a candle").select_option(length)
        readout.get_by_text("C 100.00 V 2 · 1 trade").wait_for()
    assert len(asked) >= len(TIMEFRAMES)
