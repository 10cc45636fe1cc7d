"""Two nodes find each other, by a bootstrap address or by mDNS alone, and trade."""

from __future__ import annotations

import asyncio
import secrets
import signal
from decimal import Decimal

import pytest
from netns import Namespace
from processes import (
    MARKET,
    Nodes,
    eventually,
    in_both_modes,
    same_books,
    see_each_other,
    trade_ids,
)

from node.client.exchange_client import ApiError, ClientError
from node.client.streaming_client import StreamingClient
from node.views.views import AmendRequest, OrderRequest


@in_both_modes
def test_an_order_on_one_node_fills_an_order_on_the_other(nodes: Nodes) -> None:
    a, b = nodes.pair()
    assert a.linked() == {b.node_id}
    assert b.linked() == {a.node_id}
    sold = a.sell(5, "10.00")
    a.sell(1, "11.00")
    b.buy(2, "9.00")
    same_books(a, b)
    bought = b.buy(3, "10.50")
    done = eventually(lambda: (o := b.get_order(bought.id)).status == "filled" and o)
    assert Decimal(done.average_price or 0) == 10  # the maker's price, not the taker's

    (taken,), (given,) = b.fills(), eventually(a.fills)
    assert trade_ids([taken]) == trade_ids([given])
    assert (taken.role, taken.side, taken.quantity) == ("taker", "buy", "3")
    assert (given.role, given.side, given.quantity) == ("maker", "sell", "3")
    assert (taken.order_id, taken.counterparty_order_id) == (bought.id, sold.id)
    assert (given.order_id, given.counterparty_order_id) == (sold.id, bought.id)
    rest = a.get_order(sold.id)
    assert (rest.filled, rest.remaining, rest.status) == ("3", "2", "open")

    book = same_books(a, b)
    assert [(level.price, level.quantity) for level in book.asks] == [("10", "2"), ("11", "1")]
    assert [(level.price, level.quantity) for level in book.bids] == [("9", "2")]
    assert [t.id for t in a.trades()] == [t.id for t in b.trades()] == [taken.id]
    assert a.status().pending_takes == b.status().pending_takes == 0


def test_an_order_that_takes_from_another_node_is_answered_as_filled(nodes: Nodes) -> None:
    a, b = nodes.pair(TAKE_ANSWER_WAIT="5000")
    for quantity in ("1", "2"):
        a.sell(quantity, "10.00")
        eventually(lambda quantity=quantity: b.asks() == {"10": quantity})
        request = OrderRequest(market=MARKET, side="buy", quantity=quantity, price="10")
        bought = b.ask(lambda client, request=request: client.submit(request, wait_for_takes=True))
        assert (bought.status, bought.filled, bought.pending) == ("filled", quantity, "0")


def test_an_order_is_answered_as_pending_when_the_other_node_does_not_answer(nodes: Nodes) -> None:
    a, b = nodes.pair(TAKE_ANSWER_WAIT="100")
    a.sell(1, 10)
    eventually(lambda: b.asks() == {"10": "1"})
    a.send_signal(signal.SIGSTOP)
    try:
        request = OrderRequest(market=MARKET, side="buy", quantity="1", price="10")
        bought = b.ask(lambda client: client.submit(request, wait_for_takes=True))
        assert (bought.status, bought.filled, bought.pending) == ("pending", "0", "1")
    finally:
        a.send_signal(signal.SIGCONT)
    eventually(lambda: b.get_order(bought.id).status == "filled")


async def test_orders_over_the_stream_between_two_nodes(nodes: Nodes) -> None:
    a, b = await asyncio.to_thread(nodes.pair, TAKE_ANSWER_WAIT="5000")

    async def offered(quantity: str) -> None:
        await asyncio.to_thread(a.sell, quantity, "10.00")
        await asyncio.to_thread(eventually, lambda: b.asks() == {"10": quantity})

    async with StreamingClient(b.api_url, node_id=b.node_id, patience=0) as client:
        await offered("2")
        request = OrderRequest(market=MARKET, side="buy", quantity="2", price="10")
        placed = await client.submit(request)
        assert (placed.decided, placed.order.pending) == (False, "2")
        (order,) = await placed.outcome()
        assert (order.id, order.status, order.filled) == (placed.order.id, "filled", "2")
        await offered("1")
        request = OrderRequest(market=MARKET, side="buy", quantity="1", price="10")
        placed = await client.submit(request, wait_for_takes=True)
        assert (placed.decided, placed.order.status) == (True, "filled")
        await offered("3")
        batch = client.batch()
        batch.submit(OrderRequest(market=MARKET, side="buy", quantity="1", price="9"))
        batch.submit(OrderRequest(market=MARKET, side="buy", quantity="3", price="10"))
        resting, taking = await batch.send()
        assert not isinstance(resting, ApiError)
        assert not isinstance(taking, ApiError)
        assert resting.decided
        (order,) = await taking.outcome()
        assert (order.status, order.filled) == ("filled", "3")
        await asyncio.to_thread(b.kill9)
        with pytest.raises(ClientError):
            async with asyncio.timeout(10):
                await client.amend(resting.order.id, AmendRequest(price="8"))
    await asyncio.to_thread(b.restart)
    assert (await asyncio.to_thread(b.get_order, resting.order.id)).status == "open"


def test_the_walk_through_by_command_line(nodes: Nodes) -> None:
    a, b = nodes.pair()
    placed = a.cli("order", "sell", "BTC-USD", "0.5", "@", "30000")
    eventually(lambda: b.asks("BTC-USD"))
    bought = b.cli("order", "buy", "BTC-USD", "0.2")
    eventually(lambda: b.get_order(bought["id"]).status == "filled")
    (trade,) = b.cli("trades")
    assert (Decimal(trade["price"]), Decimal(trade["quantity"])) == (30000, Decimal("0.2"))
    (order,) = a.cli("orders")
    assert (order["id"], Decimal(order["remaining"])) == (placed["id"], Decimal("0.3"))
    assert "30000" in b.cli("book", "BTC-USD", json_output=False)
    assert [p["node_id"] for p in b.cli("peers") if p["status"] == "connected"] == [a.node_id]
    assert b.cli("ping", a.node_id[:8])["way"] == "direct"
    assert a.cli("cancel", placed["id"])["status"] == "cancelled"
    eventually(lambda: b.asks("BTC-USD") == {})


def test_links_are_encrypted_by_default_and_a_warning_follows_otherwise(nodes: Nodes) -> None:
    a, _ = nodes.pair()
    assert [p.encrypted for p in a.peers()] == [True]
    c = nodes.start("c", P2P_SECURITY="off")
    d = nodes.start("d", bootstrap=c.p2p_address, P2P_SECURITY="off")
    see_each_other(c, d)
    assert [p.encrypted for p in c.peers()] == [False]
    c.sell(1, 7)
    eventually(d.asks)
    assert d.buy(1, 7).quantity == "1"
    eventually(c.fills)


def test_two_nodes_find_each_other_by_mdns_alone_on_loopback(nodes: Nodes) -> None:
    network = f"mdns-{secrets.token_hex(6)}"
    mdns = {"DISCOVERY_MDNS": "true", "DISCOVERY_EXCHANGE": "false", "P2P_NETWORK": network}
    a = nodes.make("a", **mdns).launch()
    b = nodes.make("b", **mdns).launch()
    for node in (a, b):
        node.ready()
    see_each_other(a, b)
    assert "mdns" in {p.source for p in (*a.peers(), *b.peers())}
    a.sell(4, 25)
    eventually(b.asks)
    bought = b.buy(4, 25)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    eventually(lambda: trade_ids(a.fills()) == trade_ids(b.fills()))


@pytest.mark.namespaces
def test_two_machines_on_one_cable_find_each_other_by_mdns_alone(
    nodes: Nodes, machines: tuple[Namespace, Namespace]
) -> None:
    """The promise of the first page: `exchange-node start` on both, nothing configured."""
    a, b = nodes.make("a"), nodes.make("b")
    for node, machine in zip((a, b), machines, strict=True):
        node.prefix = machine.command(())
        # The defaults are safe here: there is no way out of these two machines.
        node.p2p_port = node.api_port = None
        node.plain = True
        node.launch()
    for node in (a, b):
        node.ready()
        assert node.p2p_address == "0.0.0.0:3000"
        assert node.api_url == "http://127.0.0.1:8300"

    placed = a.cli("order", "sell", "BTC-USD", "0.5", "@", "30000")
    eventually(lambda: b.cli("book", "BTC-USD")["asks"])
    (peer,) = [p for p in b.cli("peers") if p["status"] == "connected"]
    assert (peer["node_id"], peer["address"]) == (a.node_id, machines[0].address)
    assert peer["encrypted"] is True
    b.cli("order", "buy", "BTC-USD", "0.2", "@", "30000")
    (fill,) = eventually(lambda: b.cli("trades"))
    assert (fill["quantity"], fill["counterparty_order_id"]) == ("0.2", placed["id"])
    assert eventually(lambda: a.cli("trades"))[0]["id"] == fill["id"]
    assert [a.stop(), b.stop()] == [0, 0]
