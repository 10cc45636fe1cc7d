"""Our client and subscriber with real Node.js workers and publishers: each outcome that they have."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from real import NodeProgram, RealGrape, eventually

from p2p.grenache.directory import Address
from p2p.grenache.errors import LookupEmpty, RemoteError, RequestFailed, RequestTimeout
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_client import Client, ClientSettings
from p2p.grenache.rpc.rpc_transport import BadReply
from p2p.grenache.rpc.subscriber import Subscriber
from tests.ports import free_port

KINDS = ("http", "ws")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(npm: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`program, address = await start("http_worker.js", settings)`; all are stopped at the end."""
    running: list[NodeProgram] = []

    async def begin(name: str, **settings: Any) -> tuple[NodeProgram, Address]:
        program = NodeProgram(name, tmp_path / f"{len(running)}-{name}.log", settings)
        running.append(await program.start())
        return program, ("127.0.0.1", (await program.line())["port"])

    yield begin
    for program in running:
        await program.stop()


@pytest.fixture
async def link(grapes: list[RealGrape]) -> AsyncIterator[Link]:
    async with Link([grape.url for grape in grapes]) as made:
        yield made


@pytest.fixture
async def client(link: Link, kind: str) -> AsyncIterator[Client]:
    async with Client(link, transport=kind) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
async def asked(
    client: Client, kind: str, start: Callable[..., Any], service: str, grapes: list[RealGrape]
) -> Callable[..., Any]:
    """`await asked(payload)`: of a worker that was announced to a real Grape."""
    await start(f"{kind}_worker.js", grape=grapes[0].url, service=service)

    async def ask(payload: Any, timeout: float = 5.0, **more: Any) -> Any:
        return await client.request(service, payload, timeout=timeout, **more)

    return ask


# Replies


@pytest.mark.parametrize(
    "payload",
    [
        "hello",
        {"n": [1, 2.5, None, True], "é": "✓ \u2028 𝄞"},
        None,
        "",
        [],
        "x" * 3_000_000,
        -(2**53) + 1,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
async def test_a_payload_comes_back_as_it_was_sent(asked, payload):
    assert await asked(payload) == payload


async def test_a_workers_error_and_its_details(asked):
    with pytest.raises(RemoteError) as failed:
        await asked({"action": "error", "error": "ERR_MINE", "partial": {"n": 1}}, idempotent=True)
    assert (failed.value.code, failed.value.result) == ("ERR_MINE", {"n": 1})
    assert await asked({"action": "bare-error"}) is None  # lost by the real library, not by us


async def test_an_error_that_is_no_text_is_given_as_json(asked):
    with pytest.raises(RemoteError) as failed:
        await asked({"action": "object-error"})
    assert failed.value.code == '{"code":7}'


async def test_a_reply_without_a_result_is_none(asked):
    assert await asked({"action": "short"}) is None


async def test_an_invalid_reply_fails_at_once(asked):
    for action in ("not-json", "empty", "null", "not-array"):
        began = time.monotonic()
        with pytest.raises(BadReply) as failed:
            await asked({"action": action}, timeout=10.0)
        assert (failed.value.code, failed.value.sent) == ("ERR_REPLY_EMPTY", True)
        assert time.monotonic() - began < 5.0


async def test_a_wrong_rid(asked, kind):
    with pytest.raises(RequestFailed) as failed:
        await asked({"action": "wrong-rid"}, timeout=0.5)
    # A frame with another rid can belong to another request; over HTTP it cannot.
    assert failed.value.code == ("ERR_REPLY_RID" if kind == "http" else "ERR_TIMEOUT")
    assert failed.value.sent


async def test_missing_replies_time_out_when_the_caller_asked_for_it(asked):
    began = time.monotonic()
    with pytest.raises(RequestTimeout) as failed:
        await asked({"action": "no-reply"}, timeout=0.4)
    assert failed.value.sent
    assert 0.35 < time.monotonic() - began < 3.0


async def test_a_connection_that_is_closed_or_cut_instead_of_a_reply(asked):
    for action in ("close", "cut"):
        began = time.monotonic()
        with pytest.raises(RequestFailed) as failed:
            await asked({"action": action}, timeout=10.0)
        assert failed.value.sent
        assert not isinstance(failed.value, RequestTimeout)
        assert time.monotonic() - began < 5.0
    assert await asked("still there") == "still there"


@pytest.mark.parametrize("kind", ["http"], indirect=True)
async def test_http_statuses(asked):
    with pytest.raises(BadReply, match="HTTP 500: disk full"):
        await asked({"action": "status", "status": 500, "text": "disk full"})
    elsewhere = {"Location": "http://127.0.0.1:1/"}
    with pytest.raises(BadReply, match="HTTP 302"):
        await asked({"action": "status", "status": 302, "text": "x", "headers": elsewhere})
    with pytest.raises(RemoteError, match="ERR_STATUS"):  # a reply that is one is understood
        await asked({"action": "status", "status": 503})


async def test_http_gzip(link, start, service, grapes):
    await start("http_worker.js", grape=grapes[0].url, service=service)
    async with Client(link, compress=True, settings=ClientSettings(max_reply=2_000_000)) as client:
        for payload in ("hello", {"é": "✓"}, "x" * 1_000_000):
            assert await client.request(service, payload) == payload
        with pytest.raises(RemoteError, match="ERR_MINE"):
            await client.request(service, {"action": "error", "error": "ERR_MINE"})
        with pytest.raises(BadReply) as failed:  # 2 kB on the wire
            await client.request(service, {"action": "big", "size": 3_000_000})
        assert failed.value.code == "ERR_REPLY_ENCODING_COMPRESSION"


async def test_a_reply_beyond_the_limit(link, kind, start, service, grapes):
    await start(f"{kind}_worker.js", grape=grapes[0].url, service=service)
    async with Client(link, transport=kind, settings=ClientSettings(max_reply=100_000)) as client:
        assert len(await client.request(service, {"action": "big", "size": 90_000})) == 90_000
        with pytest.raises(RequestFailed) as failed:
            await client.request(service, {"action": "big", "size": 200_000}, timeout=5.0)
        assert failed.value.sent
        assert not isinstance(failed.value, RequestTimeout)
        assert await client.request(service, 1) == 1


async def test_connections_are_kept_but_never_until_the_worker_closes_them(
    link, start, service, grapes
):
    """A Node.js worker closes a connection that is idle for five seconds."""
    await start("http_worker.js", grape=grapes[0].url, service=service)

    async def after(pause: float) -> int:
        async with Client(link) as client:
            for _ in range(2):  # not idempotent: none may be lost
                assert await client.request(service, pause) == pause
                await asyncio.sleep(pause)
            return client.status().transport.connects

    pauses = (0.0, 2.0, 4.9, 4.99, 5.0, 5.01, 5.1)
    connects = await asyncio.gather(*(after(pause) for pause in pauses))
    assert connects == [1 if pause < 3.0 else 2 for pause in pauses]


# Many at once, and death


async def test_many_requests_at_once_get_their_own_replies(asked, client, kind):
    results = await asyncio.gather(
        *(asked({"action": "slow", "ms": n % 7, "n": n}) for n in range(300))
    )
    assert [result["n"] for result in results] == list(range(300))
    if kind == "ws":
        assert client.status().transport.connects == 1


async def test_a_dying_worker_fails_the_requests_under_way_at_once(
    client, kind, start, service, grapes
):
    worker, _ = await start(f"{kind}_worker.js", grape=grapes[0].url, service=service)
    await client.request(service, 1)
    waiting = [
        asyncio.ensure_future(client.request(service, {"action": "no-reply"}, timeout=30.0))
        for _ in range(10)
    ]
    async with asyncio.timeout(20):
        while await client.request(service, {"action": "unanswered"}) < len(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    began = time.monotonic()
    await worker.stop()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.monotonic() - began < 5.0
    assert all(type(error) is RequestFailed and error.sent for error in ended)
    with pytest.raises(RequestFailed, match="cannot connect") as failed:
        await client.request(service, 3)
    assert not failed.value.sent


async def test_twelve_workers_one_dies_no_call_fails_and_all_are_used(
    client, kind, start, service, grapes
):
    started = [
        await start(f"{kind}_worker.js", grape=grapes[0].url, service=service) for _ in range(12)
    ]
    who = {"action": "pid"}
    used: list[Any] = []

    async def calls(count: int) -> None:
        for _ in range(count):
            said = await client.request(service, who, idempotent=True)
            used.append(said)

    await asyncio.gather(*(calls(25) for _ in range(8)))
    dying = asyncio.gather(*(calls(25) for _ in range(8)))
    await started[0][0].stop()
    await dying
    after = len(used)
    await asyncio.gather(*(calls(25) for _ in range(8)))
    assert len(used) == 600
    assert {program.pid for program, _ in started} == set(used)
    assert started[0][0].pid not in used[after:]


async def test_map_with_a_dead_worker_and_one_that_refuses(client, kind, start, service, grapes):
    started = [
        await start(f"{kind}_worker.js", grape=grapes[0].url, service=service) for _ in range(3)
    ]
    await started[1][0].stop()
    results = {said.address: said for said in await client.map(service, {"action": "pid"})}
    assert set(results) == {address for _, address in started}
    for number, (program, address) in enumerate(started):
        if number == 1:
            error = results[address].error
            assert isinstance(error, RequestFailed)
            assert not error.sent
        else:
            assert (results[address].result, results[address].error) == (program.pid, None)
    client.own = started[0][1]
    said = await client.map(service, {"action": "error", "error": "ERR_MINE", "partial": 1})
    assert {each.address for each in said} == {started[1][1], started[2][1]}
    assert sorted((str(each.error)[:8], each.result) for each in said if each.result) == [
        ("ERR_MINE", 1)
    ]


async def test_request_at_needs_no_grape(client, kind, start, service):
    program, address = await start(f"{kind}_worker.js")
    assert await client.request_at(address, service, {"action": "pid"}, 5.0) == program.pid


# Looking up


async def test_a_worker_is_found_right_after_it_was_announced(client, kind, start, service, grapes):
    """The real client would not see it for ten seconds: it remembers that nobody was there."""
    with pytest.raises(LookupEmpty):
        await client.request(service, 1)
    await start(f"{kind}_worker.js", grape=grapes[0].url, service=service)
    began = time.monotonic()
    assert await client.request(service, 2) == 2
    assert time.monotonic() - began < 5.0


async def test_a_second_worker_is_used_two_seconds_after_its_announcement(
    client, kind, start, service, grapes
):
    await start(f"{kind}_worker.js", grape=grapes[0].url, service=service)
    await client.request(service, 1)
    second, _ = await start(f"{kind}_worker.js", grape=grapes[1].url, service=service)

    async def used() -> bool:
        return bool(await client.request(service, {"action": "pid"}) == second.pid)

    await eventually(used, 3.0, what="the second worker to be asked")


async def test_clients_that_know_workers_do_not_notice_dead_grapes(
    npm, own_grapes, kind, start, service
):
    program, _ = await start(f"{kind}_worker.js", grape=own_grapes[0].url, service=service)
    async with (
        Link([grape.url for grape in own_grapes]) as link,
        Client(link, transport=kind) as client,
    ):
        assert await client.request(service, 1) == 1
        for grape in own_grapes:
            grape.kill()
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            began = time.monotonic()
            assert await client.request(service, {"action": "pid"}) == program.pid
            assert time.monotonic() - began < 5.0  # less than any answer of a Grape is waited for
            await asyncio.sleep(0.05)


# TLS


async def test_tls_both_sides_show_certificates(link, kind, start, service, grapes, tmp_path):
    made = Certificates(tmp_path)
    await start(
        f"{kind}_worker.js",
        grape=grapes[0].url,
        service=service,
        secure=made.paths("worker"),
        requestCert=True,
        rejectUnauthorized=True,
    )
    async with Client(link, transport=kind, tls=made.context("client")) as client:
        assert await client.request(service, "secret") == "secret"
        shown = await client.request(service, {"action": "certificate"})
        assert shown == made.fingerprint("client")
    stranger = ssl.create_default_context(cafile=made.paths("client")["ca"])
    async with Client(link, transport=kind, tls=stranger) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.request(service, "secret", timeout=5.0)
        assert not isinstance(failed.value, RequestTimeout)
    async with Client(link, transport=kind) as client:
        with pytest.raises(RequestFailed):
            await client.request(service, "secret", timeout=5.0)


async def test_tls_a_worker_with_another_certificate_is_sent_nothing(
    link, kind, start, service, grapes, tmp_path
):
    made, other = Certificates(tmp_path / "one"), Certificates(tmp_path / "two")
    await start(
        f"{kind}_worker.js", grape=grapes[0].url, service=service, secure=other.paths("worker")
    )
    async with Client(link, transport=kind, tls=made.context("client")) as client:
        with pytest.raises(RequestFailed, match="cannot connect") as failed:
            await client.request(service, "secret", timeout=5.0)
        assert not failed.value.sent


# Publish and subscribe


async def test_a_subscription_to_a_real_publisher(link, start, service, grapes):
    program, address = await start("pub.js", grape=grapes[0].url, service=service)

    async def publish(text: str) -> None:
        async def sent() -> bool:
            return bool((await program.ask({"sockets": True}))["sockets"])

        await eventually(sent, what="the subscriber to be connected")
        await program.ask({"pub": text})

    async with Subscriber(link, service) as messages:
        async with asyncio.timeout(20.0):
            assert await messages.connected() == address
            for text in ("hello", '{"é": "✓"}', "x" * 1_000_000):
                await publish(text)
                assert await anext(messages) == text


async def test_a_subscription_goes_on_with_another_publisher(link, start, service, grapes):
    started = {}
    for _ in range(2):
        program, address = await start("pub.js", grape=grapes[0].url, service=service)
        started[address] = program
    async with Subscriber(link, service) as messages, asyncio.timeout(30.0):
        first = await messages.connected()
        await started.pop(first).stop()
        [(address, program)] = started.items()

        async def moved() -> bool:
            return messages.status().publisher == address

        await eventually(moved, what="the other publisher")
        await program.ask({"pub": "from the other"})
        assert await anext(messages) == "from the other"


async def test_a_dead_address_among_the_publishers_is_skipped(link, start, service, grapes):
    """The real subscriber's process dies of one."""
    await link.announce(service, free_port())
    _, address = await start("pub.js", grape=grapes[0].url, service=service)
    async with Subscriber(link, service) as messages, asyncio.timeout(20.0):
        assert await messages.connected() == address
