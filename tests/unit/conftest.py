"""A Grenache worker in this process, and connections to it that send what a test likes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from grenache_kit import RawConnection
from grenache_worker_kit import Service

from p2p.grenache.rpc.rpc_worker import Worker


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
