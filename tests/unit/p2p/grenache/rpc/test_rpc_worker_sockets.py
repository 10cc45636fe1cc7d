"""A worker answers over WebSockets, and cuts those who do not read."""

from __future__ import annotations

import asyncio
import socket as sockets

import pytest
from grenache_kit import RawConnection, request_body, until
from grenache_worker_kit import Service, ask_ws

from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_worker import Request

pytestmark = pytest.mark.timeout(30)


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


async def test_only_the_connection_that_does_not_read_replies_is_cut(service: Service) -> None:
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
async def test_clients_that_read_nothing_are_cut_in_time(service: Service, transport: str) -> None:
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
