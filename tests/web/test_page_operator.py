"""The operator's work on the page: accounts, money, keys, halts, fees, the dead man's switch, payments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from node.views.account_views import AccountRequest
from tests.integration.processes import Nodes, eventually, run_cli
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.web.browser import Pages

MARKET = "#/market/TEST-USD"


def confirm(page: Page, yes: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=yes).click()


def test_an_account_is_made_paid_given_keys_frozen_and_paid_out(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path="#/accounts")
    page.get_by_label("Name").fill("bob")
    page.get_by_role("button", name="Create account").click()
    page.get_by_role("button", name="freeze bob", exact=True).wait_for()
    page.get_by_label("account", exact=True).select_option(label="bob")
    page.get_by_label("Amount").fill("100")
    page.get_by_label("Note").fill("first")
    page.get_by_role("button", name="Deposit").click()
    page.get_by_role("row", name="USD 100 0 100").wait_for()
    page.get_by_label("Amount").fill("1000")
    page.get_by_role("button", name="Withdraw").click()
    page.locator(".toast.bad").wait_for()  # more than there is
    page.get_by_label("Amount").fill("30")
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_role("row", name="USD 70 0 70").wait_for()

    page.get_by_label("Label").fill("bot")
    page.get_by_label("May").select_option("read")
    page.get_by_role("button", name="Make a key").click()
    shown = page.get_by_role("dialog").locator("code.secret").inner_text()
    confirm(page, "I have it")
    (key,) = node.ask(lambda client: client.keys("bob"))
    assert (f"{key.key}:" in shown, key.permissions, key.label) == (True, ["read"], "bot")
    page.get_by_role("button", name="revoke bot").click()
    confirm(page, "Revoke it")
    page.get_by_text("revoked", exact=True).wait_for()
    assert node.ask(lambda client: client.keys("bob"))[0].revoked is not None

    page.get_by_role("button", name="freeze bob", exact=True).click()
    page.get_by_role("button", name="unfreeze bob").wait_for()
    page.get_by_role("button", name="unfreeze bob").click()
    page.get_by_role("button", name="freeze bob", exact=True).wait_for()
    fees = page.get_by_role("region", name="Fees")
    fees.get_by_role("row").filter(has_text="TEST-USD").wait_for()
    pages.forgive("status of 4")


def test_a_halt_closes_the_ticket_of_every_page_until_it_is_lifted(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    page, other = pages.open(node.api_url, path="#/accounts"), pages.open(node.api_url, path=MARKET)
    other.get_by_label("Quantity (TEST)").fill("1")
    page.get_by_role("button", name="halt TEST-USD").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("prices in doubt")
    confirm(page, "Halt it")
    other.get_by_text("TEST-USD is halted: prices in doubt").wait_for()
    assert other.get_by_role("button", name="Buy 1 TEST").is_disabled()
    page.get_by_role("button", name="resume TEST-USD").click()
    other.get_by_text("TEST-USD is halted").wait_for(state="hidden")
    other.locator("button.send:not([disabled])").wait_for()


def test_the_dead_mans_switch_cancels_when_the_page_is_gone(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.buy(1, 90)
    page = pages.open(node.api_url, path=MARKET)
    # The node's shortest time instead of the page's minute; what the page sends is its own otherwise.
    page.route(
        "**/v1/orders/cancel-after",
        lambda route: route.continue_(post_data='{"timeout_ms": 1000}'),
    )
    page.get_by_label("Dead man's switch").check()
    page.locator(".toast", has_text="silent for 60 s").wait_for()
    page.close()
    eventually(lambda: node.orders() == [], what="the orders to be cancelled")
    (order,) = node.orders(open_only=False)
    assert order.status == "cancelled"


def test_the_operator_trades_for_an_account_with_fees_and_a_ledger(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    node.ask(lambda client: client.create_account(AccountRequest(name="alice")))
    node.ask(lambda client: client.deposit("alice", "USD", "1000"))
    node.sell(5, 100)
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_label("act for account").select_option("alice")
    page.get_by_role("tab", name="Balances").click()
    page.get_by_role("row", name="USD 1000 0 1000").wait_for()
    page.get_by_label("Price (USD)").fill("100")
    page.get_by_label("Quantity (TEST)").fill("2")
    page.get_by_text("200 USD", exact=True).wait_for()  # held
    page.get_by_text("0.004 TEST", exact=True).wait_for()  # fee
    page.get_by_text("1.996 TEST, 800 USD").wait_for()  # afterwards
    page.get_by_role("button", name="Buy 2 TEST").click()
    page.locator(".toast.good", has_text="filled").wait_for()
    page.get_by_role("row", name="USD 800 0 800").wait_for()
    page.get_by_role("row", name="TEST 1.996 0 1.996").wait_for()
    page.get_by_role("tab", name="Fills").click()
    page.get_by_role("row", name="buy 2 100").wait_for()
    page.get_by_role("tab", name="Ledger").click()
    page.get_by_role("row", name="deposit").first.wait_for()
    page.get_by_role("tab", name="Order history").click()
    page.get_by_role("row", name="limit 100").wait_for()


def test_a_far_price_and_a_size_beyond_the_book_need_confirmation_and_back_sends_nothing(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    node.sell(2, 100)
    node.buy(1, 100)
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_text("last 100").wait_for()
    page.get_by_label("Price (USD)").fill("120")
    page.get_by_label("Quantity (TEST)").fill("1")
    page.get_by_role("button", name="Buy 1 TEST").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("the price 120 is more than 5 % from 100").wait_for()
    dialog.get_by_text("more than half of what the other side shows").wait_for()
    dialog.get_by_role("button", name="Back").click()
    assert len(node.orders(open_only=False)) == 2
    page.get_by_role("button", name="Buy 1 TEST").click()
    confirm(page, "Send it")
    page.locator(".toast.good", has_text="filled").wait_for()


def test_positions_payments_limits_and_reconciliation(nodes: Nodes, pages: Pages) -> None:
    a, b = nodes.pair()
    a.sell(5, 100)
    page = pages.open(a.api_url, path="#/between")
    eventually(lambda: b.asks() == {"100": "5"}, what="the book")
    b.buy(2, 100)
    short = b.node_id[:8]
    page.get_by_role("button", name=f"reconcile with {short}").first.click()
    page.get_by_text("both agree").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the statements").click()
    checked = run_cli("ledger", "verify", str(saved.value.path()))
    assert checked.returncode == 0, checked.stderr
    payments = page.get_by_role("region", name="Payments that even them out")
    payments.get_by_role("row").filter(has_text="collect 200 USD").wait_for()
    page.get_by_role("button", name="record it: the payment").filter(has_text="Record").last.click()
    confirm(page, "Record it")
    page.locator(".toast.good", has_text="Recorded").wait_for()
    limits = page.get_by_role("region", name="Credit limits")
    limits.get_by_label("Asset").select_option("USD")
    limits.get_by_label("May come to owe").fill("500")
    limits.get_by_role("button", name="Set limit").click()
    limits.get_by_role("row").filter(has_text="500").wait_for()


def test_the_health_view_has_each_export(nodes: Nodes, pages: Pages) -> None:
    url = f"nats://127.0.0.1:{free_port()}"  # where no server is
    node = nodes.start("a", EXPORT_NATS=url)
    node.sell(5, 100)
    page = pages.open(node.api_url, path="#/health")
    for sink in ("nats-copy", "nats-market"):
        page.get_by_text(f"Export to {sink}").wait_for()
    page.get_by_text(re.compile(r"^away, [1-9]\d* commits behind$")).first.wait_for()
    page.get_by_text(re.compile("^export: NATS: ")).first.wait_for()


def test_the_desk_view_has_all_own_nodes_and_names_those_that_do_not_answer(
    nodes: Nodes, pages: Pages, tmp_path: Path
) -> None:
    page = pages.open(nodes.start("c").api_url, path="#/desk")
    page.get_by_text("DESK_PROFILE=FILE").wait_for()  # without one it says how

    profile = tmp_path / "desk.toml"
    entries = "".join(f'[[node]]\ndata_dir = "{tmp_path / name}"\n' for name in ("a", "b", "away"))
    profile.write_text(entries)
    a = nodes.start("a", DESK_PROFILE=str(profile))
    b = nodes.start("b", bootstrap=a.p2p_address)
    a.sell(3, 100)
    eventually(lambda: "100" in b.asks())
    bought = b.buy(1, 100)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    page = pages.open(a.api_url, path="#/desk")
    own = page.get_by_role("region", name="Nodes")
    own.get_by_role("row").filter(has_text="no node runs on").wait_for()
    assert own.get_by_role("row").count() == 4
    page.get_by_role("region", name="Trades").get_by_role("row").filter(has_text="(own)").wait_for()
    balances = page.get_by_role("region", name="Balances")
    balances.get_by_role("row", name="TEST all 0 0 0").wait_for()
    orders = page.get_by_role("region", name="Open orders").get_by_role("row")
    assert "a TEST-USD sell" in orders.nth(1).inner_text().replace("\t", " ")
    page.get_by_text("Nothing is open with nodes outside.").wait_for()


def test_the_address_names_the_account_that_the_operator_acts_for(
    nodes: Nodes, pages: Pages
) -> None:
    node = nodes.start("a")
    node.cli("account", "create", "you")
    node.cli("account", "deposit", "you", "1000", "USD")
    page = pages.open(node.api_url, path="#/market/TEST-USD/you")
    page.get_by_label("Price (USD)").fill("100")
    page.get_by_label("Quantity (TEST)").fill("1")
    page.get_by_role("button", name="Buy 1 TEST").click()
    page.locator(".toast.good").wait_for()
    assert len(node.cli("orders", "--account", "you")) == 1
    assert node.orders() == []
    assert page.get_by_label("act for account").input_value() == "you"
    other = pages.open(node.api_url, path="#/market/TEST-USD/nobody-here")
    other.locator("button.send:not([disabled])").wait_for()
    assert other.get_by_label("act for account").input_value() == ""
