"""Nodes that find each other by one name in the DNS, or by a signed list from a web server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dns_kit import DnsServer
from processes import NodeProcess, Nodes, eventually, see_each_other

from p2p.base.identity import Identity

SEED = "_exchange-node._tcp.nodes.example"


class Server:
    """A DNS server in a thread of its own. `records`: see `DnsServer`."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = DnsServer(self.records)
        host, port = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(5)
        self.address = f"{host}:{port}"

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            await asyncio.sleep(0.01)  # for the transport

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_node_finds_another_by_a_name_with_service_and_id(nodes: Nodes, server: Server) -> None:
    known = nodes.start("known")
    port = known.p2p_address.rpartition(":")[2]
    server.records[SEED, "SRV"] = [f"0 0 {port} a.nodes.example."]
    server.records[SEED, "TXT"] = [f'"node={known.node_id}@a.nodes.example:{port}"']
    server.records["a.nodes.example", "A"] = ["127.0.0.1"]
    newcomer = nodes.start(
        "new", DNS_SEEDS="nodes.example", DNS_SERVERS=server.address, SEEDS_REACH="loopback"
    )
    see_each_other(known, newcomer)
    (view,) = [v for v in newcomer.status().discovery if v.name == "dns"]
    assert (view.state, view.detail) == ("on", "nodes.example (1 addresses)")


def test_another_node_at_the_address_of_a_named_one_is_not_linked(
    nodes: Nodes, server: Server
) -> None:
    impostor = nodes.start("impostor")
    expected = Identity.from_seed(b"x" * 32).node_id
    server.records[SEED, "TXT"] = [f'"node={expected}@{impostor.p2p_address}"']
    newcomer = nodes.start(
        "new", DNS_SEEDS="nodes.example", DNS_SERVERS=server.address, SEEDS_REACH="loopback"
    )
    eventually(
        lambda: any(view.name == "dns" and view.found for view in newcomer.status().discovery),
        what="the address",
    )
    time.sleep(1.5)  # for the dial
    assert not newcomer.linked()
    assert not impostor.linked()


def test_a_seed_names_no_address_of_this_machine_unless_the_operator_says_so(
    nodes: Nodes, server: Server
) -> None:
    inside = nodes.start("inside")
    server.records[SEED, "TXT"] = [f'"node={inside.node_id}@{inside.p2p_address}"']
    private = nodes.start(
        "new", DNS_SEEDS="nodes.example", DNS_SERVERS=server.address, SEEDS_REACH="private"
    )
    eventually(lambda: "is not dialled" in private.log, what="the line in the log")
    time.sleep(1.5)  # for a dial
    assert not private.linked()
    assert not inside.linked()


def test_a_node_finds_others_by_a_signed_list_from_a_web_server(
    nodes: Nodes, tmp_path: Path
) -> None:
    first, second = nodes.pair()
    file = tmp_path / "peers.json"
    made = second.cli(*("peer-list", str(file), "--add", f"{second.node_id}@{second.p2p_address}"))
    assert made["signer"] == second.node_id
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/peers.json"
        newcomer = nodes.start("new", PEER_LISTS=f"{url}#{second.node_id}", SEEDS_REACH="loopback")
        stranger = nodes.start(
            "stranger", PEER_LISTS=f"{url}#{first.node_id}", SEEDS_REACH="loopback"
        )
        see_each_other(first, second, newcomer)
        detail = eventually(lambda: refusal(stranger), what="the refusal of the list")
        server.shutdown()
        thread.join()
    assert "it is signed by" in detail
    assert not stranger.linked()


def refusal(node: NodeProcess) -> str:
    return next(
        (v.detail for v in node.status().discovery if v.name == "list" and "not used" in v.detail),
        "",
    )
