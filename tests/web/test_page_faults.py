"""Banners: what is wrong is said, mended without a reload, and goes by itself."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.processes import Nodes
from tests.web.test_page_trading import MARKET, wait_for_book

if TYPE_CHECKING:
    from tests.web.browser import Pages

# The next change of the levels gets a wrong checksum on its way.
TAMPER = """
const Real = WebSocket;
window.tamper = false;
window.WebSocket = class extends Real {
  set onmessage(take) {
    super.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (!window.tamper || message.event !== "book_l2") return take(event);
      window.tamper = false;
      take({data: JSON.stringify({...message, checksum: message.checksum ^ 1})});
    };
  }
};
"""


def test_a_wrong_checksum_is_shown_and_the_book_reloaded(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.sell(3, 101)
    page = pages.open(node.api_url, path=MARKET, init=TAMPER)
    wait_for_book(page, node)
    page.evaluate("window.tamper = true")
    node.sell(2, 102)
    page.get_by_text("A book did not fit its checksum").wait_for()
    wait_for_book(page, node)
    page.get_by_text("A book did not fit its checksum").wait_for(state="detached")
    node.sell(1, 103)
    wait_for_book(page, node)


@pytest.mark.long
def test_a_suspended_node_is_reported_and_recovers(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    node.sell(3, 101)
    page = pages.open(node.api_url, path=MARKET)
    wait_for_book(page, node)
    node.send_signal(signal.SIGSTOP)
    page.locator("[data-trouble=stale], [data-trouble=away]").first.wait_for()
    assert page.get_by_role("button", name="Buy … TEST").is_disabled() or (
        page.locator("[data-trouble=stale]").count() > 0
    )
    node.send_signal(signal.SIGCONT)
    page.locator("[data-trouble]").first.wait_for(state="detached")
    node.sell(2, 102)
    wait_for_book(page, node)
    pages.forgive("WebSocket", "ERR_", "status of 5")


def test_a_wrong_clock_is_reported_until_it_is_right(nodes: Nodes, pages: Pages) -> None:
    node = nodes.start("a")
    page = pages.open(node.api_url, path=MARKET)
    page.get_by_text("No open orders.").wait_for()

    def late(route: Any) -> None:
        answer = route.fetch()
        said = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
        route.fulfill(response=answer, headers={**answer.headers, "date": said})

    page.route("**/v1/**", late)
    page.reload()
    page.get_by_text("This device's clock is 90 s behind the node's").wait_for()
    page.unroute_all()
    page.get_by_role("tab", name="Ledger").click()  # any request tells the time
    page.locator("[data-trouble=clock]").wait_for(state="detached")
