"""Pure P2P, hybrid and Grenache only: nodes find each other and trade, whatever becomes of the Grapes."""

from __future__ import annotations

import json
import urllib.request

from processes import (
    GRENACHE,
    GrapeProcess,
    NodeProcess,
    Nodes,
    eventually,
    same_books,
    see_each_other,
    trade_ids,
)

GRENACHE_ONLY = {**GRENACHE, "P2P_ENABLED": "false"}


def trade(seller: NodeProcess, buyer: NodeProcess, price: int) -> None:
    """One order of each fills the other, and both know of the same trade."""
    sold = seller.sell(3, price)
    eventually(lambda: str(price) in buyer.asks(), what=lambda: buyer.book())
    bought = buyer.buy(3, price)
    eventually(lambda: buyer.get_order(bought.id).status == "filled")
    eventually(lambda: seller.get_order(sold.id).status == "filled")
    mine, theirs = trade_ids(seller.fills()), trade_ids(buyer.fills())
    assert (
        {t for t in mine if t[2] == str(price)}
        == {t for t in theirs if t[2] == str(price)}
        != set()
    )


def carriers(node: NodeProcess) -> set[str | None]:
    return {peer.carrier for peer in node.peers() if peer.status == "connected"}


def grape_detail(node: NodeProcess) -> str:
    return next(view.detail for view in node.status().discovery if view.name == "grape")


def answered(node: NodeProcess) -> bool:
    return "announced" in grape_detail(node)


def test_three_nodes_without_any_grape_trade(nodes: Nodes) -> None:
    a, b = nodes.pair()
    c = nodes.start("c", bootstrap=b.p2p_address)
    see_each_other(a, b, c)
    for number, (seller, buyer) in enumerate([(a, b), (b, c), (c, a)]):
        trade(seller, buyer, 50 + number)
    same_books(a, b, c)
    assert {node.status().mode for node in (a, b, c)} == {"p2p"}
    assert a.status().grenache is None


def test_three_nodes_meet_through_a_grape_alone_and_link_directly(nodes: Nodes) -> None:
    grape = nodes.grape()
    a, b, c = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE) for name in "abc")
    see_each_other(a, b, c)
    eventually(lambda: a.linked() == {b.node_id, c.node_id}, what=lambda: a.peers())
    for number, (seller, buyer) in enumerate([(a, b), (b, c), (c, a)]):
        trade(seller, buyer, 50 + number)
    same_books(a, b, c)
    assert carriers(a) == carriers(b) == carriers(c) == {"tcp"}
    assert "grape" in {peer.source for node in (a, b, c) for peer in node.peers()}
    assert a.status().mode == "hybrid"


def test_a_grape_restart_does_not_affect_trading(nodes: Nodes) -> None:
    grape = nodes.grape()
    a, b = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE) for name in "ab")
    see_each_other(a, b)
    trade(a, b, 50)

    grape.kill9()
    eventually(lambda: not answered(a), what=lambda: grape_detail(a))
    trade(b, a, 51)
    assert a.linked() == {b.node_id}
    assert "no Grape answers" in a.log

    # New nodes still join, from one address, and learn of the others by exchange.
    c = nodes.start("c", bootstrap=b.p2p_address, GRAPE_URL=grape.url, **GRENACHE)
    see_each_other(a, b, c)
    eventually(lambda: c.linked() == {a.node_id, b.node_id}, what=lambda: c.peers())
    assert "exchange" in {peer.source for node in (a, c) for peer in node.peers()}
    assert "no Grape answers" in c.log  # said, and gone on
    trade(c, a, 52)

    grape.start()
    eventually(lambda: all(answered(node) for node in (a, b, c)), what=lambda: grape_detail(a))
    assert a.log.count("no Grape answers") == 1
    d = nodes.start("d", GRAPE_URL=grape.url, **GRENACHE)
    see_each_other(a, b, c, d)
    trade(d, a, 53)
    same_books(a, b, c, d)


def test_over_grenache_alone_three_nodes_trade_settle_and_converge(nodes: Nodes) -> None:
    grape = nodes.grape()
    a, b, c = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE_ONLY) for name in "abc")
    see_each_other(a, b, c)
    eventually(lambda: a.linked() == {b.node_id, c.node_id}, what=lambda: a.peers())
    assert carriers(a) == carriers(b) == carriers(c) == {"grenache"}
    assert {peer.encrypted for peer in a.peers() if peer.status == "connected"} == {True}
    for number, (seller, buyer) in enumerate([(a, b), (b, c), (c, a)]):
        trade(seller, buyer, 50 + number)
    rest = a.sell(9, 70)
    b.buy(4, 70)
    c.buy(2, 70)
    eventually(lambda: a.get_order(rest.id).filled == "6")
    same_books(a, b, c)
    status = a.status()
    assert (status.mode, status.p2p_address) == ("grenache", None)
    assert status.grenache is not None
    assert status.grenache.links == 2
    assert a.ping(b.node_id).way == "grenache"

    # Catch-up: what happened while it was away.
    b.kill9()
    for price in range(80, 100):
        c.sell(1, price)
    b.restart()
    book = same_books(a, b, c)
    assert len(book.asks) == 21


def test_over_grenache_alone_a_node_is_linked_within_three_seconds_of_its_start(
    nodes: Nodes,
) -> None:
    grape = nodes.grape()
    settings = {name: GRENACHE_ONLY[name] for name in GRENACHE_ONLY if "INTERVAL" not in name}
    a, b = (nodes.start(name, GRAPE_URL=grape.url, **settings) for name in "ab")
    eventually(lambda: a.linked() == {b.node_id} and b.linked() == {a.node_id}, 3.0)
    assert carriers(a) == carriers(b) == {"grenache"}


def test_a_node_without_direct_links_trades_with_nodes_that_have_them(nodes: Nodes) -> None:
    grape = nodes.grape()
    a, b = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE) for name in "ab")
    c = nodes.start("c", GRAPE_URL=grape.url, **GRENACHE_ONLY)
    see_each_other(a, b, c)
    eventually(lambda: c.linked() == {a.node_id, b.node_id}, what=lambda: c.peers())
    trade(c, a, 50)
    trade(b, c, 51)
    same_books(a, b, c)
    assert carriers(c) == {"grenache"}
    assert {p.carrier for p in a.peers() if p.node_id == b.node_id} == {"tcp"}


def test_nodes_that_are_their_own_grapes_need_no_server_but_one_address(nodes: Nodes) -> None:
    own = {**GRENACHE, "GRAPE_EMBEDDED": "true", "GRAPE_DHT_PORT": "0", "GRAPE_API_PORT": "0"}
    a = nodes.start("a", **own)
    grenache = a.status().grenache
    assert grenache is not None
    assert grenache.own is not None
    first = grenache.own.dht_address
    b = nodes.start("b", GRAPE_BOOTSTRAP=first, **own)
    c = nodes.start("c", GRAPE_BOOTSTRAP=first, **own)
    d = nodes.start("d", GRAPE_BOOTSTRAP=first, P2P_ENABLED="false", **own)
    see_each_other(a, b, c, d)
    trade(b, c, 50)
    trade(d, a, 51)

    # The one that all were told of is not needed any more, not even by those who come back.
    a.kill9()
    c.stop()
    c.restart()
    eventually(lambda: c.linked() >= {b.node_id}, what=lambda: c.peers())
    trade(c, d, 52)


def test_a_start_without_a_grape_is_a_warning_and_one_that_comes_later_is_used(
    nodes: Nodes,
) -> None:
    grape = GrapeProcess(nodes.directory, "late")
    nodes.grapes.append(grape)
    grape.start()
    grape.kill9()  # its ports are known now, and free
    a, b = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE) for name in "ab")
    eventually(lambda: "no Grape answers" in a.log)
    assert a.sell(1, 10).status == "open"
    assert a.linked() == set()
    grape.start()
    see_each_other(a, b)
    trade(a, b, 9)


def test_an_embedded_grape_without_others_warns(nodes: Nodes) -> None:
    nobody = "127.0.0.1:9"
    own = {**GRENACHE, "GRAPE_EMBEDDED": "true", "GRAPE_DHT_PORT": "0", "GRAPE_API_PORT": "0"}
    a = nodes.start("a", GRAPE_BOOTSTRAP=nobody, **own)
    eventually(lambda: any(nobody in warning for warning in a.status().warnings))
    eventually(lambda: f"no answer from {nobody}" in a.log)


def test_a_node_that_stops_is_not_announced_any_more(nodes: Nodes) -> None:
    grape = nodes.grape()
    a, b = (nodes.start(name, GRAPE_URL=grape.url, **GRENACHE) for name in "ab")
    see_each_other(a, b)

    def announced() -> int:
        with urllib.request.urlopen(f"{grape.url}/status", timeout=5) as answer:
            return int(json.load(answer)["grape"]["own_announcements"])

    eventually(lambda: announced() == 4)
    assert a.stop() == 0
    eventually(lambda: announced() == 2)
