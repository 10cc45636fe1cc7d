"""Real nodes under floods of digests: honest links stay, and honest orders are filled at once."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from json_peer import JsonPeer, b64, json_peer
from processes import NodeProcess, Nodes, eventually

GHOSTS = 4096  # heads in one digest
SLOWEST = 5.0  # seconds for an honest order; version 0.1.0 took 20 under the same flood


def ghost_digest() -> dict[str, object]:
    """A digest with heads of feeds that do not exist."""
    market = "BTC-USD@0.1/0.00001"
    heads = [[secrets.token_hex(16), market, 9, b64(b"12345678")] for _ in range(GHOSTS)]
    return {"summary": b64(secrets.token_bytes(16)), "heads": heads, "answer": False}


def summary_digest() -> dict[str, object]:
    return {"summary": b64(secrets.token_bytes(16)), "heads": None, "answer": False}


@contextmanager
def attack(node: NodeProcess, kinds: list[str]) -> Iterator[dict[str, int]]:
    """Neighbours that send digests to the node as fast as it reads, one for each of `kinds`."""
    ghosts = [ghost_digest() for _ in range(3)]
    sent = dict.fromkeys(kinds, 0)
    over = threading.Event()

    def flood(peer: JsonPeer, kind: str) -> None:
        reader = threading.Thread(target=read, args=(peer,), daemon=True)
        reader.start()
        try:
            while not over.is_set():
                many = 1 if kind == "ghosts" else 512
                for n in range(many):
                    peer.send("digest", ghosts[n % 3] if kind == "ghosts" else summary_digest())
                sent[kind] += many
                over.wait(0.05)
        except OSError:
            pass  # the node has ended the link, which is its right

    def read(peer: JsonPeer) -> None:
        try:
            while peer.stream.recv(1 << 20):
                pass
        except OSError:
            pass

    peers = []
    threads = []
    try:
        for kind in kinds:
            peer = json_peer(node.p2p_address)
            peers.append(peer)
            linked = peer.__enter__()
            linked.shake_hands()
            threads.append(threading.Thread(target=flood, args=(linked, kind), daemon=True))
        for thread in threads:
            thread.start()
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join(10.0)
        for peer in peers:
            peer.__exit__(None, None, None)


def fill_time(a: NodeProcess, b: NodeProcess, price: int) -> float:
    """Seconds from an order of one node to its fill on the other."""
    began = time.monotonic()
    a.sell(3, price)
    eventually(lambda: str(price) in b.asks())
    bought = b.buy(3, price)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    return time.monotonic() - began


@pytest.mark.parametrize("kinds", [["summaries"], ["ghosts"], ["summaries", "ghosts"]], ids=str)
def test_honest_orders_are_filled_during_a_flood_of_digests(nodes: Nodes, kinds: list[str]) -> None:
    a, b = nodes.pair(P2P_SECURITY="off")
    calm = max(fill_time(a, b, 100 + n) for n in range(3))
    with attack(a, kinds) as sent:
        flooded = [fill_time(a, b, 200 + n) for n in range(6)]
        assert b.node_id in a.linked()
        assert a.node_id in b.linked()
    assert all(sent[kind] >= 1 for kind in kinds)
    assert max(flooded) < SLOWEST
    time.sleep(1.0)
    after = max(fill_time(a, b, 300 + n) for n in range(3))
    assert after < max(10 * calm, 1.0)
    assert "Traceback" not in a.log
    print(f"seconds to a fill: {calm:.3f} before, {flooded} during {sent}, {after:.3f} after")
