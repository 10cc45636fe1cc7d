from __future__ import annotations

from p2p.base import limits
from p2p.mesh.route_table import LINKS_PER_NODE, RouteTable


def test_the_link_that_brought_news_last_is_taken():
    routes = RouteTable()
    routes.learn(0.0, "node", "a")
    routes.learn(1.0, "node", "b")
    assert routes.find(1.0, "node") == "b"
    routes.learn(2.0, "node", "a")
    assert routes.find(2.0, "node") == "a"
    assert routes.find(2.0, "stranger") is None


def test_a_way_is_believed_for_its_time_only():
    routes = RouteTable()
    routes.learn(0.0, "node", "a")
    assert routes.find(limits.ROUTE_TTL - 0.01, "node") == "a"
    assert routes.find(limits.ROUTE_TTL, "node") is None
    routes.learn(limits.ROUTE_TTL, "node", "b")
    assert routes.find(limits.ROUTE_TTL, "node", exclude="b") is None
    assert routes.known(limits.ROUTE_TTL) == {"node": "b"}


def test_a_lost_link_takes_its_routes_with_it_and_an_older_way_is_taken_instead():
    routes = RouteTable()
    routes.learn(0.0, "x", "a")
    routes.learn(1.0, "x", "b")
    routes.learn(1.0, "y", "b")
    routes.forget_link("b")
    assert routes.find(2.0, "x") == "a"
    assert routes.find(2.0, "y") is None
    assert len(routes) == 1


def test_few_ways_are_kept_for_a_node_and_the_latest_of_them():
    routes = RouteTable()
    for number in range(10):
        routes.learn(float(number), "node", f"link {number}")
    for number in range(10 - 1, 10 - 1 - LINKS_PER_NODE, -1):
        assert routes.find(10.0, "node") == f"link {number}"
        routes.forget_link(f"link {number}")
    assert routes.find(10.0, "node") is None


def test_the_least_recently_seen_nodes_are_dropped_first():
    routes = RouteTable(max_nodes=3)
    for number, node in enumerate(["w", "x", "y", "w", "z"]):
        routes.learn(float(number), node, "a")
    assert routes.known(5.0) == {"y": "a", "w": "a", "z": "a"}
