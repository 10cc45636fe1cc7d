"""Trading through a relay, which cannot read it: three nodes in a row, whose ends are not linked."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from processes import NodeProcess, Nodes, eventually, see_each_other

from node.views.node_views import PeerView
from p2p.wire.messages import pack


def row(nodes: Nodes, **settings: str) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    alone = {"DISCOVERY_EXCHANGE": "false", **settings}
    b = nodes.start("b", **alone)
    a = nodes.start("a", bootstrap=b.p2p_address, **alone)
    c = nodes.start("c", bootstrap=b.p2p_address, **alone)
    see_each_other(a, b, c)
    return a, b, c


def seen(node: NodeProcess, other: NodeProcess) -> PeerView:
    (found,) = [peer for peer in node.peers() if peer.node_id == other.node_id]
    return found


def trade(seller: NodeProcess, buyer: NodeProcess) -> list[int]:
    """Sell what the other buys; returns the numbers of its takes."""
    seller.sell(5, 10)
    eventually(buyer.asks)
    bought = buyer.buy(5, 10)
    eventually(lambda: buyer.get_order(bought.id).status == "filled")
    return [int(fill.id.rpartition(":")[2]) for fill in buyer.fills()]


def metrics(node: NodeProcess) -> str:
    with urllib.request.urlopen(f"{node.api_url}/metrics") as answer:
        found: bytes = answer.read()
    return found.decode()


def memory(node: NodeProcess) -> bytes:
    """Everything that the process can write to."""
    assert node.process is not None
    found = []
    with Path(f"/proc/{node.process.pid}/mem").open("rb", 0) as content:
        for line in Path(f"/proc/{node.process.pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            if rights.startswith("rw") and "[v" not in line:
                start, end = (int(part, 16) for part in where.split("-"))
                content.seek(start)
                found.append(content.read(end - start))
    return b"".join(found)


def test_a_relay_passes_takes_on_and_never_holds_one_in_clear(nodes: Nodes) -> None:
    a, b, c = row(nodes)
    takes = [*trade(c, a), *trade(a, c)]
    for one, other in ((a, c), (c, a)):
        path = seen(one, other)
        assert (path.path, path.via, path.encrypted) == ("relayed", b.node_id, True)
        assert min(path.messages_sent, path.messages_received, path.bytes_sent) > 0
        assert path.rtt_ms is not None
    assert "end to end encrypted" in a.cli("peers", json_output=False)
    eventually(lambda: seen(b, a).relayed_pairs or seen(b, c).relayed_pairs)
    assert "1 pair relayed" in b.cli("peers", json_output=False)
    assert "exchange_node_relay_reservations 1.0" in metrics(b)
    assert "exchange_node_encrypted_relay_sessions 1.0" in metrics(a)
    held = memory(b)
    assert b.node_id.encode() in held
    assert takes
    for take in takes:
        assert b"\xa4take" + pack(take) not in held


def test_without_tls_it_is_relayed_in_clear_and_shown_so(nodes: Nodes) -> None:
    a, b, c = row(nodes, P2P_SECURITY="off")
    trade(c, a)
    path = seen(a, c)
    assert (path.path, path.via, path.encrypted) == ("relayed", b.node_id, False)
    assert "clear" in a.cli("peers", json_output=False)
    eventually(lambda: seen(a, c).rtt_ms, 15)
    assert 'exchange_node_path_round_trip_seconds{path="relayed"}' in metrics(a)


def test_a_node_that_restarts_trades_on_at_once(nodes: Nodes) -> None:
    a, b, c = row(nodes)
    trade(c, a)
    c.kill9()
    c.restart("--bootstrap", b.p2p_address)
    eventually(lambda: [p for p in a.peers() if p.node_id == c.node_id and p.path == "relayed"])
    trade(c, a)
    trade(a, c)
    assert seen(a, c).encrypted is True


def test_refusals_of_a_relay_carry_their_reason(nodes: Nodes) -> None:
    alone = {"DISCOVERY_EXCHANGE": "false"}
    b = nodes.start("b", P2P_RELAY_RATE="0", **alone)
    a = nodes.start("a", bootstrap=b.p2p_address, **alone)
    c = nodes.start("c", bootstrap=b.p2p_address, **alone)
    see_each_other(a, b, c)
    c.sell(5, 10)
    eventually(a.asks)
    a.buy(5, 10)
    eventually(lambda: "P2P_RELAY_RATE=0" in (seen(a, c).relay_refusal or ""))
    assert "does not relay" in a.cli("peers", json_output=False)
    assert 'relay_refusals_total{limit="off"}' in metrics(b)


def test_each_peer_has_a_reputation_and_what_it_rests_on(nodes: Nodes) -> None:
    a, b, c = row(nodes)
    for price in range(12):
        c.sell(1, 100 + price)
    found = eventually(lambda: (peer := seen(a, b)).reputation == "useful" and peer)
    assert "first" in found.reputation_reasons[0]
    assert seen(a, c).reputation == "ordinary"
    table = a.cli("peers", json_output=False)
    assert "useful: delivered" in table
