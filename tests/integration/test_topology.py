"""The map of links: neighbours are asked, and may decline."""

from __future__ import annotations

import json
import urllib.request

from processes import NodeProcess, Nodes, eventually, see_each_other


def topology(node: NodeProcess) -> tuple[dict[str, tuple[int, bool | None]], set[frozenset[str]]]:
    with urllib.request.urlopen(f"{node.api_url}/v1/topology") as answer:
        found = json.load(answer)
    nodes = {n["node_id"]: (n["distance"], n["answered"]) for n in found["nodes"]}
    return nodes, {frozenset((link["a"], link["b"])) for link in found["links"]}


def test_neighbours_share_their_links_unless_they_decline(nodes: Nodes) -> None:
    alone = {"DISCOVERY_EXCHANGE": "false"}  # a chain stays a chain
    a = nodes.start("a", **alone)
    b = nodes.start("b", bootstrap=a.p2p_address, **alone)
    c = nodes.start("c", bootstrap=b.p2p_address, **alone)
    see_each_other(a, b, c)
    wanted = {a.node_id: (0, True), b.node_id: (1, True), c.node_id: (2, None)}
    links = {frozenset((a.node_id, b.node_id)), frozenset((b.node_id, c.node_id))}
    eventually(lambda: topology(a) == (wanted, links), what=lambda: topology(a))

    b.stop()
    b.restart(P2P_SHARE_LINKS="false")
    see_each_other(a, b, c)
    declined = {a.node_id: (0, True), b.node_id: (1, False)}
    only = {frozenset((a.node_id, b.node_id))}
    eventually(lambda: topology(a) == (declined, only), what=lambda: topology(a))
