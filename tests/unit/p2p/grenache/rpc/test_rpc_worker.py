"""A worker answers whatever comes to its port."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import random
import zlib
from typing import Any

import pytest
from grenache_kit import (
    RawConnection,
    http_request,
    masked_frame,
    request_body,
    until,
    upgrade_request,
)
from grenache_worker_kit import CHUNKED, Service, ask, ask_ws

from p2p.grenache.errors import BadInput
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_worker import Request, Worker

pytestmark = pytest.mark.timeout(30)


# Replies

# An unknown header makes a request one for aiohttp; others are answered directly.
GENERAL = "X-Other: 1"


def plain_head(http: RawConnection) -> list[str]:
    return sorted(line for line in http.head.split("\r\n") if not line.startswith("Date: "))


@pytest.mark.parametrize(
    "body",
    [
        *(request_body("echo", payload) for payload in (1, "ü", [], {"a": 1})),
        *(
            request_body("fail", how)
            for how in ("refuse", "refuse badly", "cancel", "object", "timeout", "busy", "else")
        ),
        request_body("unknown", 1),
        b"",
        b"{}",
        b'["r1"]',
        b"no JSON",
    ],
)
async def test_a_request_has_the_same_answer_directly_and_through_aiohttp(
    http: RawConnection, service: Service, body: bytes
) -> None:
    directly = await http.http(body)
    head = plain_head(http)
    assert await http.http(body, GENERAL) == directly
    assert plain_head(http) == head
    if service.requests:
        one, other = service.requests
        assert one == other


async def test_a_worker_that_stops_closes_the_connections_of_running_requests(
    worker: Worker, http: RawConnection, service: Service
) -> None:
    http.send_http(request_body("held", 1))
    await service.entered.wait()
    stopping = asyncio.ensure_future(worker.stop(grace=20.0))
    await asyncio.sleep(0)
    service.go.set()
    assert (await http.answer())[0] == 200
    assert "Connection: close" in http.head
    assert await http.reader.read() == b""
    await stopping


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


async def test_a_handlers_exception_is_logged_and_not_sent(
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


async def test_serve_any_gets_unserved_names(worker: Worker, http: RawConnection) -> None:
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
async def test_malformed_requests_get_an_answer(
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
async def test_malformed_http_ends_the_connection_and_fills_no_log(
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


@pytest.mark.parametrize("size", [1 << 21, 1 << 27])
async def test_a_bomb_is_refused(http: RawConnection, size: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    status, answer = await http.http(bomb, "grc-compress: gzip")
    assert status == 413
    assert json.loads(answer)[1].startswith("ERR_PAYLOAD_SIZE")


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
