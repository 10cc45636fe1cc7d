"""Access to a Grape over HTTP; no request kills or stalls it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from fake_grape import NODE_ID, FakeGrape
from grape_http_kit import Api, running
from grenache_kit import silence

from p2p.grenache.grape.grape_http import GrapeApi, HostGuard, is_local_host


@pytest.fixture(params=["callbacks", "tasks", "aiohttp"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """In all ways: what is plain is answered directly, with or without a task, or all of it by aiohttp."""
    way = request.param
    async with running(direct=way != "aiohttp", callbacks=way == "callbacks") as found:
        yield found


# Who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:30001"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Host": "evil.example"},
        {"Host": "evil.example:30001"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "user@127.0.0.1"},
        {"Host": "127.0.0.1:port"},
    ],
)
async def test_pages_in_browsers_are_refused(api: Api, headers: dict[str, str]) -> None:
    body = b'{"data":["s",1]}'
    for method in ("POST", "GET", "OPTIONS"):
        status, text = await api.raw("announce", body, method=method, headers=headers)
        assert (status, text[:10]) == (403, b"ERR_GRAPE_")
        status, _ = await api.raw("status", b"", method=method, headers=headers)
        assert status == 403
    assert not api.grape.calls


@pytest.mark.parametrize(
    ("own_host", "passes"),
    [("192.0.2.7", True), ("2001:db8::1", True), ("127.0.0.9", False), ("::ffff:127.0.0.1", False)],
)
def test_any_host_name_passes_on_addresses_open_to_other_machines(
    own_host: str, passes: bool
) -> None:
    guard = HostGuard()
    for _ in range(2):
        assert (guard.refusal({"host": "grape.example:30001"}, own_host) is None) is passes
    assert guard.refusal({"host": "127.0.0.1", "origin": "http://x"}, own_host) is not None


async def test_an_old_client_without_host_passes(api: Api) -> None:
    body = b'{"data":"s"}'
    head = b"POST /lookup HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert (await api.send(head + body)).endswith(b"\r\n\r\n[]")


@pytest.mark.parametrize("header", ["", "10.0.0.1", "[fe80::1]", "x_y-1", "localhost."])
def test_hosts_without_public_dns_names_are_local(header: str) -> None:
    assert is_local_host(header)


@pytest.mark.parametrize("header", [":", "a.b", "a b", "[::1", "x/y", "x?y", "\n", "local:host:1"])
def test_host_headers_of_other_machines_are_not_local(header: str) -> None:
    assert not is_local_host(header)


# No request kills it or hangs


async def test_a_bug_is_answered_as_an_incident_and_the_api_continues(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.grape.fail = ZeroDivisionError("the secret of the house")
    status, text = await api.raw("lookup", b'{"data":"s"}')
    assert (status, text[:19]) == (500, b"ERR_GRAPE_INTERNAL:")
    assert b"secret" not in text
    incident = text.rsplit(maxsplit=1)[-1].decode()
    assert incident in caplog.text
    api.grape.fail = None
    assert await api.ask("lookup", "s") == (200, [])


async def test_bytes_that_are_no_http_get_400_and_nothing_in_the_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for junk in (
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"POST /lookup FTP/1\r\n\r\n",
        b"HELO x\r\n\r\n",
    ):
        assert b" 400 " in (await api.send(junk)).partition(b"\r\n")[0]
    assert not caplog.records
    assert await api.ask("lookup", "s") == (200, [])


async def test_a_payload_up_to_the_limit_is_taken(api: Api) -> None:
    empty = json.dumps({"data": "s", "rid": ""}).encode()
    body = json.dumps({"data": "s", "rid": "x" * (8192 - len(empty))}).encode()
    assert await api.raw("lookup", body) == (200, b"[]")
    assert await api.raw("lookup", body + b" ") == (413, b"ERR_GRAPE_PAYLOAD_SIZE")
    assert await api.ask("lookup", "s") == (200, [])


async def test_a_payload_without_a_length_has_the_same_limit(api: Api) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield b'{"data":"s"}'
        for _ in range(count):
            yield b" " * 1000

    async with api.client.post(f"{api.url}/lookup", data=chunks(8)) as reply:
        assert (reply.status, await reply.read()) == (200, b"[]")
    async with api.client.post(f"{api.url}/lookup", data=chunks(9)) as reply:
        assert (reply.status, await reply.read()) == (413, b"ERR_GRAPE_PAYLOAD_SIZE")


async def test_a_huge_body_is_refused_before_it_has_arrived(api: Api) -> None:
    head = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n"
    answer = await api.send(head, until=b"ERR_GRAPE_PAYLOAD_SIZE")
    assert b" 413 " in answer.partition(b"\r\n")[0]


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with running(body_timeout=0.05) as api:
        head = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{"
        answer = await api.send(head, until=b"0.05 s")
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert await api.ask("lookup", "s") == (200, [])


@pytest.mark.parametrize("callbacks", [False, True])
async def test_a_search_without_end_is_given_up(callbacks: bool) -> None:
    async with running(time_limit=0.05, callbacks=callbacks) as api:
        api.grape.gate.clear()
        status, text = await api.raw("lookup", b'{"data":"s"}')
        assert (status, text) == (504, b"ERR_GRAPE_TIMEOUT: no answer in 0.05 s")
        api.grape.gate.set()
        assert await api.ask("lookup", "s") == (200, [])


async def test_an_answer_that_comes_too_late_is_not_that_to_the_next_request() -> None:
    async with running(time_limit=0.1, callbacks=True) as api:
        assert await api.ask("announce", ["known", 9]) == (200, 1)
        reader, writer = await asyncio.open_connection(*api.address)
        api.grape.gate.clear()
        writer.write(lookup("known"))
        assert b"504" in await reader.readuntil(b"0.1 s")
        writer.write(lookup("unknown"))
        await asyncio.sleep(0.01)
        api.grape.gate.set()  # both are found now, the first one first
        assert (await reader.readuntil(b"]")).endswith(b"\r\n\r\n[]")
        assert api.api.counters.requests == 3
        writer.close()


async def test_a_connection_too_many_is_closed_in_silence_and_the_others_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(max_connections=2) as api:
        api.grape.gate.clear()
        asked = [asyncio.create_task(api.ask("lookup", "s")) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(api.grape.calls) < 2:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)
        with silence(caplog):
            for _ in range(20):
                with suppress(ConnectionError):
                    assert await api.send(b"") == b""
        api.grape.gate.set()
        assert await asyncio.gather(*asked) == [(200, [])] * 2
        assert await api.ask("lookup", "s") == (200, [])


def lookup(service: str, *headers: str, version: str = "1.1") -> bytes:
    """The bytes of a request."""
    body = json.dumps({"data": service}).encode()
    lines = [f"POST /lookup HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_requests_of_one_connection_are_answered_in_their_order(api: Api) -> None:
    api.grape.entries = {"a": [("127.0.0.1", 1)], "b": [("127.0.0.1", 2)]}
    answer = await api.send(lookup("a") + lookup("b"), until=b'"127.0.0.1:2"]')
    assert answer.index(b'"127.0.0.1:1"]') < answer.index(b'"127.0.0.1:2"]')


async def test_a_flood_of_requests_waits_at_its_sender(api: Api) -> None:
    """While one request is at work only a bounded part of those behind it is read."""
    api.grape.gate.clear()
    request = lookup("s", f"X: {'x' * 4000}")
    flood = 4000
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(request * flood)
    writing = asyncio.create_task(writer.drain())
    await api.grape.entered.wait()
    await asyncio.sleep(0.1)
    assert not writing.done()
    api.grape.gate.set()
    for _ in range(flood):
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n[]")
    await writing
    assert len(api.grape.calls) == flood
    writer.close()
    await writer.wait_closed()


async def test_clients_with_too_much_data_behind_a_pending_request_are_cut(api: Api) -> None:
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s", "X: not answered directly"))
    await api.grape.entered.wait()
    large = lookup("t", *(f"X: {'x' * 8000}" for _ in range(50)))
    with suppress(ConnectionError):
        for _ in range(32):
            writer.write(large)
            await writer.drain()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    api.grape.gate.set()
    await api.left(0)
    assert await api.ask("lookup", "u") == (200, [])
    assert [call[1] for call in api.grape.calls] == ["s", "u"]
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_behind_a_request_that_is_answered_directly_nothing_is_read(api: Api) -> None:
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s"))
    await api.grape.entered.wait()
    more = 2000
    writer.write(lookup("t", f"X: {'x' * 4000}") * more)
    writing = asyncio.create_task(writer.drain())
    await asyncio.sleep(0.1)
    assert not writing.done()
    assert len(api.grape.calls) == 1
    api.grape.gate.set()
    for _ in range(1 + more):
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n[]")
    await writing
    assert [call[1] for call in api.grape.calls] == ["s", *["t"] * more]
    writer.close()
    await writer.wait_closed()


# Life


async def test_the_status_describes_the_grape_and_the_api(api: Api) -> None:
    await api.ask("lookup", "s")
    await api.ask("lookup", "")
    await api.raw("lookup", b"no json")
    async with api.client.get(f"{api.url}/status") as reply:
        status = await reply.json()
    async with api.client.get(api.url) as reply:
        assert (await reply.json()).keys() == status.keys()
    assert await api.raw("status", b"{}", method="GET") == (200, b'"ERR_REQ_NOTFOUND"')
    assert status["grape"] == {
        "node_id": NODE_ID.hex(),
        "nodes": 3,
        "address": ["127.0.0.1", 20001],
    }
    counted = {name: status["api"][name] for name in ("requests", "errors", "refused", "failed")}
    assert counted == {"requests": 4, "errors": 1, "refused": 1, "failed": 0}
    assert status["api"]["url"] == api.url
    assert status["api"]["connections"] == 1


async def test_stopping_ends_connections_and_can_be_repeated() -> None:
    api = GrapeApi(FakeGrape())
    host, port = await api.start("localhost", 0)
    assert (host, api.url) == ("127.0.0.1", f"http://127.0.0.1:{port}")
    reader, writer = await asyncio.open_connection(host, port)
    await api.stop()
    await api.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    with pytest.raises(RuntimeError):
        _ = api.address


async def test_stopping_does_not_wait_for_a_search_without_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.grenache.rpc.rpc_server.CLOSE_TIMEOUT", 0.05)
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s"))
    await api.grape.entered.wait()
    async with asyncio.timeout(5):
        await api.api.stop()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_the_api_starts_again_after_a_stop_and_after_a_taken_port() -> None:
    async with running() as first:
        api = GrapeApi(FakeGrape())
        with pytest.raises(OSError, match="in use"):
            await api.start("127.0.0.1", first.address[1])
        await api.start("127.0.0.1", 0)
        with pytest.raises(RuntimeError):
            await api.start("127.0.0.1", 0)
        await api.stop()
