"""Addresses that strangers on the internet name to a real node: none inside is connected to, none at another service's port.

The machine is a network namespace that has public, private and shared addresses, IPv4 and IPv6. A stranger at a public
address names listeners at all of them, which count connections.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Namespace, namespace_pair
from processes import SETTINGS, NodeProcess, eventually

pytestmark = pytest.mark.namespaces

HOME, STRANGER, THIRD = "11.0.0.1", "11.7.0.2", "11.9.0.9"
INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.5",
    "172.16.0.5",
    "192.168.7.5",
    "100.64.0.5",
    "169.254.7.7",
]
INSIDE_6 = ["::1", "fd00::5", "::ffff:10.0.0.5", "::ffff:127.0.0.1"]
PORT, OTHER_PORTS = 13_000, [22, 443, 5432, 6379, 9200]
DHT_PORT = 20_500

# Listens at all given addresses, names them to the node as its argument says, and prints how often each was connected to.
PROGRAM = textwrap.dedent(
    """
    import asyncio, json, socket, sys, time
    sys.path.insert(0, "tests/integration")
    from json_peer import JsonPeer
    from p2p.base.identity import Identity
    from p2p.grenache.dht.bencode import decode, encode

    way, targets, home, stranger, dht_port, seconds = json.loads(sys.argv[1])
    counts = {}

    def listen(host, port):
        sock = socket.socket(socket.AF_INET6 if ":" in host and not host.startswith("::ffff:") else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.removeprefix("::ffff:"), port))
        sock.listen(64)
        sock.setblocking(False)
        return sock

    async def count(name, sock):
        while True:
            taken, _ = await asyncio.get_running_loop().sock_accept(sock)
            counts[name] = counts.get(name, 0) + 1
            taken.close()

    class Dht(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport
        def datagram_received(self, data, addr):
            query = decode(data)
            if query.get(b"y") != b"q":
                return
            values = [socket.inet_aton(h.removeprefix("::ffff:")) + p.to_bytes(2, "big") for h, p in targets if h.startswith("::ffff:") or ":" not in h]
            body = {b"id": b"s" * 20, b"nodes": b"", b"token": b"t", b"values": values}
            self.transport.sendto(encode({b"t": query[b"t"], b"y": b"r", b"r": body}), addr)

    async def main():
        seen = set()
        for host, port in targets:
            plain = host.removeprefix("::ffff:")
            if (plain, port) not in seen:
                seen.add((plain, port))
                asyncio.create_task(count(f"{plain} {port}", listen(host, port)))
        if way == "dht":
            await asyncio.get_running_loop().create_datagram_endpoint(Dht, local_addr=(stranger, dht_port))
        def exchange():
            peer = None
            end = time.monotonic() + 30
            while peer is None:
                try:
                    peer = JsonPeer(f"{home}:3000", source=stranger)
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.2)
            peer.shake_hands()
            entries = [
                {"nodeId": Identity.from_seed(bytes([n]) * 32).node_id, "address": host, "port": port}
                for n, (host, port) in enumerate(targets)
            ]
            peer.send("peerexchange", {"peers": entries}, to="")
            return peer
        peer = await asyncio.to_thread(exchange) if way == "exchange" else None
        print("ready", flush=True)
        await asyncio.sleep(seconds)
        print(json.dumps(counts), flush=True)

    asyncio.run(main())
    """
)


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with namespace_pair() as (left, _):
        for host in (HOME, STRANGER, THIRD, *INSIDE[2:], "fd00::5"):
            width = 128 if ":" in host else 32
            left_ip = ["ip", "-n", left.name, "addr", "add", f"{host}/{width}", "dev", "lo"]
            subprocess.run([*left_ip, *(["nodad"] if ":" in host else [])], check=True, timeout=30)
        yield left


@pytest.mark.parametrize("way", ["exchange", "dht"])
def test_a_stranger_outside_leads_no_connection_inside(
    machine: Namespace, tmp_path: Path, way: str
) -> None:
    targets = [(host, PORT) for host in (*INSIDE, *INSIDE_6, THIRD)]
    targets += [(THIRD, port) for port in OTHER_PORTS]
    grenache = {
        "DISCOVERY_GRENACHE": "true",
        "GRAPE_EMBEDDED": "true",
        "GRAPE_HOST": HOME,
        "GRAPE_BOOTSTRAP": f"{STRANGER}:{DHT_PORT}",
        "GRENACHE_HOST": HOME,
    }
    node = NodeProcess(
        tmp_path / "node",
        settings={
            **SETTINGS,
            "P2P_HOST": HOME,
            "P2P_SECURITY": "off",
            "PORT_MAPPING": "false",
            **(grenache if way == "dht" else {}),
        },
        prefix=machine.command([]),
        p2p_port=3000,
        api_port=8300,
    )
    try:
        arguments = json.dumps([way, targets, HOME, STRANGER, DHT_PORT, 25.0])
        node.launch()
        stranger = machine.popen(
            [sys.executable, "-c", PROGRAM, arguments], stdout=subprocess.PIPE, text=True
        )
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "ready\n"
        counts = json.loads(stranger.stdout.readline())
        print(counts)
        # Its own protocol, at a port of a node: dialled, over TCP and over Grenache, and not over and over.
        assert set(counts) == {f"{THIRD} {PORT}"}
        assert counts[f"{THIRD} {PORT}"] <= 2
        eventually(lambda: "Traceback" not in node.log, 1.0)
    finally:
        node.cleanup()
