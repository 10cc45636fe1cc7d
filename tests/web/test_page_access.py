"""Signing in, what a key may see, and pages of other origins."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.api.openapi import document
from node.views.account_views import AccountRequest
from node.views.worker_messages import WORKER_PATH
from tests.integration.processes import NodeProcess, Nodes, run_cli

if TYPE_CHECKING:
    from tests.web.browser import Pages

# The other dialect's routes, of which every one is asked for below.
BITFINEX_READ = (
    "platform/status",
    "conf/pub:list:pair:exchange",
    "tickers?symbols=ALL",
    "tickers/hist?symbols=ALL",
    "ticker/tBTCUSD",
    "trades/tBTCUSD/hist",
    "book/tBTCUSD/P0",
    "candles/trade:1m:tBTCUSD/hist",
)
BITFINEX_POST = (
    "calc/trade/avg",
    "calc/fx",
    "auth/r/orders",
    "auth/r/wallets",
    "auth/w/token",
    "auth/w/order/submit",
    "auth/w/order/update",
    "auth/w/order/cancel",
    "auth/w/order/cancel/multi",
    "auth/w/order/multi",
)
OTHER_PAGE = "<!doctype html><title>elsewhere</title><p>another origin"


def operator(node: NodeProcess) -> str:
    """The operator's credentials of this run."""
    return f"operator:{json.loads(node.runtime_path.read_text())['operator_token']}"


def account_with_keys(node: NodeProcess) -> dict[str, str]:
    """An account with money and a key of each kind, made before keys are required."""
    node.ask(lambda client: client.create_account(AccountRequest(name="alice")))
    node.ask(lambda client: client.deposit("alice", "USD", "1000"))
    all_of_it = node.ask(lambda client: client.create_key("alice"))
    reader = node.ask(lambda client: client.create_key("alice", permissions=("read",)))
    return {name: f"{k.key}:{k.secret}" for name, k in (("all", all_of_it), ("read", reader))}


@pytest.fixture
def guarded(nodes: Nodes) -> tuple[NodeProcess, dict[str, str]]:
    """A node that requires keys, and the keys."""
    node = nodes.start("a")
    keys = account_with_keys(node)
    node.stop()
    node.restart(API_AUTH="required")
    return node, keys


def test_signing_in_and_its_refusals(
    guarded: tuple[NodeProcess, dict[str, str]], pages: Pages
) -> None:
    node, keys = guarded
    page = pages.open(node.api_url, path="#/market/TEST-USD")
    dialog = page.get_by_role("dialog", name="Sign in")
    entry = dialog.get_by_label("Key and secret")
    entry.fill("no colon")
    dialog.get_by_role("button", name="Sign in").click()
    dialog.get_by_text("Type the key, a colon and the secret").wait_for()
    secret = keys["all"].partition(":")[2]
    entry.fill(f"{keys['all'].partition(':')[0]}:wrong{secret[5:]}")
    dialog.get_by_role("button", name="Sign in").click()
    dialog.get_by_text("(bad_key)").wait_for()
    dialog.get_by_label("Key and secret").fill(keys["all"])
    dialog.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()
    page.get_by_text("alice", exact=True).first.wait_for()
    ticket = page.locator(".ticket")
    ticket.get_by_label("Price (USD)").fill("10")
    ticket.get_by_label("Quantity (TEST)").fill("5")
    ticket.get_by_text("50 USD", exact=True).wait_for()  # held
    ticket.get_by_text("0 TEST, 950 USD").wait_for()  # available after
    assert page.get_by_role("link", name="Accounts").count() == 0
    assert secret not in page.url
    assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
    page.reload()
    page.get_by_role("button", name="Sign out").click()
    page.locator(".ticket").wait_for(state="detached")
    page.locator(".ladder").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    pages.forgive("status of 401")


def test_a_key_that_may_not_trade_sees_no_ticket(
    guarded: tuple[NodeProcess, dict[str, str]], pages: Pages
) -> None:
    node, keys = guarded
    page = pages.open(node.api_url, path="#/market/TEST-USD")
    page.get_by_role("dialog").get_by_label("Key and secret").fill(keys["read"])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()
    page.get_by_role("tab", name="Balances").click()
    page.get_by_role("row", name="USD 1000 0 1000").wait_for()
    assert page.locator(".ticket").count() == 0
    assert page.get_by_role("button", name="Cancel all").count() == 0
    page.goto(f"{node.api_url}/#/accounts")
    page.get_by_role("link", name="Market", exact=True).wait_for()
    assert page.get_by_role("button", name="Create account").count() == 0


def test_the_operators_token_gives_the_operators_page(
    guarded: tuple[NodeProcess, dict[str, str]], pages: Pages
) -> None:
    node, _ = guarded
    page = pages.open(node.api_url, path="#/accounts")
    page.get_by_role("dialog").get_by_label("Key and secret").fill(operator(node))
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Accounts").click()
    page.get_by_role("button", name="freeze alice").wait_for()
    page.get_by_label("account", exact=True).select_option(label="alice")
    page.get_by_label("Amount").fill("25")
    page.get_by_role("button", name="Deposit").click()
    page.get_by_role("row", name="USD 1025 0 1025").wait_for()
    page.get_by_role("button", name="Make a key").click()
    shown = page.get_by_role("dialog").locator("code.secret")
    key, _, secret = shown.inner_text().partition(":")
    assert len(key) > 10
    assert len(secret) > 20
    page.get_by_role("button", name="I have it").click()
    assert secret not in page.content()


def test_over_tls_the_operator_signs_in_and_trades(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a", API_AUTH="required", API_TLS_SELF_SIGNED="true")
    assert node.api_url.startswith("https://")
    page = pages.open(node.api_url, path="#/market/TEST-USD", ignore_https_errors=True)
    page.get_by_role("dialog").get_by_label("Key and secret").fill(operator(node))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()
    page.get_by_label("Price (USD)").fill("10")
    page.get_by_label("Quantity (TEST)").fill("5")
    page.get_by_role("button", name="Buy 5 TEST").click()
    page.get_by_role("button", name="price of order 1: 10; amend").wait_for()


def test_the_command_that_opens_the_page_prints_where_it_is(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    said = run_cli("open", "--print", "--data-dir", str(node.data_dir)).stdout.strip()
    assert said in node.log  # as the start has printed it
    page = pages.open(said.rstrip("/"))
    page.locator(".ladder").wait_for()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The URL of a page of another origin on this machine."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(OTHER_PAGE)
    handler = partial(_Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


TRY = """async ([url, routes, sockets]) => {
  const leaks = [];
  for (const [method, path] of routes) {
    for (const mode of ["cors", "no-cors"]) {
      if (mode === "no-cors" && !["GET", "POST"].includes(method)) continue;
      try {
        const body = method === "GET" ? undefined : '{"market":"TEST-USD","side":"buy","quantity":"1","price":"1"}';
        const type = mode === "cors" ? "application/json" : "text/plain";
        const answer = await fetch(url + path, {method, mode, body, headers: body ? {"Content-Type": type} : {}});
        if (answer.type !== "opaque") leaks.push([method, path, mode, answer.status]);
      } catch {}
    }
  }
  for (const path of sockets) {
    const opened = await new Promise((resolve) => {
      const socket = new WebSocket(url.replace("http", "ws") + path);
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    });
    if (opened) leaks.push(["WebSocket", path]);
  }
  const framed = await new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => { try { resolve(frame.contentDocument !== null); } catch { resolve(false); } };
    frame.src = url + "/";
    document.body.append(frame);
    setTimeout(() => resolve(false), 1000);
  });
  if (framed) leaks.push(["frame", "/"]);
  return leaks;
}"""


def test_a_page_of_another_origin_can_neither_read_nor_trade(
    nodes: Nodes, pages: Pages, elsewhere: str
) -> None:
    node = nodes.start("a")
    described = document()["paths"]
    routes = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in described.items()
        for method in methods
    ]
    routes += [("GET", path) for path in ("/", "/web/app.js", "/docs", "/metrics", "/openapi.json")]
    routes += [("GET", f"/v2/{path}") for path in BITFINEX_READ]
    routes += [("POST", f"/v2/{path}") for path in BITFINEX_POST]
    page = pages.open(elsewhere)
    assert page.evaluate(TRY, [node.api_url, routes, ["/v1/stream", "/ws/2", WORKER_PATH]]) == []
    assert node.orders(open_only=False) == []
    pages.faults.clear()  # each of these refusals is an error in the console of the other page
