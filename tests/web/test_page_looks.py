"""Every view, wide and narrow, light and dark: nothing overflows, and axe finds nothing serious."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.processes import Nodes

if TYPE_CHECKING:
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
        if violations := page.evaluate(AXE):
            found[view] = violations
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Help").wait_for()
    if violations := page.evaluate(AXE):
        found["help"] = violations
    assert not found, json.dumps(found, indent=1)


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
