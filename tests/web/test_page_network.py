"""Peers, the map, feeds, services and decisions: as they change, from the node's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.views.node_views import CallRequest
from tests.integration.processes import NodeProcess, Nodes, eventually, run_cli, see_each_other

if TYPE_CHECKING:
    from tests.web.browser import Pages

# A request of the page for state that streams bring would be polling.
POLLED = ("/v1/status", "/v1/peers", "/v1/topology", "/v1/feeds", "/v1/services", "/v1/router")


def test_a_peer_is_connected_pinned_banned_and_taken_back(nodes: Nodes, pages: Pages) -> None:
    from tests.web.browser import until

    a, b = nodes.start("a"), nodes.start("b")
    page = pages.open(a.api_url, path="#/network")
    asked: list[str] = []
    page.on("request", lambda r: asked.append(f"{r.method} {r.url.partition('?')[0]}"))
    page.get_by_text("No peers yet.").wait_for()
    page.get_by_label("Address").fill(b.p2p_address)
    page.get_by_role("button", name="Connect").click()
    short = b.node_id[:8]
    row = page.locator(".sheet").get_by_role("row").filter(has_text=b.p2p_address)
    row.get_by_text("connected", exact=True).wait_for()
    row.get_by_role("cell", name="dialled", exact=True).wait_for()
    row.get_by_text("markets").wait_for()  # a service that it offers
    page.locator(".map circle.near").wait_for()

    row.get_by_role("button", name=f"pin {short}", exact=True).click()
    row.get_by_role("button", name=f"unpin {short}").wait_for()
    assert a.ask(lambda client: client.peer_policy()).pins == [b.node_id]
    row.get_by_role("button", name=f"unpin {short}").click()
    row.get_by_role("button", name=f"pin {short}", exact=True).wait_for()
    assert a.ask(lambda client: client.peer_policy()).pins == []

    row.get_by_role("button", name=f"ban {short}", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Ban it").click()
    row.get_by_role("button", name=f"unban {short}").wait_for()
    assert [ban.subject for ban in a.ask(lambda c: c.peer_policy()).bans] == [b.node_id]
    page.locator(".map circle.near").wait_for(state="detached")
    assert a.linked() == set()
    page.get_by_label("Address").fill(b.p2p_address)
    page.get_by_role("button", name="Connect").click()
    page.locator(".toast.bad").wait_for()
    row.get_by_role("button", name=f"unban {short}").click()
    row.get_by_role("button", name=f"ban {short}", exact=True).wait_for()
    until(page, lambda: a.ask(lambda client: client.peer_policy()).bans == [])
    page.get_by_role("button", name="Connect").click()
    row.get_by_text("connected", exact=True).wait_for()
    row.get_by_role("button", name=f"ping {short}").click()
    page.locator(".toast.good", has_text="answered in").wait_for()
    assert not [each for each in asked if each.startswith("GET") and each.endswith(POLLED)]
    pages.forgive("status of 502")


@pytest.mark.long
def test_a_command_and_the_page_change_the_same_policy(nodes: Nodes, pages: Pages) -> None:
    a, b = nodes.pair()
    page = pages.open(a.api_url, path="#/network")
    short = b.node_id[:8]
    page.get_by_role("button", name=f"pin {short}", exact=True).wait_for()
    done = run_cli("peers", "--pin", short, "--data-dir", str(a.data_dir))
    assert done.returncode == 0, done.stderr
    page.get_by_role("button", name=f"unpin {short}").wait_for()


def chain(nodes: Nodes) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """Three nodes in a row: the first and the last have no link."""
    alone = {"DISCOVERY_EXCHANGE": "false"}
    a = nodes.start("a", **alone)
    b = nodes.start("b", bootstrap=a.p2p_address, **alone)
    c = nodes.start("c", bootstrap=b.p2p_address, **alone)
    see_each_other(a, b, c)
    return a, b, c


def test_the_map_feeds_and_strategies_of_a_chain_while_it_changes(
    nodes: Nodes, pages: Pages
) -> None:
    a, b, c = chain(nodes)
    c.sell(3, 101)
    b.sell(2, 102)
    page = pages.open(a.api_url, path="#/network")
    page.locator(".map").get_by_text("Neighbours: 1. On the map: 3 nodes, 2 links.").wait_for()
    feeds = page.get_by_role("region", name="Feeds")
    far = feeds.get_by_role("row").filter(has_text=c.node_id[:8]).filter(has_text="TEST-USD")
    far.get_by_text("relayed by others").wait_for()
    far.get_by_text("up to date").wait_for()
    peers = page.get_by_role("region", name="Peers").get_by_role("row")
    (known,) = [p for p in a.ask(lambda client: client.peers()) if p.node_id == b.node_id]
    assert known.reputation is not None
    peers.filter(has_text=f"{b.node_id[:8]}connected").filter(has_text=known.reputation).wait_for()
    near = feeds.get_by_role("row").filter(has_text=b.node_id[:8]).filter(has_text="TEST-USD")
    near.get_by_text("direct link").wait_for()
    strategies = page.get_by_role("region", name="Discovery")
    strategies.get_by_role("row").filter(has_text="exchange").get_by_text("switched off").wait_for()
    # Whose orders are behind a level.
    page.goto(f"{a.api_url}/#/market/TEST-USD")
    page.locator(".ladder tr.sell:not(.void)").nth(1).wait_for()
    page.locator(".ladder tr.sell:not(.void)").last.hover()
    page.get_by_text(f"101: {c.node_id[:8]} 3").wait_for()
    # A link that goes is gone on the map, without a reload.
    page.goto(f"{a.api_url}/#/network")
    page.locator(".map circle.far").wait_for()
    b.stop()
    page.locator(".map").get_by_text("Neighbours: 0. On the map: 1 nodes, 0 links.").wait_for()
    b.restart(P2P_SHARE_LINKS="false")
    page.locator(".map").get_by_text("1 did not tell their links.").wait_for()


def test_services_show_window_rate_and_decisions_as_they_happen(nodes: Nodes, pages: Pages) -> None:
    a, b = nodes.pair()
    page = pages.open(a.api_url, path="#/services")
    page.get_by_text("This node has called no service yet").wait_for()
    request = CallRequest(payload={}, node=b.node_id)
    eventually(
        lambda: b.node_id in {n for s in a.ask(lambda c: c.services()) for n in s.nodes},
        what="b's services",
    )
    a.ask(lambda client: client.call_service("markets", CallRequest(payload={})))
    a.ask(lambda client: client.call_service("markets", request))
    chosen = page.get_by_role("region", name="How nodes are chosen")
    row = chosen.get_by_role("row").filter(has_text=b.node_id[:8])
    row.get_by_text("closed", exact=True).wait_for()
    assert row.locator("td").nth(7).inner_text() != "–"  # window
    assert row.locator("td").nth(8).inner_text().endswith("/s")  # rate
    decisions = page.get_by_role("region", name="Decisions")
    picks = decisions.get_by_role("row").filter(has_text="pick").filter(has_text="markets")
    picks.first.wait_for()
    before = picks.count()
    a.ask(lambda client: client.call_service("markets", CallRequest(payload={})))
    picks.nth(before).wait_for()
    page.get_by_label("which decisions").select_option("breaker")
    page.get_by_text("No decisions yet.").wait_for()
