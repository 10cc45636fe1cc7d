"""Trading from the page: real nodes, a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.integration.processes import NodeProcess, Nodes, eventually, see_each_other

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.browser import Pages

MARKET = "#/market/TEST-USD"


def shown_book(page: Page) -> list[tuple[str, str]]:
    """Prices and quantities of the ladder, from top to bottom."""
    rows = page.locator(".ladder tr[data-side]:not(.void)")
    found: list[tuple[str, str]] = rows.evaluate_all(
        "rows => rows.map(r => [r.children[0].textContent, r.children[1].textContent])"
    )
    return [tuple(row) for row in found]  # type: ignore[misc]


def book_of(node: NodeProcess) -> list[tuple[str, str]]:
    """The same from the node's REST API."""
    book = node.book("TEST-USD")
    levels = [*reversed(book.asks), *book.bids]
    return [(f"{level.price}.00", level.quantity) for level in levels]


def wait_for_book(page: Page, node: NodeProcess) -> None:
    for _ in range(200):
        if shown_book(page) == book_of(node):
            return
        page.wait_for_timeout(50)
    assert shown_book(page) == book_of(node)


def order(page: Page, side: str, quantity: str, price: str) -> None:
    """An order by keyboard alone, once the page knows the market."""
    page.locator("button.send:not([disabled])").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("b" if side == "buy" else "s")
    page.keyboard.press("Control+a")
    page.keyboard.type(quantity)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type(price)
    page.keyboard.press("Enter")


def test_two_pages_on_two_nodes_trade_with_each_other(nodes: Nodes, pages: Pages) -> None:
    a, b = nodes.pair()
    one, two = pages.open(a.api_url, path=MARKET), pages.open(b.api_url, path=MARKET)
    one.get_by_text("No open orders.").wait_for()
    order(one, "sell", "5", "100")
    one.get_by_role("button", name="price of order 1: 100; amend").wait_for()
    wait_for_book(two, b)
    two.locator(".ladder tr.sell:not(.void) button.level").click()
    assert two.get_by_label("Price (USD)").input_value() == "100"
    two.get_by_label("Quantity (TEST)").fill("2")
    two.get_by_text(f"{a.node_id[:8]} 2 TEST").wait_for()  # whose orders it would take
    two.get_by_role("button", name="Buy 2 TEST").click()
    two.locator(".toast.good", has_text="filled").wait_for()
    one.locator(".tape tr:not([hidden])", has_text="100.00").first.wait_for()
    wait_for_book(one, a)
    wait_for_book(two, b)
    assert [fill.quantity for fill in eventually(a.fills)] == ["2"]
    one.get_by_role("tab", name="Fills").click()
    one.get_by_role("row", name="sell 2 100 0 maker").wait_for()


def test_amend_cancel_stop_and_pair(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_text("No open orders.").wait_for()
    order(page, "buy", "5", "90")
    page.get_by_role("button", name="quantity of order 1: 5; amend").click()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="quantity of order 1: 3; amend").wait_for()
    page.get_by_role("button", name="price of order 1: 90; amend").click()
    page.keyboard.type("95")
    page.keyboard.press("Escape")
    assert node.orders()[0].price == "90"

    ticket = page.locator(".ticket")
    ticket.get_by_label("Order type").select_option("stop")
    ticket.get_by_label("Sell", exact=True).check()
    ticket.get_by_label("Stop (USD)").fill("80")
    ticket.get_by_label("Quantity (TEST)").fill("1")
    ticket.get_by_role("button", name="Sell 1 TEST").click()
    page.get_by_role("dialog").get_by_role("button", name="Send it").click()
    page.get_by_role("row", name="waits for its stop").wait_for()

    ticket.get_by_label("Order type").select_option("oco")
    ticket.get_by_label("Price (USD)").fill("120")
    ticket.get_by_label("Stop of the second order (USD)").fill("85")
    ticket.get_by_role("button", name="Sell 1 TEST").click()
    page.get_by_role("dialog").get_by_role("button", name="Send it").click()
    page.get_by_role("tab", name="Open orders (4)").wait_for()
    assert sorted(o.type for o in node.orders()) == ["limit", "limit", "stop", "stop"]

    ticket.get_by_label("Order type").select_option("trailing_stop")
    ticket.get_by_label("Distance (USD)").fill("10")
    ticket.get_by_label("Stop (USD), optional").fill("70")
    ticket.get_by_role("button", name="Sell 1 TEST").click()
    page.get_by_role("dialog").get_by_role("button", name="Send it").click()
    page.get_by_role("button", name="stop of order 5: 70, trails by 10; amend").click()
    page.keyboard.type("12")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="trails by 12; amend").wait_for()

    page.get_by_role("button", name="cancel order 1").click()
    page.get_by_role("tab", name="Open orders (4)").wait_for()
    page.get_by_role("button", name="Cancel all").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel them").click()
    page.get_by_text("No open orders.").wait_for()
    assert node.orders() == []


def test_a_killed_node_comes_back_without_a_reload(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    for price in range(100, 110):
        node.sell(3, price)
    page = pages.open(node.api_url, path=MARKET)
    wait_for_book(page, node)
    page.evaluate("window.notReloaded = true")
    node.kill9()
    page.get_by_text("The node is away").wait_for()
    assert page.get_by_role("button", name="Buy … TEST").is_disabled()
    node.restart()
    node.buy(2, 100)
    page.get_by_text("The node is away").wait_for(state="detached")
    wait_for_book(page, node)
    assert shown_book(page)[-1] == ("100.00", "1")
    assert page.evaluate("window.notReloaded") is True
    order(page, "buy", "1", "100")
    page.locator(".toast.good", has_text="filled").wait_for()
    pages.forgive("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "WebSocket connection", "status of 503")


def test_a_lost_answer_is_looked_up_and_the_order_is_placed_once(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_text("No open orders.").wait_for()
    sent: list[Any] = []

    def lose(route: Any) -> None:
        """Let the node have the request, and the page no answer."""
        sent.append(route.request.post_data_json["client_id"])
        route.fetch()
        route.abort("connectionreset")

    page.route("**/v1/orders", lose)
    order(page, "buy", "5", "90")
    page.locator(".ticket .status", has_text="Order 1: buy 5 TEST-USD").wait_for()
    assert len(sent) == 1
    assert [o.client_id for o in node.orders()] == sent
    pages.forgive("ERR_CONNECTION_RESET")


def test_a_lost_answer_is_looked_up_after_a_reload_and_never_sent_again(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_text("No open orders.").wait_for()
    sent: list[str] = []

    def lose(route: Any) -> None:
        """Let the node have the request, and the page no answer for as long as it is open."""
        sent.append(route.request.post_data_json["client_id"])
        route.fetch()

    page.route("**/v1/orders", lose)
    order(page, "buy", "5", "90")
    page.get_by_text("Sending").wait_for()
    eventually(lambda: len(node.orders()) == 1)
    page.reload()
    page.locator(".toast.good", has_text="Order 1: buy 5 TEST-USD").wait_for()
    assert [o.client_id for o in node.orders()] == sent
    assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"
    # One that never reached the node: it says so, and sends nothing.
    page.unroute("**/v1/orders")
    page.route("**/v1/orders**", lambda route: route.abort("connectionreset"))
    page.route("**/v1/orders/**", lambda route: route.abort("connectionreset"))
    order(page, "buy", "7", "90")
    page.get_by_text("Looking the order up").wait_for()
    page.unroute_all()
    page.reload()
    page.locator(".toast.bad", has_text="the node does not have this order").wait_for()
    assert len(node.orders(open_only=False)) == 1
    assert len(sent) == 1
    pages.forgive("status of 404", "ERR_CONNECTION_RESET")


def test_from_start_to_the_first_trade_with_nothing_but_the_pages(
    nodes: Nodes, pages: Pages
) -> None:
    a = nodes.start("a")
    b = nodes.start("b")
    one, two = pages.open(a.api_url), pages.open(b.api_url)
    two.get_by_role("link", name="Network").click()
    two.get_by_label("Address").fill(a.p2p_address)
    two.get_by_role("button", name="Connect").click()
    two.locator(".toast.good").wait_for()
    see_each_other(a, b)
    for page in (one, two):
        page.get_by_role("link", name="TEST-USD").click()
    one.get_by_text("No open orders.").wait_for()
    order(one, "sell", "5", "100")
    level = two.locator(".ladder tr.sell:not(.void) button.level")
    level.wait_for()
    order(two, "buy", "5", "100")
    two.get_by_role("dialog").get_by_text("more than half of what the other side shows").wait_for()
    two.keyboard.press("Tab")
    two.keyboard.press("Enter")
    one.get_by_text("No open orders.").wait_for()
    assert [fill.counterparty for fill in eventually(b.fills)] == [a.node_id]
