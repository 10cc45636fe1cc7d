"""A peer that floods a node with requests, beside two nodes that trade. Real processes."""

from __future__ import annotations

import json
import statistics
import threading
import time

from json_peer import JsonPeer, Refused
from processes import Nodes, eventually

SECONDS = 15.0


class Flooder(threading.Thread):
    """Sends requests for a method that does not exist, as fast as the node reads them."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.peer = JsonPeer(address)
        capabilities = {"version": "1.0.0", "supportedProtocols": ["request", "refused"]}
        self.peer.shake_hands(capabilities=capabilities)
        self.sent = 0
        self.bytes = 0
        self.seconds = 0.0
        self.kinds: dict[str, int] = {}
        self.end = ""

        self._send_frame = self.peer.send_frame
        self.peer.send_frame = self._counted  # type: ignore[method-assign]

    def _counted(self, payload: bytes) -> None:
        self.bytes += len(payload) + 4
        self._send_frame(payload)

    def run(self) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        begun = time.monotonic()
        stop = begun + SECONDS
        try:
            while time.monotonic() < stop and not self.end:
                for _ in range(100):
                    self.sent += 1
                    body = {"id": self.sent, "method": "nothing", "deadline": 1000, "body": ""}
                    self.peer.send("request", body)
        except OSError:
            pass
        self.seconds = time.monotonic() - begun
        reader.join(5)

    def _read(self) -> None:
        try:
            while True:
                message = self.peer.receive()
                kind = message["type"]
                self.kinds[kind] = self.kinds.get(kind, 0) + 1
        except Refused as refused:
            self.end = refused.code
        except (OSError, json.JSONDecodeError):
            self.end = self.end or "closed"


def test_honest_trade_goes_on_beside_a_flood_of_requests(nodes: Nodes) -> None:
    a, b = nodes.pair(P2P_SECURITY="off")

    def trade(price: int) -> float:
        a.sell(1, price)
        eventually(lambda: str(price) in b.asks())
        begun = time.monotonic()
        order = b.buy(1, price)
        eventually(lambda: b.get_order(order.id).status == "filled")
        return time.monotonic() - begun

    before = [trade(100 + n) for n in range(10)]
    flooder = Flooder(a.p2p_address)
    flooder.start()
    during = [trade(200 + n) for n in range(10)]
    flooder.join(SECONDS + 10)
    flooder.peer.close()
    after = [trade(300 + n) for n in range(10)]
    print(
        f"trade, median of 10: {statistics.median(before) * 1e3:.0f} ms before, "
        f"{statistics.median(during) * 1e3:.0f} ms during, {statistics.median(after) * 1e3:.0f} ms after; "
        f"{flooder.sent:,} requests sent, {flooder.bytes / 1e6:.1f} MB in {flooder.seconds:.1f} s, answers {flooder.kinds}, link ended: {flooder.end or 'no'}"
    )
    assert b.node_id in a.linked()
    assert statistics.median(during) < 5.0
    assert statistics.median(after) < 2.0
