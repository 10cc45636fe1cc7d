"""One request to one worker over HTTP and WebSocket: what each fault is told as, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from grenache_client_kit import (
    echo,
    http_reply,
    read_request,
    server,
    until,
    unused_address,
)

from p2p.grenache.errors import BadInput, RequestFailed, RequestTimeout
from p2p.grenache.ports import Address
from p2p.grenache.rpc import http_transport, ws_transport
from p2p.grenache.rpc.http_transport import HttpTransport
from p2p.grenache.rpc.transports import CLOSED, GENERIC, BadReply
from p2p.grenache.rpc.wire import Reply
from p2p.grenache.rpc.ws_transport import WsTransport
from p2p.identity import Identity
from p2p.tls import client_context, server_context

SOON = 5.0  # seconds; only a failure waits so long


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


async def ask(
    transport: HttpTransport | WsTransport,
    address: Address,
    payload: Any = "hi",
    *,
    rid: str = "r1",
    timeout: float = SOON,
    **more: Any,
) -> Reply:
    body = transport.encode(rid, "svc", payload)
    return await transport.request(address, rid, body, timeout=timeout, **more)


def answering(*replies: bytes | Callable[[bytes], bytes]) -> Any:
    """A script that answers requests on one connection with these in turn, then reads on. An empty one
    ends the connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            _, body = await read_request(reader)
            data = reply(body) if callable(reply) else reply
            if not data:
                return
            writer.write(data)
            await writer.drain()
        await reader.read()

    return script


def echoing(body: bytes) -> bytes:
    return http_reply(echo(body))


# HTTP


async def test_http_replies_come_back_over_one_kept_connection(http):
    async with server(answering(echoing, echoing, echoing)) as address:
        for n in range(3):
            assert await ask(http, address, {"n": n, "é": "✓"}) == Reply(
                "r1", None, {"n": n, "é": "✓"}
            )
        status = http.status()
        assert (status.requests, status.connects, status.busy, status.idle) == (3, 1, 0, 1)


async def test_http_the_bytes_that_a_node_worker_expects(http):
    seen: list[Any] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(http_reply(echo(seen[0][1])))

    async with server(script) as address:
        await ask(http, address, None)
    headers, body = seen[0]
    assert headers["grc-compress"] == "none"
    assert headers["content-type"] == "text/plain;charset=UTF-8"
    assert json.loads(body) == ["r1", "svc", None]


async def test_http_a_workers_error_is_a_reply_and_a_result_can_come_with_it(http):
    reply = http_reply(b'["r1","ERR_MY_APP",{"partial":1}]')
    async with server(answering(reply)) as address:
        assert await ask(http, address) == Reply("r1", "ERR_MY_APP", {"partial": 1})


async def test_http_refused_was_not_sent(http):
    host, port = unused_address()
    with pytest.raises(RequestFailed) as failed:
        await ask(http, (host, port))
    assert failed.value.detail == f"cannot connect to {host}:{port}: connection refused"
    assert (failed.value.code, failed.value.sent) == (GENERIC, False)


async def test_http_a_host_that_does_not_exist_was_not_sent(http):
    with pytest.raises(RequestFailed) as failed:
        await ask(http, ("no.such.host.invalid", 80))
    assert not failed.value.sent


async def test_a_port_that_cannot_be_is_told_as_any_failure(http, ws):
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
        with pytest.raises(RequestFailed, match="no reply, the worker closed") as failed:
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
            await ask(http, address, timeout=0.03)
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
async def test_http_what_is_no_reply_to_the_request(http, reply, code):
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
        assert await ask(http, address) == Reply("r1", "ERR_TOO_BIG", None)


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


def blocking_server() -> tuple[socket.socket, Address]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening, listening.getsockname()


async def test_http_a_close_that_the_event_loop_has_not_seen_yet_is_found(http):
    """The loop was busy while the server closed: without a look the request would go down the drain."""
    listening, address = blocking_server()
    close, closed = threading.Event(), threading.Event()
    served: list[bytes] = []

    def serve() -> None:
        for first in (True, False):
            connection, _ = listening.accept()
            with connection:
                data = connection.recv(65536)
                served.append(data)
                connection.sendall(echoing(data.partition(b"\r\n\r\n")[2]))
                if first:
                    close.wait(SOON)
            closed.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        await ask(http, address, 1)
        close.set()
        assert closed.wait(SOON)  # blocks the loop on purpose
        assert (await ask(http, address, 2)).result == 2  # not idempotent: it must not be lost
        assert (len(served), http.status().connects) == (2, 2)
    finally:
        thread.join()
        listening.close()


async def test_http_a_connection_closed_by_the_server_is_not_used_again(http):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(echoing((await read_request(reader))[1]))  # and close, without saying so

    async with server(script) as address:
        for n in range(3):
            assert (await ask(http, address, n)).result == n
            await until(lambda: not http._open)  # the loop is told of the end


@pytest.mark.parametrize("header", ["Connection: close\r\n", "Keep-Alive: timeout=0\r\n"])
async def test_http_a_server_that_does_not_keep_connections_is_believed(http, header):
    def reply(body: bytes) -> bytes:
        return http_reply(echo(body), headers=header)

    async with server(answering(reply, reply)) as address:
        for n in range(2):
            assert (await ask(http, address, n)).result == n
        assert http.status().connects == 2


async def test_http_connections_are_closed_before_the_server_would(monkeypatch):
    monkeypatch.setattr(http_transport, "SWEEP", 0.01)
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
        assert not transport._workers
        await transport.close()


async def test_http_bytes_that_nobody_asked_for_end_the_connection(http, caplog):
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
        await until(lambda: not http._open)
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


async def test_http_requests_to_one_worker_are_bounded_and_wait_in_line(http, monkeypatch):
    monkeypatch.setattr(http_transport, "MAX_CONNECTIONS", 2)
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


async def test_http_closing_fails_what_is_under_way_waiting_and_connecting(monkeypatch):
    monkeypatch.setattr(http_transport, "MAX_CONNECTIONS", 1)
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
        async with asyncio.timeout(1.0):
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


async def test_http_tls_both_sides_show_a_certificate():
    theirs, ours = Identity.generate(), Identity.generate()
    shown: list[Any] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("peercert")["subject"])
        while True:
            writer.write(echoing((await read_request(reader))[1]))

    transport = HttpTransport(tls=client_context(ours))
    async with server(script, ssl=server_context(theirs)) as address:
        for n in range(2):
            assert (await ask(transport, address, n)).result == n
        assert transport.status().connects == 1
        assert ours.node_id in str(shown[0])
        await transport.close()


async def test_http_a_client_without_a_certificate_is_not_served():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it let a stranger in")

    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    transport = HttpTransport(tls=stranger)
    async with server(script, ssl=server_context(Identity.generate())) as address:
        with pytest.raises(RequestFailed, match="no reply"):
            await ask(transport, address)
        await transport.close()


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


# WebSocket


@asynccontextmanager
async def socket_server(
    script: Callable[[web.WebSocketResponse, Any], Any],
    *,
    tls: ssl.SSLContext | None = None,
    accept: Callable[[], Any] | None = None,
    at_once: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Address, list[web.WebSocketResponse]]]:
    """Runs `script(socket, frame as JSON)` for each frame; also gives all sockets that were accepted.
    `at_once`: they are closed when they are."""
    sockets: list[web.WebSocketResponse] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if accept is not None:
            await accept()
        opened = web.WebSocketResponse(**options)
        await opened.prepare(request)
        sockets.append(opened)
        if at_once:
            await opened.close()
        async for message in opened:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            await script(opened, json.loads(message.data))
        return opened

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0], sockets
    finally:
        for opened in sockets:
            await opened.close()
        await runner.cleanup()


async def replying(opened: web.WebSocketResponse, frame: Any) -> None:
    await opened.send_json([frame[0], None, frame[2]])


async def never(opened: web.WebSocketResponse, frame: Any) -> None:
    pass


async def test_ws_many_requests_on_one_connection_replies_in_any_order(ws):
    frames: list[Any] = []

    async def backwards(opened: web.WebSocketResponse, frame: Any) -> None:
        frames.append(frame)
        if len(frames) == 50:
            for rid, _, payload in reversed(frames):
                await opened.send_json([rid, None, payload])

    async with socket_server(backwards) as (address, sockets):
        replies = await asyncio.gather(*(ask(ws, address, n, rid=f"r{n}") for n in range(50)))
    assert [reply.result for reply in replies] == list(range(50))
    assert len(sockets) == 1
    assert ws.status().connects == 1


async def test_ws_a_workers_error_and_a_binary_frame_are_replies(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_bytes(json.dumps([frame[0], "ERR_MY_APP", {"partial": 1}]).encode())

    async with socket_server(script) as (address, _):
        assert await ask(ws, address) == Reply("r1", "ERR_MY_APP", {"partial": 1})


async def test_ws_a_dead_address_is_refused_and_raises_nowhere_else(ws, caplog):
    address = unused_address()
    ended = await asyncio.gather(
        *(ask(ws, address, rid=f"r{n}") for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(error, RequestFailed) and not error.sent for error in ended)
    assert ws.status().connects == 1  # they shared the attempt
    with pytest.raises(RequestFailed) as failed:
        await ask(ws, address)
    assert failed.value.detail == f"cannot connect to {address[0]}:{address[1]}: connection refused"
    assert not caplog.records


async def test_ws_a_connection_that_ends_fails_what_is_under_way_at_once(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        if frame[2] == "die":
            assert opened._req is not None
            opened._req.transport.abort()

    async with socket_server(script) as (address, _):
        waiting = [asyncio.ensure_future(ask(ws, address, rid=f"r{n}")) for n in range(3)]
        await asyncio.sleep(0.01)
        began = time.monotonic()
        waiting.append(asyncio.ensure_future(ask(ws, address, "die", rid="last")))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.monotonic() - began < 1.0
    assert all(isinstance(error, RequestFailed) for error in ended)
    assert {(error.code, error.sent) for error in ended} == {(CLOSED, True)}


async def test_ws_connects_again_after_the_connection_was_closed(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await replying(opened, frame)
        if frame[2] == "last":
            await opened.close()

    async with socket_server(script) as (address, sockets):
        for payload in (1, "last", 2, "last", 3):
            assert (await ask(ws, address, payload)).result == payload
            await until(lambda payload=payload: payload != "last" or not ws._links)
        assert len(sockets) == 3


async def test_ws_a_connection_that_ends_as_soon_as_it_is_made_holds_nobody_up(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        raise AssertionError("it was to be closed")

    async with socket_server(script, at_once=True) as (address, sockets):
        for n in range(10):
            began = time.monotonic()
            with pytest.raises(RequestFailed, match="ended"):
                await ask(ws, address, n)
            assert time.monotonic() - began < SOON / 2
        assert len(sockets) == 10


async def test_ws_each_request_has_its_own_timeout_and_late_replies_disturb_nobody(ws):
    held: list[Any] = []

    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        if frame[2] == "hold":
            held.append(frame)
            return
        for late in held:
            await replying(opened, late)
        await opened.send_json(["unknown", None, 1])
        await opened.send_str("this is no JSON")
        await replying(opened, frame)

    async with socket_server(script) as (address, sockets):
        with pytest.raises(RequestTimeout) as failed:
            await ask(ws, address, "hold", rid="r1", timeout=0.03)
        assert failed.value.sent
        other = asyncio.ensure_future(ask(ws, address, "hold", rid="r3", timeout=SOON))
        await until(lambda: len(held) == 2)
        assert (await ask(ws, address, "go", rid="r2")).result == "go"
        assert (await other).result == "hold"
        assert len(sockets) == 1
        assert ws.strays == 3


@pytest.mark.parametrize("text", ["", "null", "this is no JSON", '{"a":1}'])
async def test_ws_what_is_no_reply_fails_the_only_request_it_can_be_for(ws, text):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_str(text)

    async with socket_server(script) as (address, _):
        with pytest.raises(BadReply) as failed:
            await ask(ws, address)
    assert (failed.value.code, failed.value.sent) == ("ERR_REPLY_EMPTY", True)


async def test_ws_a_wrong_rid_is_no_reply(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_json(["other", None, 1])

    async with socket_server(script) as (address, _):
        with pytest.raises(RequestTimeout):
            await ask(ws, address, timeout=0.05)


async def test_ws_a_frame_beyond_the_limit_ends_the_connection():
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_json([frame[0], None, "x" * 2000])

    ws = WsTransport(max_reply=1000)
    async with socket_server(script) as (address, _):
        with pytest.raises(RequestFailed) as failed:
            await ask(ws, address)
        assert failed.value.sent
        await ws.close()


async def test_ws_a_worker_that_is_no_websocket_or_sends_elsewhere_is_refused(ws):
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/other"})

    async with server(answering(echoing)) as address:
        with pytest.raises(RequestFailed):
            await ask(ws, address, timeout=0.1)
    app = web.Application()
    app.router.add_get("/other", page)
    app.router.add_get("/ws", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with pytest.raises(RequestFailed, match="redirect") as failed:
        await ask(ws, runner.addresses[0])
    assert not failed.value.sent
    await runner.cleanup()


async def test_ws_a_connection_that_is_not_made_in_time(ws):
    entered = asyncio.Event()

    async def stuck() -> None:
        entered.set()
        await asyncio.sleep(SOON)

    async with socket_server(never, accept=stuck) as (address, _):
        with pytest.raises(RequestTimeout, match="no connection") as failed:
            await ask(ws, address, timeout=0.03)
        assert not failed.value.sent
        with pytest.raises(RequestTimeout, match="no connection"):
            await ask(ws, address, timeout=SOON, connect_timeout=0.03)
        await ws.close()


async def test_ws_a_worker_that_vanished_is_found_by_pings(monkeypatch):
    monkeypatch.setattr(ws_transport, "HEARTBEAT", 0.05)
    ws = WsTransport()

    async with socket_server(never, autoping=False) as (address, _):
        with pytest.raises(RequestFailed) as failed:
            await ask(ws, address, timeout=SOON)
        assert failed.value.code == CLOSED
        await ws.close()


async def test_ws_an_idle_connection_is_closed_and_one_in_use_is_not(monkeypatch):
    monkeypatch.setattr(ws_transport, "SWEEP", 0.01)
    ws = WsTransport(idle=0.03)
    release = asyncio.Event()

    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await release.wait()
        await replying(opened, frame)

    async with socket_server(script) as (address, sockets):
        waiting = asyncio.ensure_future(ask(ws, address))
        await asyncio.sleep(0.1)
        release.set()
        assert (await waiting).result == "hi"
        await until(lambda: not ws._links and sockets[0].closed)
        assert sockets[0].close_code == 1000
        await ws.close()


async def test_ws_under_way_is_bounded(ws, monkeypatch):
    monkeypatch.setattr(ws_transport, "MAX_UNDER_WAY", 2)
    async with socket_server(never) as (address, _):
        waiting = [asyncio.ensure_future(ask(ws, address, rid=f"r{n}")) for n in range(2)]
        await asyncio.sleep(0.02)
        with pytest.raises(RequestFailed, match="2 requests are under way") as failed:
            await ask(ws, address, rid="r9")
        assert not failed.value.sent
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not ws._links[address].under_way


async def test_ws_a_worker_that_does_not_read_holds_up_its_own_requests_only():
    """Requests that time out leave no heap of bytes behind: the ones after the first are not sent."""
    listening, address = blocking_server()
    resume = threading.Event()
    received = 0

    def serve() -> None:
        nonlocal received
        connection, _ = listening.accept()
        with connection:
            found = re.search(rb"(?i)sec-websocket-key: (\S+)", connection.recv(65536))
            assert found is not None
            digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            accept = base64.b64encode(digest)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            resume.wait(SOON)
            connection.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while data := connection.recv(1 << 20):
                    received += len(data)

    thread = threading.Thread(target=serve)
    thread.start()
    ws = WsTransport()
    try:
        ended = await asyncio.gather(
            *(ask(ws, address, "x" * 10_000_000, rid=f"r{n}", timeout=0.5) for n in range(3)),
            return_exceptions=True,
        )
        assert [type(error) for error in ended] == [RequestTimeout] * 3
        assert [error.sent for error in ended] == [True, False, False]
        resume.set()
        await asyncio.to_thread(thread.join)
        assert 10_000_000 < received < 11_000_000
    finally:
        resume.set()
        await ws.close()
        thread.join()
        listening.close()


async def test_ws_closing_fails_what_is_under_way():
    ws = WsTransport()
    async with socket_server(never) as (address, _):
        waiting = asyncio.ensure_future(ask(ws, address))
        await asyncio.sleep(0.02)
        await ws.close()
        with pytest.raises(RequestFailed, match="was closed") as failed:
            await waiting
        assert failed.value.code == CLOSED
        with pytest.raises(RequestFailed, match="was closed"):
            await ask(ws, address)


async def test_ws_tls_both_sides_show_a_certificate():
    ws = WsTransport(tls=client_context(Identity.generate()))
    async with socket_server(replying, tls=server_context(Identity.generate())) as (address, _):
        assert (await ask(ws, address, 1)).result == 1
        await ws.close()
