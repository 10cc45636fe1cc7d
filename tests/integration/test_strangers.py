"""Strangers on the peer port: noise, lies, other networks, and a peer that speaks JSON by hand. After
each of them the node still trades with its honest peer."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import pytest
from json_peer import JsonPeer, Refused, b64, connect, frames, json_peer, until_closed
from processes import NodeProcess, Nodes, eventually, show_logs, trade_ids

from exchange.feeds.exchange_messages import pack
from exchange.model.events import Batch, Closed
from node.client.exchange_client import ApiError
from p2p.mesh.routed_messages import broadcast_id

MAX_GROWTH = 48 * 1024 * 1024  # bytes of memory that a few hundred strangers may cost

LOTS = 10**8  # of one unit


@dataclass
class Hosts:
    """Two linked nodes with P2P_SECURITY=off, and a counter for prices."""

    nodes: Nodes
    a: NodeProcess
    b: NodeProcess
    price: Iterator[int]

    def still_trade(self) -> None:
        price = next(self.price)
        self.a.sell(3, price)
        eventually(lambda: str(price) in self.b.asks())
        bought = self.b.buy(3, price)
        eventually(lambda: self.b.get_order(bought.id).status == "filled")
        eventually(lambda: self.between(self.a) == self.between(self.b))
        assert "Traceback" not in self.a.log

    def between(self, node: NodeProcess) -> list[tuple[str, str, str, str]]:
        """The trades of these two with each other, as one of them has them."""
        both = {self.a.node_id, self.b.node_id}
        return trade_ids([fill for fill in node.fills() if fill.counterparty in both])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    nodes = Nodes(tmp_path_factory.mktemp("strangers"))
    try:
        a, b = nodes.pair(P2P_SECURITY="off")
        yield Hosts(nodes, a, b, count(100))
    finally:
        nodes.cleanup()


@pytest.fixture
def hosts(started: Hosts, request: pytest.FixtureRequest) -> Hosts:
    show_logs(request, started.nodes)
    return started


def noise(seed: int) -> list[bytes]:
    """Bytes of many kinds: pure noise, noise in frames, half a frame, other protocols."""
    rng = random.Random(seed)
    kinds = [
        lambda: rng.randbytes(rng.randint(1, 4000)),
        lambda: (n := rng.randint(1, 500)).to_bytes(4, "big") + rng.randbytes(n),
        lambda: (2000).to_bytes(4, "big") + b"{" + rng.randbytes(50),
        lambda: (40).to_bytes(4, "big") + b'{"type":"handshake","payload":{}}       ',
        lambda: b"\x00\x00\x00\x00",
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        lambda: (30).to_bytes(4, "big") + b"[" * 30,
        lambda: b"",
    ]
    return [kind() for kind in kinds]


def memory(node: NodeProcess) -> int:
    """Bytes of RAM that the node's process holds."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text("ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def shout(address: str, data: bytes) -> bytes:
    """Say something and no more; what comes back until the node hangs up."""
    with connect(address) as stream:
        try:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        except ConnectionError:
            return b""
        return until_closed(stream)


def test_noise_ends_with_a_hang_up_and_costs_little_memory(hosts: Hosts) -> None:
    before = memory(hosts.a)
    heard = [shout(hosts.a.p2p_address, data) for seed in range(20) for data in noise(seed)]
    said = [json.loads(frame) for answer in heard for frame in frames(answer)]
    assert {message["type"] for message in said} == {"goodbye"}
    codes = Counter(message["payload"]["code"] for message in said)
    assert set(codes) == {"malformed", "oversized"}
    assert (
        codes["malformed"] >= 20 * 4
    )  # framed noise, a handshake without content, no frame, arrays
    assert memory(hosts.a) - before < MAX_GROWTH
    hosts.still_trade()


def test_noise_on_an_encrypted_port_does_no_harm_either(nodes: Nodes) -> None:
    a, b = nodes.pair()
    for seed in range(5):
        for data in noise(seed):
            shout(a.p2p_address, data)
    assert a.linked() == {b.node_id}
    Hosts(nodes, a, b, count(100)).still_trade()


def test_silent_connections_do_not_keep_a_peer_out(hosts: Hosts) -> None:
    silent = [connect(hosts.a.p2p_address) for _ in range(150)]
    try:
        with json_peer(hosts.a.p2p_address) as peer:
            peer.shake_hands()
            hosts.still_trade()
    finally:
        for stream in silent:
            stream.close()


def test_a_frame_over_the_limit_is_refused_with_a_reason(hosts: Hosts) -> None:
    (frame,) = frames(shout(hosts.a.p2p_address, b"\x7f\xff\xff\xff{"))
    assert b'"code":"oversized"' in frame
    with json_peer(hosts.a.p2p_address) as peer:
        peer.shake_hands()
        peer.stream.sendall((1024 * 1024 + 1).to_bytes(4, "big"))
        with pytest.raises(Refused) as refused:
            peer.wait_for(lambda message: False)
    assert refused.value.code == "oversized"
    hosts.still_trade()


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"network": "other"}, "wrong_network"),
        ({"version": "2.0.0"}, "wrong_version"),
        ({"nodeId": "a" * 32}, "wrong_identity"),
        ({"port": 99999}, "malformed"),
    ],
)
def test_a_false_handshake_is_refused_with_a_reason(
    hosts: Hosts, claims: dict[str, object], code: str
) -> None:
    with json_peer(hosts.a.p2p_address) as peer, pytest.raises(Refused) as refused:
        peer.shake_hands(**claims)
    assert refused.value.code == code


def test_a_peer_cannot_take_the_place_of_another(hosts: Hosts) -> None:
    with json_peer(hosts.a.p2p_address) as peer:
        # The true id of b with b's public key, which this peer does not have the private half of.
        with json_peer(hosts.b.p2p_address) as asking:
            handshake = asking.shake_hands()
        with pytest.raises(Refused) as refused:
            peer.shake_hands(nodeId=handshake["nodeId"], publicKey=handshake["publicKey"])
    assert refused.value.code == "wrong_identity"
    assert hosts.a.linked() == {hosts.b.node_id}
    hosts.still_trade()


def test_a_node_of_another_network_is_refused_with_the_reason(hosts: Hosts, nodes: Nodes) -> None:
    other = nodes.start(
        "other", bootstrap=hosts.a.p2p_address, P2P_NETWORK="other", P2P_SECURITY="off"
    )
    (peer,) = eventually(lambda: [p for p in other.peers() if p.last_error])
    assert "wrong_network" in (peer.last_error or "")
    with pytest.raises(ApiError) as refused:
        other.ask(lambda client: client.connect(hosts.a.p2p_address))
    assert refused.value.problem["reason"] == "wrong_network"
    assert other.linked() == set()
    with pytest.raises(ApiError) as refused:
        other.ask(lambda client: client.connect(other.p2p_address))
    assert refused.value.code == "self_connection"
    hosts.still_trade()


def test_a_peer_that_goes_on_talking_nonsense_is_cut_with_a_reason(hosts: Hosts) -> None:
    with json_peer(hosts.a.p2p_address) as peer:
        peer.shake_hands()
        for number in range(20):
            try:
                peer.send("gossip", {"number": number})
            except ConnectionError:
                break
        with pytest.raises(Refused) as refused:
            peer.wait_for(lambda message: False)
    assert refused.value.code == "unknown_type"
    hosts.still_trade()


def follow(peer: JsonPeer, kind: str) -> dict[str, object]:
    message = peer.wait_for(lambda m: m["type"] == kind and m["to"] == "*")
    return message["payload"]  # type: ignore[no-any-return]


def test_a_peer_that_speaks_json_by_hand_follows_the_market_and_trades(hosts: Hosts) -> None:
    a = hosts.a
    price = next(hosts.price)
    with json_peer(a.p2p_address) as peer:
        theirs = peer.shake_hands()
        assert theirs["nodeId"] == a.node_id
        assert "order" in theirs["capabilities"]["supportedProtocols"]
        presence = follow(peer, "presence")
        assert presence["lease"] == 9000

        sold = a.sell(5, price)
        batch = follow(peer, "order")
        market, (event,) = batch["market"], batch["events"]
        kind, number, side, ticks, shown, _time = event
        assert str(market).startswith("TEST-USD@")
        assert (kind, number, side) == ("opened", sold.number, -1)
        assert (ticks, shown) == (price * 100, 5 * LOTS)

        take = {
            **{"take": 1, "market": market, "order": number, "takerOrder": 1, "below": 1},
            **{"price": ticks, "quantity": 2 * LOTS},
        }
        peer.send("take", take)
        result = peer.wait_for(lambda m: m["type"] == "take_result")["payload"]
        assert (result["take"], result["quantity"], result["price"]) == (1, 2 * LOTS, ticks)
        peer.send("take", take)  # asked again: the same answer, and nothing more is filled
        again = peer.wait_for(lambda m: m["type"] == "take_result")["payload"]
        assert again == result
        assert a.get_order(sold.id).filled == "2"
        (fill,) = [fill for fill in a.fills() if fill.counterparty == peer.node_id]
        assert (fill.quantity, fill.role) == ("2", "maker")
        a.cancel(sold.id)
    eventually(lambda: hosts.b.asks() == {})


def test_events_unsigned_by_their_owner_change_nothing_and_end_the_link(hosts: Hosts) -> None:
    price = str(next(hosts.price))
    with json_peer(hosts.a.p2p_address) as listening:
        listening.shake_hands()
        sold = hosts.a.sell(5, price)
        true = msgspec.convert(follow(listening, "order"), Batch)
    eventually(lambda: hosts.b.asks() == {price: "5"})
    with json_peer(hosts.b.p2p_address) as peer:
        peer.shake_hands()
        for number in range(1, 11):  # in the name of a, to b
            event = Closed(sold.number, f"cancelled_{number}")
            forged = pack(msgspec.structs.replace(true, first=true.last + 1, events=[event]))
            key = broadcast_id("order", hosts.a.node_id, forged)
            batch = json.loads(msgspec.json.encode(msgspec.msgpack.decode(forged, type=Batch)))
            peer.send("order", batch, to="*", id=b64(key), **{"from": hosts.a.node_id})
        with pytest.raises(Refused) as refused:
            peer.wait_for(lambda message: False)
    assert refused.value.code == "abuse"
    assert hosts.b.asks() == hosts.a.asks() == {price: "5"}
    bought = hosts.b.buy(5, price)
    eventually(lambda: hosts.b.get_order(bought.id).status == "filled")
    hosts.still_trade()
