"""The API's documents: search, copying, and examples that run."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import urllib.error
from functools import partial
from typing import TYPE_CHECKING

from node.views.account_views import AccountRequest
from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from playwright.sync_api import Page

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


# What a line answers where it names something that this node does not have, or that was done before.
PROBLEMS = {
    "amendOrder": {"order_done"},
    "cancelOrder": {"order_done"},
    "createAccount": {"name_taken"},
    "withdraw": {"account_frozen"},
    "revokeKey": {"unknown_key"},
    "resumeMarket": {"not_halted"},
    "changeMarketSteps": {"same_steps"},
    "reconcile": {"unknown_node"},
    "settle": {"unknown_node"},
    "connectPeer": {"connect_failed"},
    "pingNode": {"unknown_node"},
    "getDeskStatus": {"no_desk"},
    "listDeskBalances": {"no_desk"},
    "listDeskOrders": {"no_desk"},
    "listDeskTrades": {"no_desk"},
    "listDeskObligations": {"no_desk"},
}
LINES = """() => [...document.querySelectorAll("section.operation")].map((section) => ({
  name: section.querySelector("h3").id,
  lines: Object.fromEntries([...section.querySelectorAll(".example")].map(
    (each) => [each.querySelector("b").textContent, each.querySelector("pre").textContent])),
}))"""


def in_a_shell(line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_python(line: str) -> str:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(line, {})
    except urllib.error.HTTPError as error:
        return error.read().decode()
    return printed.getvalue()


def in_javascript(page: Page, line: str) -> str:
    said = page.evaluate(
        f"async () => {{ const lines = []; const console = {{log: (x) => lines.push(x)}}; {line}; return lines; }}"
    )
    return json.dumps(said[0])


def test_every_line_of_the_documents_runs_in_its_language(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.ask(lambda client: client.create_account(AccountRequest(name="alice")))
    node.ask(lambda client: client.deposit("alice", "USD", "1000"))
    node.order("buy", "1", "29000", market="BTC-USD", client_id="my-order-1")
    page = pages.open(node.api_url, path="docs")
    operations = page.evaluate(LINES)
    assert len(operations) > 45
    runs = {
        "curl": in_a_shell,
        "Python": in_python,
        "JavaScript": partial(in_javascript, page),
    }
    for operation in operations:
        if operation["name"] == "openStream":
            continue
        assert set(operation["lines"]) == set(runs), operation
        for language, line in operation["lines"].items():
            # The address of the example is nobody's; a port that refuses says so sooner.
            said = json.loads(runs[language](line.replace("192.0.2.10:3000", "127.0.0.1:1")))
            if isinstance(said, dict) and "/docs#problem-" in str(said.get("type")):
                allowed = PROBLEMS.get(operation["name"], set())
                assert said["code"] in allowed, (operation["name"], language, said)
    (stream,) = [each["lines"] for each in operations if each["name"] == "openStream"]
    first = page.evaluate(
        f"() => new Promise((resolve) => {{ const console = {{log: resolve}}; {stream['JavaScript']}; }})"
    )
    assert json.loads(first)["event"] == "subscribed"
    pages.forgive("status of 4", "status of 502")
