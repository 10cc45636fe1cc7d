"""`HttpPost`, and `Link` with it, against a real server on loopback that misbehaves by script."""

import asyncio
import socket

import pytest
from aiohttp import web

from p2p.grenache.errors import GrapeRefused, GrapeUnreachable
from p2p.grenache.link.http_post import HttpPost
from p2p.grenache.link.link_client import Link

TIMEOUT = 20.0  # seconds; only a failure waits so long


class Server:
    """One HTTP server; `replies` by path are functions of the request."""

    def __init__(self):
        self.replies = {}
        self.seen = []
        self._runner = None
        self.port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        app = web.Application()
        app.router.add_route("*", "/{kind}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self):
        await self._runner.cleanup()

    async def _handle(self, request):
        body = await request.read()
        self.seen.append((request.method, request.path, request.headers, body))
        reply = self.replies[request.path.lstrip("/")]
        return await reply(request) if asyncio.iscoroutinefunction(reply) else reply(request)


def text(body, status=200, **headers):
    return lambda request: web.Response(body=body, status=status, headers=headers)


@pytest.fixture
async def server():
    one = Server()
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def post():
    one = HttpPost()
    yield one
    await one.close()


async def raw_server(reply):
    """Answers every connection with these bytes once something was sent, then closes it."""

    async def handle(reader, writer):
        await reader.read(65536)
        writer.write(reply)
        writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0)
    return running, f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}/lookup"


async def test_a_request_whose_connection_is_cut_is_sent_once_more(server, post):
    def cut(request):
        server.replies["announce"] = text(b"1")
        request.transport.abort()
        return web.Response(body=b"lost")

    server.replies["announce"] = cut
    assert await post(f"{server.url}/announce", b"{}", timeout=TIMEOUT, limit=10) == (200, b"1")
    assert len(server.seen) == 2


async def test_a_body_larger_than_allowed_is_not_read(server, post):
    server.replies["lookup"] = text(b"x" * 101)
    with pytest.raises(GrapeUnreachable, match="more than 100 bytes"):
        await post(f"{server.url}/lookup", b"{}", timeout=TIMEOUT, limit=100)

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 50)

    server.replies["get"] = endless
    with pytest.raises(GrapeUnreachable, match="more than 100 bytes"):
        await post(f"{server.url}/get", b"{}", timeout=TIMEOUT, limit=100)


async def test_a_reply_that_trickles_is_not_waited_for(server, post):
    async def trickle(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    server.replies["lookup"] = trickle
    with pytest.raises(TimeoutError):
        await post(f"{server.url}/lookup", b"{}", timeout=0.2, limit=100000)


async def test_a_closed_port_is_reported_in_words(post):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/lookup"
        with pytest.raises(GrapeUnreachable, match="connection refused"):
            await post(url, b"{}", timeout=TIMEOUT, limit=100)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut", "."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "."),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000, "."),
    ],
)
async def test_grapes_with_malformed_http_replies_are_unreachable(post, reply, reason):
    running, url = await raw_server(reply)
    async with running:
        with pytest.raises(GrapeUnreachable, match=reason) as raised:
            await post(url, b"{}", timeout=TIMEOUT, limit=1000)
    assert raised.value.detail
    assert len(str(raised.value)) < 300


async def test_a_link_over_http(server):
    server.replies = {
        "announce": text(b"2"),
        "lookup": text(b'["127.0.0.1:1337"]'),
        "probe": text(b'"ERR_REQ_NOTFOUND"'),
        "put": text(b'"302 sequence number less than current"', 302, Location="/announce"),
    }
    async with Link([server.url + "/"]) as link:
        assert await link.announce("rpc", 1337) == 2
        assert await link.lookup("rpc") == [("127.0.0.1", 1337)]
        with pytest.raises(GrapeRefused, match="302"):
            await link.put(b"x")
        assert link.status()[0].up is True
        assert link.status()[0].latency > 0
        await server.stop()
        with pytest.raises(GrapeUnreachable, match=server.url):
            await link.lookup("rpc", fresh=True)
        assert link.status()[0].up is False
