"""One request to one worker over HTTP: what each fault is told as, and what is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grenache_client_kit import echo, http_reply, read_request, server, until
from grenache_transport_kit import SOON, answering, ask, echoing

from p2p.base import http_pool
from p2p.base.identity import Identity
from p2p.grenache.errors import BadInput, RequestFailed, RequestTimeout
from p2p.grenache.rpc.http_transport import HttpTransport
from p2p.grenache.rpc.rpc_transport import CLOSED, GENERIC, BadReply
from p2p.grenache.rpc.rpc_wire import RpcReply
from p2p.grenache.rpc.ws_transport import WsTransport
from p2p.wire.tls import client_context, server_context


@pytest.fixture
async def http() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.close()


@pytest.fixture
async def ws() -> AsyncIterator[WsTransport]:
    transport = WsTransport()
    yield transport
    await transport.close()


async def test_http_replies_come_back_over_one_kept_connection(http):
    async with server(answering(echoing, echoing, echoing)) as address:
        for n in range(3):
            assert await ask(http, address, {"n": n, "é": "✓"}) == RpcReply(
                "r1", None, {"n": n, "é": "✓"}
            )
        status = http.status()
        assert (status.requests, status.connects, status.busy, status.idle) == (3, 1, 0, 1)


async def test_http_a_host_that_does_not_exist_was_not_sent(http):
    with pytest.raises(RequestFailed) as failed:
        await ask(http, ("no.such.host.invalid", 80))
    assert not failed.value.sent


async def test_an_impossible_port_fails_like_any_other(http, ws):
    for transport in (http, ws):
        with pytest.raises(RequestFailed, match="it is not an address") as failed:
            await ask(transport, ("127.0.0.1", 99999))
        assert not failed.value.sent


async def test_http_no_connection_in_time_was_not_sent():
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    tls = client_context(Identity.generate())
    transport = HttpTransport(tls=tls, connect_timeout=0.05)
    async with server(mute) as address:
        with pytest.raises(RequestTimeout, match="no connection") as failed:
            await ask(transport, address)
        assert not failed.value.sent
        with pytest.raises(RequestTimeout, match="no connection"):
            await ask(transport, address, connect_timeout=0.01)
        await transport.close()


async def test_http_closed_without_a_reply_may_have_been_done(http):
    async with server(answering(b"")) as address:
        with pytest.raises(RequestFailed, match="no reply, the connection was closed") as failed:
            await ask(http, address, idempotent=True)  # a new connection: not tried again here
    assert (failed.value.code, failed.value.sent) == (GENERIC, True)
    assert http.status().connects == 1


@pytest.mark.parametrize(
    "cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", b"HTTP/1.1 200 O"]
)
async def test_http_a_reply_cut_short(http, cut):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(cut)

    async with server(script) as address:
        with pytest.raises(RequestFailed, match="cut short") as failed:
            await ask(http, address)
    assert failed.value.sent


async def test_http_no_reply_in_time(http):
    async with server(answering()) as address:
        with pytest.raises(RequestTimeout) as failed:
            await ask(http, address, timeout=0.3)
        assert (failed.value.code, failed.value.sent) == ("ERR_TIMEOUT", True)
        assert http.status().busy == 0


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (http_reply(b""), "ERR_REPLY_EMPTY"),
        (http_reply(b"null"), "ERR_REPLY_EMPTY"),
        (http_reply(b"this is no JSON"), "ERR_REPLY_EMPTY"),
        (http_reply(b'{"a":1}'), "ERR_REPLY_EMPTY"),
        (http_reply(b'["other",null,1]'), "ERR_REPLY_RID"),
        (http_reply(b"oops", status="500 Oops"), GENERIC),
        (http_reply(b'["r1",null,1]', status="500 Oops"), GENERIC),
        (http_reply(b"", status="302 Found", headers="Location: /x\r\n"), GENERIC),
        (b"SSH-2.0-OpenSSH\r\n", GENERIC),
        (http_reply(b"x" * 5_000_000), "ERR_PAYLOAD_SIZE"),
        (
            http_reply(b"x", headers="Content-Encoding: br\r\n"),
            "ERR_REPLY_ENCODING_COMPRESSION",
        ),
    ],
)
async def test_http_replies_to_another_request_are_refused(http, reply, code):
    async with server(answering(reply)) as address:
        with pytest.raises(BadReply) as failed:
            await ask(http, address)
    assert (failed.value.code, failed.value.sent) == (code, True)


async def test_http_an_error_page_is_quoted_and_a_reply_with_an_error_status_is_taken(http):
    async with server(answering(http_reply(b"disk full", status="500 Oops"))) as address:
        with pytest.raises(BadReply, match="HTTP 500: disk full"):
            await ask(http, address)
    reply = http_reply(b'["r1","ERR_TOO_BIG",null]', status="413 Too Large")
    async with server(answering(reply)) as address:
        assert await ask(http, address) == RpcReply("r1", "ERR_TOO_BIG", None)


async def test_http_a_payload_that_is_no_json_is_refused_before_anything_is_sent(http):
    with pytest.raises(BadInput):
        http.encode("r1", "svc", {1, 2})


async def test_http_gzip_both_ways_without_content_encoding():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers, body = await read_request(reader)
        assert headers["grc-compress"] == "gzip"
        assert "content-encoding" not in headers
        writer.write(http_reply(gzip.compress(echo(gzip.decompress(body)))))
        await reader.read()

    transport = HttpTransport(compress=True)
    async with server(script) as address:
        assert (await ask(transport, address, "x" * 1000)).result == "x" * 1000
        await transport.close()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            gzip.compress(b"x" * 200_000, mtime=0),
            "ERR_REPLY_ENCODING_COMPRESSION",
        ),  # more than max_reply
        (gzip.compress(b'["r1",null,1]', mtime=0)[:-3], "ERR_REPLY_ENCODING_COMPRESSION"),
        (b'["r1",null,"plain"]', None),  # who does not compress is understood
    ],
)
async def test_http_compressed_replies_are_bounded_and_checked(body, code):
    transport = HttpTransport(compress=True, max_reply=100_000)
    async with server(answering(http_reply(body))) as address:
        if code is None:
            assert (await ask(transport, address)).result == "plain"
        else:
            with pytest.raises(BadReply) as failed:
                await ask(transport, address)
            assert failed.value.code == code
        await transport.close()


async def test_http_content_encoding_gzip_is_understood(http):
    reply = http_reply(gzip.compress(b'["r1",null,1]'), headers="Content-Encoding: gzip\r\n")
    async with server(answering(reply)) as address:
        assert (await ask(http, address)).result == 1


@pytest.mark.parametrize("idempotent", [True, False])
async def test_http_a_kept_connection_that_the_server_closed_with_the_request(http, idempotent):
    """The race that cannot be seen: only what is idempotent is sent again, on a new connection."""
    bodies: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = not bodies
        bodies.append((await read_request(reader))[1])
        writer.write(echoing(bodies[-1]))
        if first:
            bodies.append((await read_request(reader))[1])
            return
        await reader.read()

    async with server(script) as address:
        await ask(http, address, 1)
        if idempotent:
            assert (await ask(http, address, 2, idempotent=True)).result == 2
            assert http.status().connects == 2
            assert bodies[1] == bodies[2]
        else:
            with pytest.raises(RequestFailed) as failed:
                await ask(http, address, 2)
            assert failed.value.sent


async def test_http_when_one_kept_connection_is_dead_the_others_are_not_tried(http):
    seen: list[Any] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            _, body = await read_request(reader)
            seen.append(json.loads(body)[2])
            if seen.count("again") == 1:
                return
            await until(lambda: len(seen) >= 3)
            writer.write(echoing(body))

    async with server(script) as address:
        await asyncio.gather(*(ask(http, address, n) for n in range(3)))
        assert http.status().idle == 3
        assert (await ask(http, address, "again", idempotent=True)).result == "again"
        assert seen[3:] == ["again", "again"]
        assert http.status().connects == 4


async def test_http_a_worker_that_goes_away_after_a_kept_connection_broke_may_have_done_it(http):
    closing = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(echoing((await read_request(reader))[1]))
        await read_request(reader)
        listening.close()
        writer.close()
        closing.set()

    listening = await asyncio.start_server(script, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()
    await ask(http, address)
    with pytest.raises(RequestFailed, match="cannot connect") as failed:
        await ask(http, address, idempotent=True)
    assert failed.value.sent
    assert closing.is_set()
    await listening.wait_closed()


@pytest.mark.parametrize("header", ["Connection: close\r\n", "Keep-Alive: timeout=0\r\n"])
async def test_http_a_server_that_does_not_keep_connections_is_believed(http, header):
    def reply(body: bytes) -> bytes:
        return http_reply(echo(body), headers=header)

    async with server(answering(reply, reply)) as address:
        for n in range(2):
            assert (await ask(http, address, n)).result == n
        assert http.status().connects == 2


async def test_http_connections_are_closed_before_the_server_would(monkeypatch):
    monkeypatch.setattr(http_pool, "SWEEP", 0.01)
    transport = HttpTransport(idle=0.02)
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(echoing((await read_request(reader))[1]))
        assert await reader.read() == b""
        gone.set()

    async with server(script) as address:
        await ask(transport, address)
        async with asyncio.timeout(SOON):
            await gone.wait()
        assert transport.status().idle == 0
        assert not transport.pool._servers
        await transport.close()


async def test_http_unsolicited_bytes_end_the_connection(http, caplog):
    second = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n["r1",null,7]'
    push = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await read_request(reader)
            writer.write(echoing(body))
            if not push.is_set():
                await push.wait()
                writer.write(second)

    async with server(script) as address:
        await ask(http, address, 1)
        push.set()
        await until(lambda: not http.pool._open)
        assert (await ask(http, address, 2)).result == 2
    assert not caplog.records


async def test_http_a_cancelled_request_does_not_leave_its_connection_to_the_next(http):
    started = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        if json.loads(body)[2] == "slow":
            started.set()
            await reader.read()
            return
        writer.write(echoing(body))
        await reader.read()

    async with server(script) as address:
        slow = asyncio.ensure_future(ask(http, address, "slow"))
        await started.wait()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await ask(http, address, "quick")).result == "quick"
        assert http.status().connects == 2


async def test_http_requests_to_one_worker_are_bounded_and_wait_in_line(http):
    http.pool._connections = 2
    most = now = 0
    release = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        while True:
            _, body = await read_request(reader)
            now += 1
            most = max(most, now)
            await release.wait()
            now -= 1
            writer.write(echoing(body))

    async with server(script) as address:
        waiting = [asyncio.ensure_future(ask(http, address, n)) for n in range(6)]
        await until(lambda: now == 2)
        with pytest.raises(RequestTimeout, match="under way already") as failed:
            await ask(http, address, timeout=0.05)
        assert not failed.value.sent
        release.set()
        assert [reply.result for reply in await asyncio.gather(*waiting)] == list(range(6))
        assert most == 2


async def test_http_closing_fails_running_waiting_and_connecting_requests(monkeypatch):
    monkeypatch.setattr(http_pool, "MAX_CONNECTIONS", 1)
    started = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        started.set()
        await reader.read()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    plain = HttpTransport()
    tls = HttpTransport(tls=client_context(Identity.generate()), connect_timeout=SOON)
    async with server(script) as address, server(mute) as silent:
        under_way = [asyncio.ensure_future(ask(plain, address)) for _ in range(2)]
        connecting = asyncio.ensure_future(ask(tls, silent))
        await started.wait()
        await plain.close()
        await tls.close()
        async with asyncio.timeout(SOON / 2):
            ended = await asyncio.gather(*under_way, connecting, return_exceptions=True)
    assert [type(error) for error in ended] == [RequestFailed] * 3
    assert [error.code for error in ended] == [CLOSED] * 3
    assert [error.sent for error in ended] == [True, False, False]
    with pytest.raises(RequestFailed, match="was closed"):
        await ask(plain, address)


async def test_http_an_answer_before_the_request_was_read_ends_the_connection(http):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_reply(b'["r1","ERR_TOO_BIG",null]', status="413 Too Large"))
        await writer.drain()
        await done.wait()

    done = asyncio.Event()
    async with server(script, limit=1024) as address:
        reply = await ask(http, address, "x" * 30_000_000)
        assert reply.error == "ERR_TOO_BIG"
        assert http.status().idle == 0
        done.set()


async def test_http_tls_and_plain_do_not_mix(http):
    transport = HttpTransport(tls=client_context(Identity.generate()))
    async with server(answering(echoing)) as plain:
        with pytest.raises(RequestFailed) as failed:
            await ask(transport, plain)
        assert not failed.value.sent
    await transport.close()
    async with server(answering(echoing), ssl=server_context(Identity.generate())) as secure:
        with pytest.raises(RequestFailed) as failed:
            await ask(http, secure)
        assert failed.value.sent
