"""Every view, wide and narrow, light and dark: nothing overflows, no text is cut, and axe finds nothing
serious."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.browser import Pages

VIEWS = {
    "market/BTC-USD": ".ladder tr.sell:not(.void)",
    "network": ".map circle.self",
    "services": "text=markets",
    "between": "text=Set limit",
    "health": "text=Up for",
    "accounts": "text=Make a key",
    "desk": "text=DESK_PROFILE=FILE",
}
AXE = """async () => {
  const found = await axe.run(document, {resultTypes: ["violations"]});
  return found.violations
    .filter((v) => ["serious", "critical", "moderate"].includes(v.impact))
    .map((v) => [v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160))]);
}"""
# Texts that an ancestor cuts, measured in parts of a pixel; what can be scrolled to is not cut.
CUT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility() || parent.closest(".unseen, .skip, option")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const text = range.getBoundingClientRect();
    for (let box = parent; box; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.display === "inline") continue;
      if (["auto", "scroll"].includes(style.overflowX)) break;
      if (!["hidden", "clip"].includes(style.overflowX)) continue;
      const [edge, inner] = [box.getBoundingClientRect(), style.textOverflow === "ellipsis"];
      const size = (name) => parseFloat(style[name]);
      const left = edge.left + size("borderLeftWidth") + (inner ? size("paddingLeft") : 0);
      const right = edge.right - size("borderRightWidth") - (inner ? size("paddingRight") : 0);
      if (text.left < left - 0.02 || text.right > right + 0.02) {
        found.push([node.data.slice(0, 40), box.className || box.tagName, text.width, right - left]);
      }
    }
  }
  for (const input of document.querySelectorAll("input:not([type=checkbox]):not([type=radio])")) {
    if (input.checkVisibility() && input.scrollWidth > input.clientWidth) found.push([input.value, "input"]);
  }
  return found;
}"""
# Before the page's modules: what they write on a canvas over its edge.
WATCH_CANVAS = """(() => {
  window.writtenOverTheEdge = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    const size = this.measureText(text);
    const [right, top] = [x + size.width, y - size.actualBoundingBoxAscent];
    const { clientWidth, clientHeight } = this.canvas;
    if (x < 0 || right > clientWidth || top < 0 || y + size.actualBoundingBoxDescent > clientHeight) {
      window.writtenOverTheEdge.push([text, x, right, top, clientWidth, clientHeight]);
    }
    write.call(this, text, x, y);
  };
})()"""
UNCUT = """table => table.querySelectorAll("td").forEach(cell => {
  cell.style.overflow = "visible";
  cell.style.textOverflow = "clip";
})"""
# Quantities of thirteen characters, prices of ten: more than there is room for at the usual size.
LONG_NUMBERS = """
[TEST-USD]
tick = "0.00000001"
lot = "0.00000001"
"""


@pytest.fixture(scope="module")
def trading_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a node with a book, trades, open orders and a peer."""
    nodes = Nodes(tmp_path_factory.mktemp("looks"))
    try:
        a, b = nodes.pair()
        for step in range(1, 9):
            a.sell(f"0.{step}", 30000 + step, market="BTC-USD")
            b.buy(f"0.{step}", 30000 - step, market="BTC-USD")
        b.buy("0.15", 30001, market="BTC-USD")
        b.buy("0.00123", 30001, market="BTC-USD")
        yield a.api_url
    finally:
        nodes.cleanup()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "light"),
        (1440, "dark"),
        pytest.param(360, "dark", marks=pytest.mark.long),
        pytest.param(1440, "light", marks=pytest.mark.long),
    ],
)
def test_views_fit_and_are_accessible(
    trading_node: str, pages: Pages, npm: Path, width: int, scheme: str, tmp_path: Path
) -> None:
    page = pages.open(trading_node, width=width, color_scheme=scheme)
    # By the debugger: the page's own policy, which stays in force, lets nothing in.
    axe = (npm / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
    page.evaluate(f"() => {{ {axe} }}")
    found: dict[str, Any] = {}
    for view, ready in VIEWS.items():
        page.evaluate("view => { location.hash = '#/' + view }", view)
        page.locator(ready).first.wait_for()
        page.wait_for_timeout(150)
        page.screenshot(path=tmp_path / f"{view.replace('/', '-')}.png", full_page=True)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found[f"{view} is wider than the window"] = width
        if cut := page.evaluate(CUT):
            found[f"{view} cuts"] = cut
        if violations := page.evaluate(AXE):
            found[view] = violations
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Help").wait_for()
    if violations := page.evaluate(AXE):
        found["help"] = violations
    assert not found, json.dumps(found, indent=1)


def pictures_with_and_without_cutting(page: Page, table: str) -> list[bytes]:
    """The rendered table as it is, and as it would be if nothing were cut."""
    found = page.locator(table)
    as_it_is = found.screenshot()
    found.evaluate(UNCUT)
    return [as_it_is, found.screenshot()]


@pytest.mark.parametrize("width", [360, 720, 1190, 1330, 1440, 1920])
def test_no_number_of_ladder_and_tape_is_cut(trading_node: str, pages: Pages, width: int) -> None:
    page = pages.open(
        trading_node, path="#/market/BTC-USD", width=width, height=1100, init=WATCH_CANVAS
    )
    page.locator(".ladder tr.sell:not(.void)").first.wait_for()
    page.locator(".tape tbody tr:not([hidden])").first.wait_for()
    page.wait_for_timeout(150)
    assert page.evaluate(CUT) == []
    assert page.evaluate("window.writtenOverTheEdge") == []
    for table in (".ladder table", ".tape table"):
        as_it_is, uncut = pictures_with_and_without_cutting(page, table)
        assert as_it_is == uncut, f"{table} at {width} pixels"


@pytest.mark.parametrize("width", [360, 1190, 1440])
def test_long_numbers_are_written_smaller_instead_of_cut(
    nodes: Nodes, pages: Pages, width: int
) -> None:
    file = nodes.directory / "long.toml"
    file.write_text(LONG_NUMBERS)
    node = nodes.start("a", INSTRUMENTS_FILE=str(file))
    node.sell("1234.12345678", "1.12345678")
    node.buy("1.00000001", "1.12345678")
    node.buy("1234.87654321", "0.97654321")
    page = pages.open(
        node.api_url, path="#/market/TEST-USD", width=width, height=1100, init=WATCH_CANVAS
    )
    page.locator(".ladder tr.mine").nth(1).wait_for()
    page.locator(".tape tbody tr:not([hidden])").first.wait_for()
    page.wait_for_timeout(150)
    assert page.evaluate(CUT) == []
    assert page.evaluate("window.writtenOverTheEdge") == []
    as_it_is, uncut = pictures_with_and_without_cutting(page, ".ladder table")
    assert as_it_is == uncut


def test_a_price_at_the_upper_edge_of_the_chart_is_left_out(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.sell("0.5", 30000, market="BTC-USD")
    node.buy("0.2", 30000, market="BTC-USD")  # alone, so that 30030 is at the edge
    page = pages.open(node.api_url, path="#/market/BTC-USD", init=WATCH_CANVAS)
    page.get_by_text("1 trade", exact=False).first.wait_for()
    page.wait_for_timeout(150)
    assert page.evaluate("window.writtenOverTheEdge") == []


def test_a_level_that_is_gone_leaves_no_mark(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path="#/market/BTC-USD")
    page.get_by_text("The book is empty").wait_for()
    table = page.locator(".ladder table tbody")
    empty = table.screenshot()
    node.sell("0.5", 30000, market="BTC-USD")
    page.locator(".ladder tr.mine:not(.void)").wait_for()
    assert table.screenshot() != empty
    node.cli("cancel", "1")
    page.get_by_text("The book is empty").wait_for()
    assert table.screenshot() == empty


def test_documents_and_dialogs_are_accessible(trading_node: str, pages: Pages, npm: Path) -> None:
    axe = (npm / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
    found: dict[str, Any] = {}
    docs = pages.open(trading_node, path="docs")
    docs.get_by_role("searchbox").fill("markets")
    page = pages.open(trading_node, path="#/market/BTC-USD")
    page.get_by_text("last 30001").wait_for()
    page.get_by_label("Price (USD)").fill("50000")
    page.get_by_label("Quantity (BTC)").fill("1")
    page.get_by_role("button", name="Buy 1 BTC").click()
    page.get_by_role("dialog").wait_for()
    signing = pages.open(trading_node, path="#/market/BTC-USD")
    signing.get_by_role("button", name="Use a key").click()
    signing.get_by_role("dialog", name="Sign in").wait_for()
    for name, each in {"docs": docs, "asking again": page, "sign in": signing}.items():
        each.evaluate(f"() => {{ {axe} }}")
        if violations := each.evaluate(AXE):
            found[name] = violations
    assert not found, json.dumps(found, indent=1)
