"""A worker keeps its limits: sizes, times, connections, requests at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grenache_kit import (
    RawConnection,
    client_context,
    make_certificates,
    request_body,
    server_context,
    silence,
    until,
)
from grenache_worker_kit import CHUNKED, Service, ask

from p2p.base import places
from p2p.grenache.rpc import rpc_wire
from p2p.grenache.rpc.dispatcher import Dispatcher
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_worker import Request

pytestmark = pytest.mark.timeout(30)


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


async def send_zeros(writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count >> 16):
        writer.write(bytes(1 << 16))
        await writer.drain()


async def test_the_connection_of_a_refused_body_that_goes_on_for_long_is_aborted(
    service: Service,
) -> None:
    length = 64 << 20
    async with service.worker(max_payload=1000, limits=Limits(linger=60)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            http.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
            with pytest.raises(ConnectionError):
                await send_zeros(http.writer, length)


async def test_a_body_that_does_not_arrive_is_not_waited_for(service: Service) -> None:
    async with service.worker(limits=Limits(body_timeout=0.05, linger=0.05)) as worker:
        address = await worker.start("127.0.0.1")
        async with await RawConnection.open(address) as http:
            http.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[")
            status, answer = await http.answer()
            assert status == 408
            assert json.loads(answer)[1] == "ERR_TIMEOUT: the body took too long"
            assert await http.ended()


async def test_a_client_may_expect_100_continue_before_its_body(http: RawConnection) -> None:
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


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of loopback count as those of other machines."""
    monkeypatch.setattr(places, "address_group", lambda address: address)


@pytest.mark.usefixtures("strangers")
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


@pytest.mark.usefixtures("strangers")
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


@pytest.mark.usefixtures("strangers")
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
            assert rpc_wire.retry_after(reply[1]) is not None, reply
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
    assert rpc_wire.retry_after(replies[1][1]) is not None
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
