"""Links whose other side says nothing any more, and connections that never finish their handshake. Real processes."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from json_peer import JsonPeer, Refused, connect
from processes import NodeProcess, Nodes, eventually

from p2p.base.limits import HANDSHAKE_TIMEOUT

SILENT = 30
UNFINISHED = 100
WITHIN = 60.0  # seconds to the end of all of them


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for stream in opened:
        stream.close()


def trade(maker: NodeProcess, taker: NodeProcess, price: int) -> float:
    begun = time.monotonic()
    maker.sell(1, price)
    eventually(lambda: str(price) in taker.asks())
    bought = taker.buy(1, price)
    eventually(lambda: taker.get_order(bought.id).status == "filled")
    return time.monotonic() - begun


def ended(stream: socket.socket) -> bool:
    """Return True if the far side has closed the connection; what it sent before is dropped."""
    stream.setblocking(False)
    try:
        while stream.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_silent_links_end_and_honest_ones_stay(nodes: Nodes, silent: list[socket.socket]) -> None:
    a, b = nodes.pair(P2P_SECURITY="off")
    for _ in range(SILENT):
        peer = JsonPeer(a.p2p_address, source="127.0.0.9")
        silent.append(peer.stream)
        with contextlib.suppress(Refused):
            peer.shake_hands()
    unfinished: list[socket.socket] = []
    for _ in range(UNFINISHED):
        with contextlib.suppress(OSError):
            stream = connect(a.p2p_address, "127.0.0.9")
            silent.append(stream)
            unfinished.append(stream)
            stream.sendall((2000).to_bytes(4, "big") + b"{")
    begun = time.monotonic()
    assert len(a.linked()) > SILENT / 2
    worst, price = 0.0, 100
    while len(a.linked()) > 1 and time.monotonic() < begun + WITHIN:
        price = 101 + (price - 100) % 50
        worst = max(worst, trade(a, b, price), trade(b, a, price + 100))
        time.sleep(0.5)
    seconds = time.monotonic() - begun
    assert a.linked() == {b.node_id}
    assert b.linked() == {a.node_id}
    print(
        f"{SILENT} silent links ended after {seconds:.0f} s; slowest trade beside them {worst * 1e3:.0f} ms"
    )
    assert worst < 5.0
    assert len(unfinished) == UNFINISHED
    eventually(lambda: all(map(ended, unfinished)), HANDSHAKE_TIMEOUT + 5.0)
    assert trade(a, b, 300) < 5.0
    newcomer = JsonPeer(a.p2p_address, source="127.0.0.9")  # their places are free again
    silent.append(newcomer.stream)
    newcomer.shake_hands()
