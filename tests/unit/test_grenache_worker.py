"""A worker answers whatever comes to its port, keeps its limits, and stops without losing replies."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import random
import socket as sockets
import ssl
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from grenache_kit import (
    MemoryDirectory,
    RawConnection,
    client_context,
    http_request,
    make_certificates,
    masked_frame,
    request_body,
    server_context,
    silence,
    until,
    upgrade_request,
)
from hypothesis import given
from hypothesis import strategies as st

from p2p.flow.admission import Busy
from p2p.grenache.errors import BadInput, RemoteError
from p2p.grenache.link import Link
from p2p.grenache.rpc import wire
from p2p.grenache.rpc.dispatch import Dispatcher
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.places import Places, host_of
from p2p.grenache.rpc.worker import Request, Worker

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

pytestmark = pytest.mark.timeout(30)


class Service:
    """Handlers that tests drive."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.finished = 0

    async def echo(self, request: Request) -> Any:
        self.requests.append(request)
        return request.payload

    async def held(self, request: Request) -> Any:
        """Ends when `go` is set."""
        self.entered.set()
        await self.go.wait()
        self.finished += 1
        return request.payload

    async def fail(self, request: Request) -> Any:
        match request.payload:
            case "refuse":
                raise RemoteError("ERR_MY_APP", {"partial": 1})
            case "refuse badly":
                raise RemoteError("ERR_MY_APP", object())
            case "empty":
                raise RemoteError("")
            case "cancel":
                raise asyncio.CancelledError
            case "object":
                return object()
            case "input":
                raise BadInput("ERR_OTHER", "of a call of its own")
            case "timeout":
                raise TimeoutError("of something inside")
            case "busy":
                raise Busy(1.0)
        raise RuntimeError("the password is 1234")

    def worker(self, **more: Any) -> Worker:
        worker = Worker(**more)
        worker.serve("echo", self.echo)
        worker.serve("held", self.held)
        worker.serve("fail", self.fail)
        return worker


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def worker(service: Service) -> AsyncIterator[Worker]:
    async with service.worker() as worker:
        await worker.start("127.0.0.1")
        yield worker


@pytest.fixture
async def http(worker: Worker) -> AsyncIterator[RawConnection]:
    async with await RawConnection.open(worker.address) as connection:
        yield connection


@pytest.fixture
async def ws(worker: Worker) -> AsyncIterator[RawConnection]:
    async with await RawConnection.open(worker.address) as connection:
        assert await connection.upgrade() == 101
        yield connection


async def ask(connection: RawConnection, key: str, payload: Any, rid: Any = "r1") -> Any:
    """The reply to a request over HTTP, which must have status 200."""
    status, body = await connection.http(request_body(key, payload, rid))
    assert status == 200, body
    return json.loads(body)


async def ask_ws(connection: RawConnection, key: str, payload: Any, rid: Any = "r1") -> Any:
    connection.send_frame(request_body(key, payload, rid))
    opcode, data = await connection.frame()
    assert opcode == 1
    return json.loads(data)


# Replies

PAYLOADS = [
    None,
    0,
    -1.5,
    "",
    "hello",
    "ü€𝄞\u0000",
    [],
    {"a": [1, {"b": None}]},
    True,
    "x" * 300_000,
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: repr(value)[:10])
async def test_the_result_of_the_handler_comes_back(
    http: RawConnection, ws: RawConnection, payload: Any
) -> None:
    assert await ask(http, "echo", payload) == ["r1", None, payload]
    assert await ask_ws(ws, "echo", payload) == ["r1", None, payload]


@pytest.mark.parametrize("rid", ["r", "", 7, 1.5, None, True])
async def test_the_rid_comes_back_as_it_was(http: RawConnection, rid: Any) -> None:
    assert await ask(http, "echo", 1, rid) == [rid, None, 1]


async def test_the_handler_learns_who_asks_and_how(
    service: Service, http: RawConnection, ws: RawConnection
) -> None:
    await ask(http, "echo", 1, "a")
    await ask_ws(ws, "echo", 2, "b")
    remotes = [c.writer.get_extra_info("sockname") for c in (http, ws)]
    assert service.requests == [
        Request("echo", 1, "a", remotes[0], None, "http"),
        Request("echo", 2, "b", remotes[1], None, "ws"),
    ]


@pytest.mark.parametrize(
    "start", ["GET / HTTP/1.1", "PUT /any/path?x=1 HTTP/1.1", "POST /ws HTTP/1.0"]
)
async def test_neither_method_nor_path_matter(http: RawConnection, start: str) -> None:
    status, body = await http.http(request_body("echo", 1), start=start)
    assert (status, body) == (200, b'["r1",null,1]')


async def test_requests_that_come_together_are_answered_in_order(http: RawConnection) -> None:
    for n in range(50):
        http.send_http(request_body("echo", n, n))
    answers = [json.loads((await http.answer())[1]) for _ in range(50)]
    assert answers == [[n, None, n] for n in range(50)]


@pytest.mark.parametrize(
    ("what", "reply"),
    [
        ("refuse", ["ERR_MY_APP", {"partial": 1}]),
        ("refuse badly", ["ERR_MY_APP", None]),
        ("empty", ["ERR_WORKER_FAILED", None]),
        ("object", ["ERR_RESULT_NOT_JSON: done, but JSON cannot hold the result", None]),
        ("boom", ["ERR_WORKER_FAILED: perhaps after it did something", None]),
        ("cancel", ["ERR_WORKER_FAILED: perhaps after it did something", None]),
        ("input", ["ERR_WORKER_FAILED: perhaps after it did something", None]),
        ("timeout", ["ERR_WORKER_FAILED: perhaps after it did something", None]),
        ("busy", ["ERR_WORKER_FAILED: perhaps after it did something", None]),
    ],
)
@pytest.mark.parametrize("time_limit", [None, 10.0])
async def test_a_handler_that_fails_answers_with_an_error_and_ends_nothing_else(
    service: Service, what: str, reply: list[Any], time_limit: float | None
) -> None:
    async with service.worker(time_limit=time_limit) as worker:
        address = await worker.start("127.0.0.1")
        async with (
            await RawConnection.open(address) as http,
            await RawConnection.open(address) as ws,
        ):
            assert await ws.upgrade() == 101
            assert await ask(http, "fail", what) == ["r1", *reply]
            assert await ask_ws(ws, "fail", what) == ["r1", *reply]
            assert await ask(http, "echo", "alive") == ["r1", None, "alive"]
            assert await ask_ws(ws, "echo", "alive") == ["r1", None, "alive"]


async def test_what_a_handler_raised_is_logged_and_not_told(
    http: RawConnection, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await ask(http, "fail", "boom")
    assert "1234" not in json.dumps(reply)
    assert "the password is 1234" in caplog.text
    assert "the handler of fail failed" in caplog.text


async def test_a_service_that_is_not_served_is_an_error(
    worker: Worker, http: RawConnection, ws: RawConnection
) -> None:
    expected = ["r1", "ERR_UNKNOWN_SERVICE: nothing is not served here", None]
    assert await ask(http, "nothing", 1) == expected
    assert await ask_ws(ws, "nothing", 1) == expected
    worker.remove("echo")
    assert (await ask(http, "echo", 1))[1].startswith("ERR_UNKNOWN_SERVICE")


async def test_serve_any_gets_what_no_other_serves(worker: Worker, http: RawConnection) -> None:
    async def name(request: Request) -> str:
        return request.key

    worker.serve_any(name)
    assert await ask(http, "nothing", 1) == ["r1", None, "nothing"]
    assert await ask(http, "echo", 1) == ["r1", None, 1]


async def test_a_name_is_served_once_and_must_be_one(worker: Worker, service: Service) -> None:
    with pytest.raises(ValueError, match="echo"):
        worker.serve("echo", service.echo)
    worker.serve_any(service.echo)
    with pytest.raises(ValueError, match="already"):
        worker.serve_any(service.echo)
    with pytest.raises(BadInput):
        worker.serve("", service.echo)


# Requests that are none


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "ERR_REQUEST_NOT_JSON: the request is empty"),
        (b"hello", "ERR_REQUEST_NOT_JSON"),
        (b'"text"', "ERR_REQUEST_SHAPE"),
        (b"[]", "ERR_REQUEST_SHAPE"),
        (b"{}", "ERR_REQUEST_SHAPE"),
    ],
)
async def test_what_is_no_request_gets_an_answer(
    http: RawConnection, ws: RawConnection, body: bytes, error: str
) -> None:
    status, answer = await http.http(body)
    rid, text, result = json.loads(answer)
    assert (status, rid, result) == (400, None, None)
    assert text.startswith(error)

    ws.send_frame(body)
    rid, text, result = json.loads((await ws.frame())[1])
    assert (rid, result) == (None, None)
    assert text.startswith(error)

    assert await ask(http, "echo", 1) == ["r1", None, 1]
    assert await ask_ws(ws, "echo", 1) == ["r1", None, 1]


async def test_a_request_without_a_service_is_answered_to_its_rid(
    http: RawConnection, ws: RawConnection
) -> None:
    expected = ["r9", "ERR_REQUEST_SHAPE: key is the name of a service", None]
    assert await ask(http, "", 1, "r9") == expected
    assert await ask_ws(ws, "", 1, "r9") == expected


async def test_the_header_names_the_request_and_the_service(http: RawConnection) -> None:
    status, body = await http.http(b"[null,null,5]", '_gr: ["r7","echo"]')
    assert (status, body) == (200, b'["r7",null,5]')
    status, body = await http.http(b"[null,null,5]", "_gr: oops")
    assert (status, body) == (500, b'[null, "ERR_HEADER_PARSE_GR", null]')


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"hello\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_ends_the_connection_and_fills_no_log(
    http: RawConnection, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    http.writer.write(garbage)
    assert await http.ended()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def spoiled(rng: random.Random) -> bytes:
    """Requests as they should be, with bytes changed, lost, doubled."""
    body = request_body("echo", "x" * rng.randrange(200))
    frames = b"".join(masked_frame(body, opcode) for opcode in (1, 2, 9, 8))
    data = bytearray(
        rng.choice(
            [
                http_request(body),
                http_request(gzip.compress(body), "grc-compress: gzip"),
                http_request(body, '_gr: ["r","echo"]') * 3,
                CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
                upgrade_request() + frames,
            ]
        )
    )
    for _ in range(rng.randrange(8)):
        if len(data) < 30:
            break
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(20)]
            case 2:
                data[at:at] = data[at : at + rng.randrange(20)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(20))
    return bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.2 else data)


@pytest.mark.parametrize("seed", range(8))
async def test_no_bytes_harm_the_worker(
    service: Service, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    limits = Limits(idle=0.05, body_timeout=0.05, linger=0.05, heartbeat=0.05)

    async def send(data: bytes, pieces: int) -> None:
        async with await RawConnection.open(worker.address) as connection:
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(data), max(1, len(data) // pieces)):
                    connection.writer.write(data[start : start + max(1, len(data) // pieces)])
                    await connection.writer.drain()
                    await asyncio.sleep(0)
            assert await connection.ended()

    async with service.worker(limits=limits) as worker:
        await worker.start("127.0.0.1")
        await asyncio.gather(*(send(spoiled(rng), rng.choice([1, 3, 50])) for _ in range(100)))
        await until(lambda: worker.status().connections == 0)
        async with await RawConnection.open(worker.address) as http:
            assert await ask(http, "echo", 1) == ["r1", None, 1]
    assert service.requests, "some got through"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_caller_that_goes_away_within_its_body_harms_nothing(
    worker: Worker, http: RawConnection, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawConnection.open(worker.address) as other:
        other.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[")
        await other.writer.drain()
    assert await ask(http, "echo", 1) == ["r1", None, 1]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# Compression


async def test_gzip_is_answered_with_gzip(http: RawConnection) -> None:
    body = gzip.compress(request_body("echo", "x" * 100_000))
    status, answer = await http.http(body, "grc-compress: gzip")
    assert (status, json.loads(gzip.decompress(answer))) == (200, ["r1", None, "x" * 100_000])
    assert len(answer) < 2000


async def test_much_that_is_compressed_is_packed_beside_the_loop(http: RawConnection) -> None:
    text = "".join(f"{n:x} " for n in range(100_000))
    status, answer = await http.http(
        gzip.compress(request_body("echo", text)), "grc-compress: gzip"
    )
    assert (status, json.loads(gzip.decompress(answer))[2] == text) == (200, True)


async def test_a_body_that_is_not_gzip_is_taken_as_it_is(http: RawConnection) -> None:
    status, answer = await http.http(request_body("echo", 1), "grc-compress: gzip")
    assert (status, gzip.decompress(answer)) == (200, b'["r1",null,1]')


async def test_content_encoding_is_not_looked_at(http: RawConnection) -> None:
    status, answer = await http.http(request_body("echo", 1), "Content-Encoding: gzip")
    assert (status, answer) == (200, b'["r1",null,1]')


@pytest.mark.parametrize("size", [1 << 21, 1 << 27])
async def test_a_bomb_is_refused(http: RawConnection, size: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    status, answer = await http.http(bomb, "grc-compress: gzip")
    assert status == 413
    assert json.loads(answer)[1].startswith("ERR_PAYLOAD_SIZE")


# Limits


async def test_a_body_up_to_the_limit_is_taken_and_no_larger_one(service: Service) -> None:
    async with service.worker(max_payload=100_000) as worker:
        address = await worker.start("127.0.0.1")
        frame = len(request_body("echo", ""))
        async with await RawConnection.open(address) as http:
            assert (await ask(http, "echo", "x" * (100_000 - frame)))[1] is None
            status, answer = await http.http(request_body("echo", "x" * (100_001 - frame)))
            assert status == 413
            assert json.loads(answer) == [
                None,
                "ERR_PAYLOAD_SIZE: at most 100000 bytes are taken here",
                None,
            ]


async def test_a_chunked_body_is_limited_as_well(service: Service) -> None:
    async with service.worker(max_payload=1000, limits=Limits(linger=0.05)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            body = request_body("echo", 1)
            http.writer.write(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            assert await http.answer() == (200, b'["r1",null,1]')
            http.writer.write(CHUNKED + b"1000\r\n" + b"x" * 0x1000)
            assert (await http.answer())[0] == 413
            assert await http.ended()


async def test_a_message_above_the_limit_ends_the_socket(service: Service) -> None:
    async with service.worker(max_payload=1000, limits=Limits(linger=0.05)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as ws:
            assert await ws.upgrade() == 101
            ws.send_frame(b"x" * 2000)
            opcode, data = await ws.frame()
            assert (opcode, int.from_bytes(data[:2], "big")) == (8, 1009)


async def test_a_body_that_does_not_arrive_is_not_waited_for(service: Service) -> None:
    async with service.worker(limits=Limits(body_timeout=0.05, linger=0.05)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            http.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[")
            status, answer = await http.answer()
            assert status == 408
            assert json.loads(answer)[1] == "ERR_TIMEOUT: the body took too long"
            assert await http.ended()


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_without_a_request_is_closed(service: Service, sent: bytes) -> None:
    async with service.worker(limits=Limits(idle=0.1)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            http.writer.write(sent)
            assert await http.ended()


async def test_a_caller_may_ask_before_it_sends_its_body(http: RawConnection) -> None:
    body = request_body("echo", 1)
    http.writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    assert (await http.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    http.writer.write(body)
    assert await http.answer() == (200, b'["r1",null,1]')


HALF = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"


@contextlib.asynccontextmanager
async def opened(
    address: tuple[str, int], count: int, host: str = "127.0.0.1", sent: bytes = b""
) -> AsyncIterator[list[RawConnection]]:
    """Connections that came in this order and sent this."""
    async with contextlib.AsyncExitStack() as stack:
        connections = []
        for _ in range(count):
            raw = await RawConnection.open(address, host=host)
            connections.append(await stack.enter_async_context(raw))
            raw.writer.write(sent)
        yield connections


async def test_connections_above_the_limit_are_cut_in_silence(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with service.worker(limits=Limits(max_connections=2)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 2) as held:
            for connection in held:
                service.entered.clear()
                connection.send_http(request_body("held", 1))
                await service.entered.wait()
            with silence(caplog):
                for _ in range(20):
                    async with await RawConnection.open(address) as late:
                        assert await late.ended()
            assert worker.status().connections == 2
            service.go.set()
            for connection in held:
                assert json.loads((await connection.answer())[1]) == ["r1", None, 1]
                assert await ask(connection, "echo", 1) == ["r1", None, 1]


@pytest.mark.parametrize("secure", [False, True])
async def test_a_crowd_of_connections_is_bounded_in_silence(
    service: Service, caplog: pytest.LogCaptureFixture, tmp_path: Path, secure: bool
) -> None:
    pair = make_certificates(tmp_path, "worker")["worker"]
    tls = client_context(pair) if secure else None
    limits = Limits(max_connections=20, max_per_host=10)
    async with service.worker(limits=limits, tls=server_context(pair) if secure else None) as w:
        address = await w.start("127.0.0.1")
        with silence(caplog):
            crowd = await asyncio.gather(
                *(asyncio.open_connection(*address, ssl=tls) for _ in range(60)),
                return_exceptions=True,
            )
            await until(lambda: w.status().connections == 10)
            for each in crowd:
                if not isinstance(each, BaseException):
                    await RawConnection(*each).close()
            await until(lambda: w.status().connections == 0)


@pytest.mark.parametrize("sent", [b"", HALF, HALF + b"\r\n["], ids=["none", "head", "body"])
async def test_a_host_with_half_requests_keeps_no_other_host_out(
    service: Service, sent: bytes
) -> None:
    async with service.worker(limits=Limits(max_connections=8, max_per_host=6)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 30, sent=sent) as hogs:
            for hog in hogs[:24]:
                assert await hog.ended()
            assert worker.status().connections == 6
            async with opened(address, 6, host="127.0.0.2") as others:
                for n, other in enumerate(others):
                    assert await ask(other, "echo", n) == ["r1", None, n]
                for hog in hogs[24:28]:
                    assert await hog.ended()
                assert worker.status().connections == 8


async def test_a_host_with_all_its_places_can_still_come_in(service: Service) -> None:
    async with service.worker(limits=Limits(max_connections=8, max_per_host=2)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 1, host="127.0.0.2") as elder, opened(address, 3) as crowd:
            assert await crowd[0].ended()
            assert await ask(crowd[2], "echo", 1) == ["r1", None, 1]
            assert await ask(crowd[1], "echo", 1) == ["r1", None, 1]
            async with opened(address, 1) as late:
                assert await crowd[2].ended(), "it has waited longer than crowd[1]"
                for connection in (elder[0], crowd[1], late[0]):
                    assert await ask(connection, "echo", 1) == ["r1", None, 1]


async def test_when_the_port_is_full_the_one_that_waited_longest_goes(service: Service) -> None:
    async with service.worker(limits=Limits(max_connections=4)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 4, sent=HALF) as strangers:
            strangers[0].writer.write(b"\r\n" + request_body("echo", 1).ljust(100))
            assert await strangers[0].answer() == (200, b'["r1",null,1]')
            async with contextlib.AsyncExitStack() as stack:
                for oldest in (*strangers[1:], strangers[0]):
                    late = await stack.enter_async_context(await RawConnection.open(address))
                    assert await oldest.ended()
                    late.send_http(request_body("held", 1))
                    await service.entered.wait()
                    service.entered.clear()
                    assert worker.status().connections == 4
                service.go.set()


async def test_websockets_and_requests_under_way_are_never_cut_for_others(
    service: Service,
) -> None:
    async with service.worker(limits=Limits(max_connections=3)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 3) as (ws, held, idle):
            assert await ask(idle, "echo", 1) == ["r1", None, 1]
            assert await ws.upgrade() == 101
            held.send_http(request_body("held", 1))
            await service.entered.wait()
            async with opened(address, 10, sent=HALF) as crowd:
                assert await idle.ended()
                for stranger in crowd[:9]:
                    assert await stranger.ended()
                assert await ask_ws(ws, "echo", 1) == ["r1", None, 1]
                service.go.set()
                assert json.loads((await held.answer())[1]) == ["r1", None, 1]


async def test_the_first_request_has_less_time_to_come_than_others(service: Service) -> None:
    async with service.worker(limits=Limits(first_head=0.5)) as worker:
        address = await worker.start("127.0.0.1")
        async with opened(address, 4) as (idle, ws, half, silent):
            assert await ask(idle, "echo", 1) == ["r1", None, 1]
            assert await ws.upgrade() == 101
            half.writer.write(HALF)
            assert await half.ended()
            assert await silent.ended()
            assert await ask(idle, "echo", 1) == ["r1", None, 1]
            assert await ask_ws(ws, "echo", 1) == ["r1", None, 1]


@pytest.mark.parametrize(
    ("name", "host"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8:0:1::1", 5, 0, 0), "20010db800000001"),
        (("2001:db8:0:1:ffff::2", 5, 0, 0), "20010db800000001"),
        (("fe80::1%eth0", 5, 0, 2), "fe80000000000000"),
        (None, ""),
    ],
)
def test_a_host_is_an_ipv4_address_or_a_subnet_of_ipv6(name: object, host: str) -> None:
    assert host_of(name) == host


@given(st.lists(st.tuples(st.sampled_from(["enter", "work", "wait", "leave"]), st.integers(0, 9))))
def test_places_are_bounded_and_those_at_work_keep_theirs(steps: list[tuple[str, int]]) -> None:
    places: Places[int] = Places(4, 2)
    inside: dict[int, str] = {}
    waiting: list[int] = []  # the model: in the order in which they go
    for step, who in steps:
        if step == "enter" and who not in inside:
            host = f"h{who % 3}"
            same = [each for each in inside if inside[each] == host]
            out = same if len(same) == 2 else list(inside) if len(inside) == 4 else []
            expected = next((each for each in waiting if each in out), who) if out else None
            assert places.enter(who, host) == expected
            inside[who] = host
            waiting.append(who)
            if expected is not None:
                del inside[expected]
                waiting.remove(expected)
        elif step == "work":
            places.work(who)
            waiting = [each for each in waiting if each != who]
        elif step == "wait":
            places.wait(who)
            waiting = [each for each in waiting if each != who] + [who] * (who in inside)
        elif step == "leave":
            places.leave(who)
            inside.pop(who, None)
            waiting = [each for each in waiting if each != who]
        assert len(places) == len(inside) <= 4


async def test_too_much_at_once_is_refused_with_a_time_to_come_back(service: Service) -> None:
    async with service.worker(workers=1) as worker:
        address = await worker.start("127.0.0.1")
        async with (
            await RawConnection.open(address) as held,
            await RawConnection.open(address) as http,
        ):
            held.send_http(request_body("held", "done"))
            await service.entered.wait()
            reply = await ask(http, "echo", 1)
            assert wire.retry_after(reply[1]) is not None, reply
            assert worker.status().counts.busy == 1
            service.go.set()
            assert json.loads((await held.answer())[1]) == ["r1", None, "done"]
            assert await ask(http, "echo", 1) == ["r1", None, 1]


@pytest.mark.looptime
async def test_a_request_waits_a_moment_for_a_place(service: Service) -> None:
    dispatcher = Dispatcher(workers=1)
    dispatcher.serve("held", service.held)
    dispatcher.serve("echo", service.echo)

    def asked(key: str, rid: int) -> asyncio.Task[bytes]:
        request = Request(key, key, rid, ("127.0.0.1", 1), None, "ws")
        return asyncio.create_task(dispatcher.answer(request))

    first, second = asked("held", 1), asked("echo", 2)
    await asyncio.sleep(0.05)
    third = asked("echo", 3)
    await asyncio.sleep(0.04)
    assert not second.done()
    assert dispatcher.in_flight == 3
    await asyncio.sleep(0.02)
    assert second.done(), "it waited for 0.1 s"
    service.go.set()
    replies = [json.loads(await task) for task in (first, second, third)]
    assert replies[0] == [1, None, "held"]
    assert wire.retry_after(replies[1][1]) is not None
    assert replies[2] == [3, None, "echo"]
    assert dispatcher.in_flight == 0


async def test_a_handler_has_a_time_limit(service: Service) -> None:
    async with service.worker(time_limit=0.05) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            reply = await ask(http, "held", 1)
            assert reply == ["r1", "ERR_WORKER_TIMEOUT: not done in 0.05 s, perhaps executed", None]
            assert await ask(http, "echo", 1) == ["r1", None, 1]
            assert service.finished == 0


# Pages in browsers


async def test_pages_in_browsers_are_refused(http: RawConnection, worker: Worker) -> None:
    status, answer = await http.http(request_body("echo", 1), "Origin: https://evil.example")
    assert (status, json.loads(answer)[1].split(":")[0]) == (403, "ERR_ORIGIN")
    async with await RawConnection.open(worker.address) as ws:
        assert await ws.upgrade("Origin: https://evil.example") == 403


async def test_a_page_may_be_allowed(service: Service) -> None:
    async with service.worker(origins=["https://Desk.example"]) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            status, _ = await http.http(request_body("echo", 1), "Origin: https://desk.example")
            assert status == 200
            assert await http.upgrade("Origin: https://desk.example") == 101


# WebSockets


async def test_replies_come_as_they_are_ready(service: Service, ws: RawConnection) -> None:
    ws.send_frame(request_body("held", "slow", "first"))
    await service.entered.wait()
    for n in range(100):
        ws.send_frame(request_body("echo", n, n))
    got = [json.loads((await ws.frame())[1]) for _ in range(100)]
    assert got == [[n, None, n] for n in range(100)]
    service.go.set()
    assert json.loads((await ws.frame())[1]) == ["first", None, "slow"]


async def test_a_binary_message_is_taken_too(ws: RawConnection) -> None:
    ws.send_frame(request_body("echo", 1), opcode=2)
    assert await ws.frame() == (1, b'["r1",null,1]')


async def test_pings_are_answered(ws: RawConnection) -> None:
    ws.send_frame(b"abc", opcode=9)
    assert await ws.frame() == (10, b"abc")


async def test_a_socket_that_answers_no_ping_is_cut(service: Service) -> None:
    async with service.worker(limits=Limits(heartbeat=0.05)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as ws:
            assert await ws.upgrade() == 101
            assert (await ws.frame())[0] == 9
            assert await ws.ended()


async def test_a_request_for_a_socket_that_is_none_is_refused(http: RawConnection) -> None:
    status, _ = await http.http(b"", "Connection: Upgrade", "Upgrade: websocket")
    assert status == 400


async def unread(address: tuple[str, int]) -> RawConnection:
    """A connection with a small buffer for what it is sent, which nobody reads."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, address)
    return RawConnection(*await asyncio.open_connection(sock=raw))


async def test_who_does_not_read_replies_is_cut_and_nobody_else(service: Service) -> None:
    most = 0

    async def big(request: Request) -> str:
        nonlocal most
        most = max(most, worker.status().backlog)
        return "x" * 500_000

    async with service.worker(limits=Limits(max_backlog=1_000_000)) as worker:
        worker.serve("big", big)
        address = await worker.start("127.0.0.1")
        async with await unread(address) as lazy, await RawConnection.open(address) as other:
            assert await other.upgrade() == 101
            assert await lazy.upgrade() == 101
            lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for n in range(50):
                lazy.send_frame(request_body("big", None, n))
            while worker.status().cut == 0:
                assert await ask_ws(other, "echo", 1) == ["r1", None, 1]
            while worker.status().sockets > 1:
                assert await ask_ws(other, "echo", 1) == ["r1", None, 1]
    # Of 25 MB that were asked for, no more than the limit and one reply waited.
    assert 1_000_000 < most < 1_600_000


@pytest.mark.parametrize("transport", ["http", "ws"])
async def test_who_reads_nothing_at_all_is_cut_in_time(service: Service, transport: str) -> None:
    async def big(request: Request) -> str:
        return "x" * 8_000_000

    async with service.worker(limits=Limits(stall=0.05)) as worker:
        worker.serve("big", big)
        address = await worker.start("127.0.0.1")
        async with await unread(address) as lazy:
            if transport == "ws":
                assert await lazy.upgrade() == 101
                lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
                lazy.send_frame(request_body("big", None))
            else:
                lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
                lazy.send_http(request_body("big", None))
            await until(lambda: worker.status().cut == 1)
            await until(lambda: worker.status().connections == 0)


async def test_who_goes_away_does_not_stop_what_it_asked_for(
    service: Service, worker: Worker
) -> None:
    for transport in ("http", "ws"):
        service.entered.clear()
        async with await RawConnection.open(worker.address) as caller:
            if transport == "ws":
                assert await caller.upgrade() == 101
                caller.send_frame(request_body("held", 1))
            else:
                caller.send_http(request_body("held", 1))
            await service.entered.wait()
    service.go.set()
    await until(lambda: service.finished == 2)


# Stopping


async def test_what_is_under_way_ends_within_the_grace(
    service: Service, worker: Worker, http: RawConnection, ws: RawConnection
) -> None:
    http.send_http(request_body("held", "over http"))
    await service.entered.wait()
    service.entered.clear()
    ws.send_frame(request_body("held", "over ws"))
    await service.entered.wait()
    stopping = asyncio.create_task(worker.stop(grace=10.0))
    await asyncio.sleep(0)

    # Meanwhile nothing new is begun, by those who are connected or by others.
    refusal = "ERR_WORKER_STOPPED: this worker is stopping, nothing was done"
    assert await ask_ws(ws, "echo", 1) == ["r1", refusal, None]
    with pytest.raises(OSError):
        await RawConnection.open(worker.address)

    service.go.set()
    assert json.loads((await http.answer())[1]) == ["r1", None, "over http"]
    assert "Connection: close" in http.head, "it must not send another request here"
    assert json.loads((await ws.frame())[1]) == ["r1", None, "over ws"]
    opcode, data = await ws.frame()
    assert (opcode, int.from_bytes(data[:2], "big")) == (8, 1001)
    assert await http.ended()
    await stopping
    assert worker.status().address is None


async def test_after_the_grace_callers_get_an_error(
    service: Service, worker: Worker, http: RawConnection, ws: RawConnection
) -> None:
    http.send_http(request_body("held", 1))
    await service.entered.wait()
    service.entered.clear()
    ws.send_frame(request_body("held", 1))
    await service.entered.wait()
    await worker.stop(grace=0.01)
    expected = ["r1", "ERR_WORKER_STOPPED: perhaps executed", None]
    assert json.loads((await http.answer())[1]) == expected
    assert json.loads((await ws.frame())[1]) == expected
    assert service.finished == 0


async def test_a_handler_that_will_not_end_does_not_keep_the_worker(
    service: Service, worker: Worker, ws: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.grenache.rpc.dispatch.LAST_WORDS", 0.05)
    monkeypatch.setattr("p2p.grenache.rpc.server.CLOSE_TIMEOUT", 0.05)
    ended = asyncio.Event()

    async def stubborn(request: Request) -> None:
        service.entered.set()
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue

    worker.serve("stubborn", stubborn)
    ws.send_frame(request_body("stubborn", 1))
    await service.entered.wait()
    async with asyncio.timeout(10):
        await worker.stop(grace=0.0)
    ended.set()


async def test_a_worker_stops_twice_and_starts_again(service: Service, worker: Worker) -> None:
    await worker.stop()
    await worker.stop()
    with pytest.raises(RuntimeError, match="not started"):
        worker.address  # noqa: B018
    address = await worker.start("127.0.0.1")
    async with await RawConnection.open(address) as http:
        assert await ask(http, "echo", 1) == ["r1", None, 1]
        with pytest.raises(RuntimeError, match="already"):
            await worker.start("127.0.0.1")


async def test_a_port_that_is_taken_is_an_error(worker: Worker, service: Service) -> None:
    async with service.worker() as other:
        with pytest.raises(OSError):
            await other.start(*worker.address)
        assert (await other.start("localhost"))[0] == "127.0.0.1"


async def test_the_status_counts(worker: Worker, http: RawConnection) -> None:
    await ask(http, "echo", 1)
    await ask(http, "fail", "refuse")
    await ask(http, "fail", "boom")
    await ask(http, "nothing", 1)
    await http.http(b"")
    status = worker.status()
    assert status.services == ["echo", "fail", "held"]
    assert (status.connections, status.sockets, status.in_flight) == (1, 0, 0)
    counts = status.counts
    assert (counts.served, counts.refused, counts.failed, counts.unknown) == (1, 1, 1, 1)
    assert status.malformed == 1


# Announcements


async def test_services_are_announced_under_the_port(service: Service) -> None:
    directory = MemoryDirectory()
    async with service.worker(directory=directory) as worker:
        _, port = await worker.start("127.0.0.1")
        await worker.announced()
        assert set(directory.calls) == {(name, port) for name in ("echo", "fail", "held")}
        worker.serve("late", service.echo)
        await worker.announced()
        assert ("late", port) in directory.calls


async def test_no_grape_is_no_reason_not_to_serve(service: Service) -> None:
    directory = MemoryDirectory()
    directory.down = True
    async with service.worker(directory=directory) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            assert await ask(http, "echo", 1) == ["r1", None, 1]
        directory.down = False
        await worker.announced()


async def test_a_directory_that_is_not_started_leaves_nothing_listening(service: Service) -> None:
    async with service.worker(directory=Link(["http://127.0.0.1:9"])) as worker:
        with pytest.raises(RuntimeError, match="Link is not started"):
            await worker.start("127.0.0.1")
        assert worker.status().address is None
        with pytest.raises(RuntimeError, match="Link is not started"):
            await worker.start("127.0.0.1")


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "worker", "caller")


async def test_callers_are_known_by_their_certificates(service: Service, certificates: Any) -> None:
    tls = server_context(certificates["worker"], ask=True)
    client = client_context(certificates["caller"], show=True)
    async with service.worker(tls=tls) as worker:
        host, port = await worker.start("127.0.0.1")
        async with aiohttp.ClientSession() as session:
            url = f"https://{host}:{port}"
            async with session.post(url, data=request_body("echo", 1), ssl=client) as reply:
                assert await reply.json() == ["r1", None, 1]
            async with session.ws_connect(f"wss://{host}:{port}/ws", ssl=client) as ws:
                await ws.send_str(request_body("echo", 2).decode())
                assert await ws.receive_json() == ["r1", None, 2]
        await asyncio.sleep(0)
    assert [r.certificate for r in service.requests] == 2 * [certificates["caller"].der]


async def test_without_its_certificate_a_caller_gets_nothing(
    service: Service, certificates: Any
) -> None:
    tls = server_context(certificates["worker"], ask=True)
    async with service.worker(tls=tls) as worker:
        host, port = await worker.start("127.0.0.1")
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await session.post(
                    f"https://{host}:{port}",
                    data=request_body("echo", 1),
                    ssl=client_context(certificates["caller"]),
                )
    assert service.requests == []


async def test_tls_without_questions_tells_the_handler_nobody(
    service: Service, certificates: Any
) -> None:
    async with service.worker(tls=server_context(certificates["worker"])) as worker:
        host, port = await worker.start("127.0.0.1")
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://{host}:{port}",
                data=request_body("echo", 1),
                ssl=client_context(certificates["caller"]),
            ) as reply,
        ):
            assert await reply.json() == ["r1", None, 1]
        async with await RawConnection.open((host, port)) as plain:
            plain.send_http(request_body("echo", 1))
            assert await plain.ended()
    assert [r.certificate for r in service.requests] == [None]
