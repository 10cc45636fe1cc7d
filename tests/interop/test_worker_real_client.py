"""Our worker and publisher, called by the real Node.js clients, found through real Grapes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from grenache_worker_kit import with_limits
from real import NodeProgram, RealGrape, eventually

from p2p.grenache.errors import RemoteError
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.publisher import Publisher
from p2p.grenache.rpc.rpc_worker import Request, Worker
from tests.unit.kits.grenache_kit import Pair, make_certificates, server_context

BOTH = pytest.mark.parametrize("transport", ["http", "ws"])


class Caller:
    """A real client. `ask` gives (error, result)."""

    def __init__(self, program: NodeProgram, service: str) -> None:
        self.program = program
        self.service = service
        self._id = 0

    async def send(self, **command: Any) -> int:
        self._id += 1
        await self.program.send({"service": self.service, "id": self._id, **command})
        return self._id

    async def reply(self, number: int) -> tuple[str | None, Any]:
        line = await self.program.line()
        assert line["id"] == number, line
        return line["error"], line.get("result")

    async def ask(self, payload: Any = None, **command: Any) -> tuple[str | None, Any]:
        return await self.reply(await self.send(payload=payload, **command))


class Setting:
    """Starts workers of ours and clients of theirs, and ends them."""

    def __init__(self, stack: AsyncExitStack, link: Link, grape: str, log: Path) -> None:
        self.stack = stack
        self.link = link
        self.grape = grape
        self.log = log
        self.entered = asyncio.Event()
        self.requests: list[Request] = []

    async def handle(self, request: Request) -> Any:
        self.requests.append(request)
        ask = request.payload if isinstance(request.payload, dict) else {}
        match ask.get("action"):
            case "error":
                raise RemoteError("ERR_MY_APP", ask.get("partial"))
            case "fail":
                raise RuntimeError("boom")
            case "object":
                return object()
            case "never":
                self.entered.set()
                await asyncio.Event().wait()
            case "big":
                return "x" * ask["size"]
        return request.payload

    async def worker(self, service: str, **more: Any) -> Worker:
        worker = await self.stack.enter_async_context(
            Worker(directory=self.link, **with_limits(more))
        )
        worker.serve(service, self.handle)
        await worker.start("127.0.0.1")
        await worker.announced()
        self.stack.push_async_callback(worker.stop, grace=0.0)
        return worker

    async def caller(self, transport: str, service: str, pair: Pair | None = None) -> Caller:
        settings: dict[str, Any] = {"grape": self.grape}
        if pair is not None:
            settings["secure"] = {name: str(getattr(pair, name)) for name in ("key", "cert", "ca")}
        program = NodeProgram(f"{transport}_client.js", self.log, settings)
        await self.stack.enter_async_context(program)
        assert await program.line() == {"ready": True}
        return Caller(program, service)


@pytest.fixture
async def setting(grapes: list[RealGrape], tmp_path: Path) -> AsyncIterator[Setting]:
    async with (
        Link([grape.url for grape in grapes]) as link,
        AsyncExitStack() as stack,
    ):
        yield Setting(stack, link, grapes[0].url, tmp_path / "node.log")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "worker", "caller")


@BOTH
async def test_results_and_errors_reach_the_caller(
    setting: Setting, service: str, transport: str
) -> None:
    await setting.worker(service)
    caller = await setting.caller(transport, service)
    for payload in (
        None,
        0,
        1.5,
        "",
        "ü€𝄞\u2028\u0000",
        [],
        {"a": {"b": [None, True]}},
        "x" * 500_000,
    ):
        assert await caller.ask(payload) == (None, payload)

    assert await caller.ask({"action": "error"}) == ("ERR_MY_APP", None)
    partial = {"action": "error", "partial": {"done": 1}}
    assert await caller.ask(partial) == ("ERR_MY_APP", {"done": 1})
    failed = "ERR_WORKER_FAILED: perhaps after it did something"
    assert await caller.ask({"action": "fail"}) == (failed, None)
    unheard = "ERR_RESULT_NOT_JSON: done, but JSON cannot hold the result"
    assert await caller.ask({"action": "object"}) == (unheard, None)
    assert await caller.ask("alive") == (None, "alive")


@BOTH
async def test_texts_that_only_javascript_writes_come_back(
    setting: Setting, service: str, transport: str
) -> None:
    await setting.worker(service)
    caller = await setting.caller(transport, service)
    # JSON.stringify writes half a surrogate pair as \\ud800, which is no UTF-8 text.
    assert await caller.ask("\ud800x") == (None, "\ud800x")


@BOTH
async def test_large_payloads_pass_both_ways(
    setting: Setting, service: str, transport: str
) -> None:
    await setting.worker(service, max_payload=6_000_000)
    caller = await setting.caller(transport, service)
    large = "€" * 1_500_000
    assert await caller.ask(large) == (None, large)
    error, result = await caller.ask({"action": "big", "size": 5_000_000})
    assert (error, len(result)) == (None, 5_000_000)


@BOTH
async def test_a_service_that_is_announced_and_not_served_is_an_error(
    setting: Setting, service: str, transport: str
) -> None:
    worker = await setting.worker(service)
    await setting.link.announce(service + "_other", worker.address[1])
    caller = await setting.caller(transport, service + "_other")
    error, _ = await caller.ask(1)
    assert error == f"ERR_UNKNOWN_SERVICE: {service}_other is not served here"


@BOTH
async def test_many_requests_at_once_are_all_answered(
    setting: Setting, service: str, transport: str
) -> None:
    worker = await setting.worker(service)
    caller = await setting.caller(transport, service)
    assert await caller.ask(count=64) == (None, 64)
    assert await caller.ask(count=64) == (None, 64)
    assert worker.status().counts.served == 128


async def test_both_kinds_of_clients_use_one_port(setting: Setting, service: str) -> None:
    await setting.worker(service)
    for transport in ("http", "ws"):
        caller = await setting.caller(transport, service)
        assert await caller.ask(transport) == (None, transport)
    assert [request.transport for request in setting.requests] == ["http", "ws"]
    assert {request.key for request in setting.requests} == {service}


@BOTH
async def test_map_calls_every_worker(setting: Setting, service: str, transport: str) -> None:
    for _ in range(3):
        await setting.worker(service)
    caller = await setting.caller(transport, service)
    assert await caller.ask("all", map=True) == (None, ["all"] * 3)


# What goes wrong


async def test_a_body_that_is_not_json_is_answered_over_http(
    setting: Setting, service: str
) -> None:
    worker = await setting.worker(service)
    caller = await setting.caller("http", service)
    error, _ = await caller.ask(raw="this is no JSON", opts={"timeout": 5000})
    assert error is not None
    assert error.startswith('ERR_REQUEST_GENERIC: [null,"ERR_REQUEST_NOT_JSON: ')
    error, _ = await caller.ask(raw="", opts={"timeout": 5000})
    assert error == (
        'ERR_REQUEST_GENERIC: [null,"ERR_REQUEST_NOT_JSON: the request is empty",null]'
    )
    error, _ = await caller.ask(raw="{}", opts={"timeout": 5000})
    assert error is not None
    assert "ERR_REQUEST_SHAPE" in error
    assert await caller.ask(1) == (None, 1)
    assert worker.status().malformed == 3


async def test_a_message_that_is_not_json_leaves_the_socket_as_it_is(
    setting: Setting, service: str
) -> None:
    worker = await setting.worker(service)
    caller = await setting.caller("ws", service)
    await caller.send(raw="this is no JSON")
    assert await caller.ask(1) == (None, 1)
    status = worker.status()
    assert (status.malformed, status.counts.served, status.cut) == (1, 1, 0)


async def test_too_much_is_refused_and_the_next_request_served(
    setting: Setting, service: str
) -> None:
    await setting.worker(service, max_payload=100_000)
    http = await setting.caller("http", service)
    error, _ = await http.ask("x" * 1_000_000)
    assert error == (
        'ERR_REQUEST_GENERIC: [null,"ERR_PAYLOAD_SIZE: at most 100000 bytes are taken here",null]'
    )
    assert await http.ask(1) == (None, 1)
    error, _ = await http.ask("x" * 1_000_000, opts={"compress": True})
    assert error is not None
    assert "ERR_PAYLOAD_SIZE: the decompressed body is larger than 100000 bytes" in error
    assert await http.ask(1) == (None, 1)

    # A socket is closed, of which its client tells nobody; but it connects again. It has up to three, and
    # takes any, so that some of these go where the large one went.
    ws = await setting.caller("ws", service)
    await ws.send(payload="x" * 1_000_000)
    for n in range(8):
        assert await ws.ask(n) == (None, n)


async def test_a_caller_over_http_gives_up_in_its_time(setting: Setting, service: str) -> None:
    worker = await setting.worker(service)
    caller = await setting.caller("http", service)
    error, _ = await caller.ask({"action": "never"}, opts={"timeout": 300})
    assert (
        error == f"ERR_REQUEST_GENERIC: network timeout at: http://127.0.0.1:{worker.address[1]}/"
    )
    assert await caller.ask(1) == (None, 1)


async def test_a_caller_over_ws_gives_up_at_its_next_look(setting: Setting, service: str) -> None:
    await setting.worker(service)
    caller = await setting.caller("ws", service)
    error, _ = await caller.ask({"action": "never"}, opts={"timeout": 1000})
    assert error == "ERR_TIMEOUT"
    assert await caller.ask(1) == (None, 1)


@BOTH
async def test_callers_of_a_stopping_worker_get_an_error(
    setting: Setting, service: str, transport: str
) -> None:
    worker = await setting.worker(service)
    caller = await setting.caller(transport, service)
    number = await caller.send(payload={"action": "never"})
    await setting.entered.wait()
    await worker.stop(grace=0.1)
    assert await caller.reply(number) == ("ERR_WORKER_STOPPED: perhaps executed", None)
    if transport == "http":
        error, _ = await caller.ask(1)
        assert error is not None
        assert "connect ECONNREFUSED" in error


@BOTH
async def test_a_busy_worker_answers_busy(setting: Setting, service: str, transport: str) -> None:
    await setting.worker(service, workers=1)
    caller = await setting.caller(transport, service)
    await caller.send(payload={"action": "never"})
    await setting.entered.wait()
    error, _ = await caller.ask(1)
    assert error is not None
    assert error.startswith("ERR_BUSY: try again in ")


# Compression and TLS


async def test_compressed_requests_get_compressed_replies(setting: Setting, service: str) -> None:
    await setting.worker(service)
    caller = await setting.caller("http", service)
    packed = {"compress": True}
    for payload in (None, "ü€𝄞", "x" * 500_000, {"n": list(range(50_000))}):
        assert await caller.ask(payload, opts=packed) == (None, payload)
    assert await caller.ask({"action": "error"}, opts=packed) == ("ERR_MY_APP", None)
    error, _ = await caller.ask(raw="no JSON", opts=packed)
    assert error is not None
    assert error.startswith('ERR_REQUEST_GENERIC: [null,"ERR_REQUEST_NOT_JSON')


@BOTH
@pytest.mark.parametrize("ask", [False, True], ids=["server only", "mutual"])
async def test_tls_with_and_without_certificates_of_callers(
    setting: Setting, service: str, certificates: dict[str, Pair], transport: str, ask: bool
) -> None:
    await setting.worker(service, tls=server_context(certificates["worker"], ask=ask))
    caller = await setting.caller(transport, service, certificates["caller"])
    assert await caller.ask("secret") == (None, "secret")
    assert await caller.ask("x" * 300_000) == (None, "x" * 300_000)
    shown = certificates["caller"].der if ask else None
    assert [request.certificate for request in setting.requests] == [shown, shown]


async def test_callers_that_are_not_trusted_are_not_served(
    setting: Setting, service: str, certificates: dict[str, Pair], tmp_path: Path
) -> None:
    await setting.worker(service, tls=server_context(certificates["worker"], ask=True))
    plain = await setting.caller("http", service)
    error, _ = await plain.ask(1)
    assert error is not None
    assert error.startswith("ERR_REQUEST_GENERIC:")

    stranger = make_certificates(tmp_path, "stranger")["stranger"]
    mixed = Pair(stranger.key, stranger.cert, certificates["worker"].ca, stranger.der)
    caller = await setting.caller("http", service, mixed)
    error, _ = await caller.ask(1)
    assert error is not None
    assert error.startswith("ERR_REQUEST_GENERIC:")
    assert setting.requests == []


# Connections that idle


async def test_a_client_answers_our_pings(setting: Setting, service: str) -> None:
    worker = await setting.worker(service, limits=Limits(heartbeat=1.0))
    caller = await setting.caller("ws", service)
    assert await caller.ask(1) == (None, 1)
    await asyncio.sleep(3.2)  # two heartbeats, in which it must not be cut
    assert worker.status().sockets == 1
    assert await caller.ask(2) == (None, 2)
    assert worker.status().sockets == 2  # a client opens up to three, one with each request


async def test_a_client_gets_over_connections_that_we_closed(
    setting: Setting, service: str
) -> None:
    worker = await setting.worker(service, limits=Limits(idle=0.1))
    caller = await setting.caller("http", service)
    for n in range(3):
        assert await caller.ask(n) == (None, n)
        await eventually(_nobody_connected(worker))
        # The caller's process has to see the end too, or it sends on the connection that is gone.
        await asyncio.sleep(0.3)


def _nobody_connected(worker: Worker) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return worker.status().connections == 0

    return check


# Publish and subscribe


async def test_a_real_subscriber_receives_our_messages(setting: Setting, service: str) -> None:
    publisher = await setting.stack.enter_async_context(
        Publisher(service, directory=setting.link, limits=Limits(heartbeat=1.0))
    )
    await publisher.start("127.0.0.1")
    await publisher.announced()
    subscribers = []
    for _ in range(2):
        program = NodeProgram("sub.js", setting.log, {"grape": setting.grape, "service": service})
        subscribers.append(await setting.stack.enter_async_context(program))
        assert await program.line() == {"connected": True}
    assert publisher.subscribers == 2

    texts = ["hello", "", "ü€𝄞", '{"json": true}', "x" * 1_000_000]
    for text in texts:
        assert publisher.pub(text) == 2
    publisher.pub(b"\x00\xff")
    for program in subscribers:
        assert [await program.line() for _ in texts] == [{"message": text} for text in texts]
        assert await program.line() == {"binary": "AP8="}

    await asyncio.sleep(2.2)  # a heartbeat and the time to answer it
    publisher.pub("still here")
    await publisher.stop()
    for program in subscribers:
        assert await program.line() == {"message": "still here"}
        assert await program.line() == {"disconnected": True}
