"""Eclipse with real processes: 50 identities of one address hold idle links to two nodes, before and during restarts."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from json_peer import JsonPeer, Refused
from processes import NodeProcess, Nodes, eventually

IDENTITIES = 50
WITHIN = 60.0  # seconds to an honest link


class IdlePeer(JsonPeer):
    """One identity for good."""

    def __init__(self, address: str, key: Ed25519PrivateKey, source: str) -> None:
        self.key, self.network, self.version = key, "main", "1.0.0"
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        digest = hashlib.sha256(b"exchange-node id\x00" + self.public).digest()
        self.node_id = base64.b32encode(digest[:20]).decode("ascii").lower()
        host, _, port = address.rpartition(":")
        self.stream = socket.create_connection((host, int(port)), 5.0, (source, 0))
        self.heard, self.node, self._buffer = [], "", b""
        try:
            self.shake_hands()
        except BaseException:
            self.close()
            raise
        self.stream.setblocking(False)


class Flood:
    """Threads that keep a link of every identity to a node whenever the node lets them."""

    def __init__(self, target: NodeProcess, source: str = "127.0.0.9") -> None:
        self.target = target
        self.source = source
        self.linked = 0
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Flood:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        keys = [Ed25519PrivateKey.generate() for _ in range(IDENTITIES)]
        peers: list[IdlePeer | None] = [None] * IDENTITIES
        while not self._stop.is_set():
            for n, key in enumerate(keys):
                peer = peers[n]
                if peer is not None and not self._alive(peer):
                    peer.close()
                    peer = None
                peers[n] = peer or self._connected(key)
                if self._stop.is_set():
                    break
            self.linked = sum(peer is not None for peer in peers)
            self.most = max(self.most, self.linked)
            self._stop.wait(0.5)
        for peer in peers:
            if peer is not None:
                peer.close()

    def _connected(self, key: Ed25519PrivateKey) -> IdlePeer | None:
        try:
            return IdlePeer(self.target.p2p_address, key, self.source)
        except (Refused, OSError, AssertionError):
            return None

    def _alive(self, peer: IdlePeer) -> bool:
        """Read what came and say that it is still there."""
        try:
            while True:
                if not peer.stream.recv(65536):
                    return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            peer.send("heartbeat", {"sequence": 0, "echo": 0})
        except OSError:
            return False
        return True


@pytest.fixture
def floods() -> Iterator[list[Flood]]:
    running: list[Flood] = []
    yield running
    for flood in running:
        flood.stop()


def linked(node: NodeProcess, other: NodeProcess) -> bool:
    return any(
        peer.node_id == other.node_id and peer.status == "connected" for peer in node.peers()
    )


def test_two_nodes_keep_and_find_each_other_among_fifty_attackers(
    nodes: Nodes, floods: list[Flood]
) -> None:
    a, b = nodes.pair(P2P_SECURITY="off")
    floods += [Flood(a).start(), Flood(b).start()]
    eventually(lambda: all(flood.most >= 30 for flood in floods), 60.0)
    assert linked(a, b)
    for restarted, other in ((b, a), (a, b)):
        restarted.stop()
        time.sleep(3.0)
        restarted.start()
        begun = time.monotonic()
        eventually(lambda r=restarted, o=other: linked(r, o), WITHIN)
        print(f"{restarted.name}: honest link {time.monotonic() - begun:.1f} s after its start")
    # A newcomer whose inbound slots are taken, and the operator's connect to a node in the same plight.
    c = nodes.start("c", P2P_SECURITY="off")
    floods.append(Flood(c).start())
    eventually(lambda: floods[-1].most >= 30, 60.0)
    assert c.ask(lambda client: client.connect(a.p2p_address)).status == "connected"
    assert linked(c, a)
    assert all(flood.most <= 42 for flood in floods)  # the reserve stays free


def test_a_node_full_of_idle_links_of_its_own_machine_still_tries_newcomers(
    nodes: Nodes, floods: list[Flood]
) -> None:
    full = nodes.start("full", P2P_SECURITY="off")
    floods.append(Flood(full, "127.0.0.1").start())
    eventually(lambda: floods[0].linked >= 42, 60.0)
    for name in (
        "one",
        "two",
        "three",
    ):  # the operator's dial, each from the same address as the flood
        newcomer = nodes.start(name, P2P_SECURITY="off")
        begun = time.monotonic()
        assert newcomer.ask(lambda c: c.connect(full.p2p_address)).status == "connected"
        print(f"{name}: link {time.monotonic() - begun:.1f} s after connect")
        assert linked(full, newcomer)
    found = nodes.start("found", P2P_SECURITY="off", BOOTSTRAP_PEERS=full.p2p_address)
    eventually(lambda: linked(full, found), WITHIN)
