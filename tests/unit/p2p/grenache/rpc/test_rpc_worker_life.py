"""A worker starts, announces itself, and stops without losing replies; its certificates."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from grenache_kit import (
    MemoryDirectory,
    RawConnection,
    make_certificates,
    request_body,
)
from grenache_worker_kit import Service, ask, ask_ws

from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_worker import Request, Worker

pytestmark = pytest.mark.timeout(30)


# Stopping


async def test_pending_requests_end_within_the_grace_period(
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
    monkeypatch.setattr("p2p.grenache.rpc.dispatcher.LAST_WORDS", 0.05)
    monkeypatch.setattr("p2p.grenache.rpc.rpc_server.CLOSE_TIMEOUT", 0.05)
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
