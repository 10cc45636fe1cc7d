"""More than two nodes: peers told by peers, trading through a node in the middle, other instruments."""

from __future__ import annotations

from processes import Nodes, eventually, same_books, see_each_other, trade_ids


def test_a_third_node_learns_the_others_from_its_bootstrap_peer(nodes: Nodes) -> None:
    a, b = nodes.pair()
    c = nodes.start("c", bootstrap=a.p2p_address)
    eventually(lambda: c.linked() == {a.node_id, b.node_id}, what=lambda: c.peers())
    eventually(lambda: b.linked() == {a.node_id, c.node_id})
    sources = {p.node_id: p.source for p in (*b.peers(), *c.peers()) if p.node_id != a.node_id}
    assert "exchange" in sources.values()

    # What it learned is its own: the node that told it is not needed any more.
    assert a.stop() == 0
    see_each_other(b, c)
    b.sell(3, 30)
    eventually(c.asks)
    bought = c.buy(3, 30)
    eventually(lambda: c.get_order(bought.id).status == "filled")
    eventually(lambda: trade_ids(b.fills()) == trade_ids(c.fills()))


def test_the_ends_of_a_chain_trade_through_its_middle(nodes: Nodes) -> None:
    alone = {"DISCOVERY_EXCHANGE": "false"}
    b = nodes.start("b", **alone)
    a = nodes.make("a", bootstrap=b.p2p_address, **alone).launch()
    c = nodes.make("c", bootstrap=b.p2p_address, **alone).launch()
    a.ready()
    c.ready()
    see_each_other(a, b, c)  # presence is broadcast: it came through the middle

    pong = a.ping(c.node_id)
    assert (pong.node_id, pong.way) == (c.node_id, "relayed")
    assert a.ping(b.node_id).way == "direct"

    sold = a.sell(5, 40)
    eventually(c.asks)
    bought = c.buy(2, 40)
    eventually(lambda: c.get_order(bought.id).status == "filled")
    eventually(lambda: trade_ids(a.fills()) == trade_ids(c.fills()) != [])
    assert b.fills() == []
    # All three hear of the trade and of what is left.
    eventually(lambda: [t.id for t in b.trades()] == [a.fills()[0].id])
    book = same_books(a, b, c)
    assert [(level.price, level.quantity) for level in book.asks] == [("40", "3")]

    c.sell(1, 45)
    a.cancel(sold.id)
    eventually(lambda: a.asks() == b.asks() == c.asks() == {"45": "1"})
    assert a.linked() == c.linked() == {b.node_id}
    assert b.linked() == {a.node_id, c.node_id}


def test_ends_of_a_chain_stop_showing_each_other_when_its_middle_leaves(nodes: Nodes) -> None:
    alone = {"DISCOVERY_EXCHANGE": "false", "PRESENCE_LEASE_MS": "1500"}
    b = nodes.start("b", **alone)
    a = nodes.make("a", bootstrap=b.p2p_address, **alone).launch()
    c = nodes.make("c", bootstrap=b.p2p_address, **alone).launch()
    a.ready()
    c.ready()
    see_each_other(a, b, c)
    a.sell(1, 40)
    eventually(c.asks)
    assert b.stop() == 0
    eventually(lambda: c.asks() == {})
    assert a.asks() == {"40": "1"}  # its owner keeps it
    b.restart()
    eventually(lambda: c.asks() == {"40": "1"})


def test_nodes_with_other_ticks_or_lots_warn_and_do_not_mix_their_books(nodes: Nodes) -> None:
    ours, theirs = nodes.directory / "ours.toml", nodes.directory / "theirs.toml"
    same = '[ETH-USD]\ntick = "0.01"\nlot = "0.0001"\n'
    ours.write_text(f'[TEST-USD]\ntick = "0.01"\nlot = "1"\n{same}', "utf-8")
    theirs.write_text(f'[TEST-USD]\ntick = "0.05"\nlot = "1"\n{same}', "utf-8")
    a = nodes.start("a", "--instruments", str(ours))
    b = nodes.start("b", "--instruments", str(theirs), bootstrap=a.p2p_address)
    see_each_other(a, b)
    for node, other in ((a, b), (b, a)):
        (warning,) = eventually(lambda node=node: node.status().warnings)
        assert "TEST-USD" in warning
        assert other.node_id[:12] in warning
        assert "0.01" in warning
        assert "0.05" in warning

    a.sell(1, 10)
    b.buy(1, 10)  # would cross if these were one market
    sold = a.sell("0.5", 2000, market="ETH-USD")
    eventually(lambda: b.asks("ETH-USD"))
    bought = b.buy("0.5", 2000, market="ETH-USD")
    eventually(lambda: b.get_order(bought.id).status == "filled")
    eventually(lambda: a.get_order(sold.id).status == "filled")
    assert (a.levels(), b.levels()) == (({}, {"10": "1"}), ({"10": "1"}, {}))
    assert {fill.market for fill in (*a.fills(), *b.fills())} == {"ETH-USD"}
