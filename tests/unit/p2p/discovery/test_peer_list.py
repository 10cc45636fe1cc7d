from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiohttp import web
from discovery_conformance import StrategyConformance

from p2p.base.identity import Identity
from p2p.discovery.peer_list import (
    MAX_BYTES,
    MAX_DAYS,
    MAX_PEERS,
    ListedPeer,
    PeerList,
    PeerListError,
    read_list,
    sign_list,
)
from p2p.discovery.peer_list_fetch import PeerListStrategy, fetch

SIGNER = Identity.from_seed(b"s" * 32)
OTHER = Identity.from_seed(b"o" * 32)
NOW = 1_790_000_000.0
PEERS = [
    ListedPeer("192.0.2.1:3000", OTHER.node_id),
    ListedPeer("[2001:db8::1]:4000", SIGNER.node_id),
]


def signed(peers=PEERS, now=NOW, days=30, network="main", by=SIGNER):
    return sign_list(by, network, list(peers), now, days)


def changed(file, **fields):
    found = msgspec.json.decode(file, type=PeerList)
    return msgspec.json.encode(msgspec.structs.replace(found, **fields))


def test_a_signed_list_is_read_as_it_was_made():
    found = read_list(signed(), "main", SIGNER.node_id, NOW + 10)
    assert found.addresses() == [
        ("192.0.2.1", 3000, OTHER.node_id),
        ("2001:db8::1", 4000, SIGNER.node_id),
    ]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (lambda: signed(by=OTHER), "it is signed by"),
        (lambda: changed(signed(), peers=PEERS[:1]), "its signature is wrong"),
        (lambda: changed(signed(), expires=2_000_000_000), "its signature is wrong"),
        (lambda: changed(signed(), signature=b""), "its signature is wrong"),
        (lambda: changed(signed(), key=OTHER.public_key), "it is signed by"),
        (lambda: changed(signed(), key=b""), "it is signed by"),
        (lambda: signed(network="test"), "it is of the network 'test'"),
        (lambda: signed(now=NOW - 31 * 86_400), "it ended at 20"),
        (lambda: signed(now=NOW + 7200), "it was made in the future"),
        (lambda: signed(days=MAX_DAYS + 1), f"more than {MAX_DAYS} days"),
        (lambda: b"", "it is not a list of peers"),
        (lambda: b"[1]", "it is not a list of peers"),
        (lambda: b"\xff", "it is not a list of peers"),
        (lambda: signed() + b" " * MAX_BYTES, "it has more than"),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused_with_the_reason(file, why):
    with pytest.raises(PeerListError, match=why):
        read_list(file(), "main", SIGNER.node_id, NOW)


@pytest.mark.parametrize(
    "peer", [ListedPeer("192.0.2.1", OTHER.node_id), ListedPeer("192.0.2.1:3000", "x")]
)
def test_a_list_with_a_wrong_peer_is_not_made(peer):
    with pytest.raises(PeerListError):
        signed([peer])


def test_a_list_has_a_bound():
    with pytest.raises(PeerListError, match=f"at most {MAX_PEERS}"):
        signed(PEERS[:1] * (MAX_PEERS + 1))
    assert len(signed(PEERS[:1] * MAX_PEERS)) < MAX_BYTES


# The strategy, with a web server


class Server:
    def __init__(self, body=b"", status=200):
        self.body, self.status, self.asked = body, status, 0

    async def start(self):
        app = web.Application()
        app.router.add_get("/peers.json", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/peers.json"

    async def _answer(self, request):
        self.asked += 1
        return web.Response(body=self.body, status=self.status, headers={"Location": "/peers.json"})

    async def close(self):
        await self._runner.cleanup()


class TestPeerListConformance(StrategyConformance):
    settle = 0.5

    @pytest.fixture(autouse=True)
    async def _served(self):
        server = Server(signed())
        self.url = await server.start()
        yield
        await server.close()

    def make(self):
        return PeerListStrategy(
            [(getattr(self, "url", "http://127.0.0.1:9/"), SIGNER.node_id)],
            "main",
            clock=lambda: NOW,
        )


async def detail_of(body, status=200):
    server, peers = Server(body, status), []
    url = await server.start()
    strategy = PeerListStrategy([(url, SIGNER.node_id)], "main", clock=lambda: NOW)
    try:
        await strategy.start(peers.append)
        async with asyncio.timeout(5):
            while "being fetched" in strategy.detail:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return strategy.detail.removeprefix(url), peers
    finally:
        await strategy.stop()
        await server.close()


async def test_the_peers_of_a_list_are_found_with_their_ids():
    detail, peers = await detail_of(signed())
    assert detail == " (2 addresses)"
    assert [(p.host, p.port, p.node_id, p.source) for p in peers] == [
        ("192.0.2.1", 3000, OTHER.node_id, "list"),
        ("2001:db8::1", 4000, SIGNER.node_id, "list"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 404, "the server answers with status 404"),
        (b"", 302, "the server answers with status 302"),
        (b"{", 200, "it is not a list of peers"),
        (b"x" * (MAX_BYTES + 1), 200, "it has more than"),
    ],
)
async def test_unusable_lists_find_nothing_and_the_detail_gives_the_reason(body, status, why):
    detail, peers = await detail_of(body, status)
    assert f"not used: {why}" in detail
    assert peers == []


async def test_a_body_without_end_is_cut_off():
    server = Server(b"x" * 10_000_000)
    url = await server.start()
    try:
        assert len(await fetch(url)) <= MAX_BYTES + 65_536
    finally:
        await server.close()


async def test_an_older_list_of_the_same_signer_is_not_used():
    server = Server(signed())
    url = await server.start()
    strategy = PeerListStrategy([], "main", clock=lambda: NOW)
    try:
        assert await strategy._look(url, SIGNER.node_id) == 2
        server.body = signed(now=NOW - 60)
        with pytest.raises(PeerListError, match="older than the last one"):
            await strategy._look(url, SIGNER.node_id)
    finally:
        await server.close()
