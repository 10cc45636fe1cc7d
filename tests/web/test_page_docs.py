"""The API's documents: search, copying, and examples that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from tests.web.browser import Pages


def test_the_documents_are_searched_copied_from_and_their_lines_run(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path="docs", permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("/")
    page.keyboard.type("submitOrder")
    page.keyboard.press("Control+a")
    page.keyboard.type("dead man")
    page.get_by_role("heading", name="/v1/orders/cancel-after").wait_for()
    assert page.get_by_role("heading", name="/v1/markets", exact=True).count() == 0
    page.get_by_role("button", name="copy the line for curl").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl -X POST")
    assert f"{node.api_url}/v1/orders/cancel-after" in copied

    page.get_by_role("searchbox").fill("GET /v1/markets")
    line = page.locator("section.operation:not([hidden]) .example pre").last.inner_text()
    said = page.evaluate(
        f"async () => {{ const lines = []; const console = {{log: (x) => lines.push(x)}}; {line}; return lines; }}"
    )
    assert said[0][0]["symbol"] == "BTC-USD"
