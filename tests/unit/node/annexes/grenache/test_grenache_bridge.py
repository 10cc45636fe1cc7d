"""Services across the border to Grenache: what callers on both sides are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from grenache_kit import MemoryDirectory

from node.annexes.grenache.grenache_bridge import NODE, GrenacheBridge
from p2p.base.errors import CallTimeout, HandlerError, NoProvider, ServiceBusy, ServiceUnreachable
from p2p.grenache.directory import Address
from p2p.grenache.errors import RemoteError
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_wire import busy, retry_after
from p2p.grenache.rpc.rpc_worker import Request, Worker
from p2p.services.service_server import ServiceServer, current_request


class Border:
    """A node's services behind a worker, and its calls to workers."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.directory = MemoryDirectory()
        self.server = ServiceServer(rng=random.Random(1))
        self.outside = GrenacheBridge(self.server)
        self.outside.start(self.directory)

    async def worker(self, *names: str, **handlers: Any) -> Address:
        """Serves what the node serves under `names`, and `handlers` of its own."""
        worker = await self.stack.enter_async_context(Worker(directory=self.directory))
        for name in names:
            worker.serve(name, self.outside.handler(name))
        for name, handler in handlers.items():
            worker.serve(name, handler)
        address = await worker.start("127.0.0.1", 0)
        await worker.announced()
        self.stack.push_async_callback(worker.stop, 0.0)
        return address


@pytest.fixture
async def border() -> AsyncIterator[Border]:
    async with AsyncExitStack() as stack:
        found = Border(stack)
        stack.push_async_callback(found.server.close)
        stack.push_async_callback(found.outside.close)
        yield found


async def test_a_grenache_client_gets_results_and_refusals_of_a_nodes_service(
    border: Border,
) -> None:
    async def execute(payload: Any) -> Any:
        if payload == "refuse":
            raise HandlerError("no_job", "not this one")
        if payload == "fail":
            raise KeyError("a secret")
        return {"payload": payload, "caller": current_request().caller}

    border.server.serve("jobs", execute)
    address = await border.worker("jobs")
    async with Client(border.directory) as client:
        answer = await client.request_at(address, "jobs", {"n": [1, None, "é"]})
        assert answer == {"payload": {"n": [1, None, "é"]}, "caller": "grenache:127.0.0.1"}
        with pytest.raises(RemoteError, match=r"^no_job: not this one$"):
            await client.request_at(address, "jobs", "refuse")
        with pytest.raises(RemoteError, match=r"^ERR_INTERNAL: KeyError$"):
            await client.request_at(address, "jobs", "fail")


async def test_a_full_service_answers_with_a_retry_time(border: Border) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def execute(payload: Any) -> Any:
        started.set()
        await go_on.wait()

    border.server.serve("jobs", execute, workers=1, max_wait_s=0.001)
    address = await border.worker("jobs")
    async with Client(border.directory) as client:
        first = asyncio.create_task(client.request_at(address, "jobs"))
        await started.wait()
        with pytest.raises(RemoteError) as refused:
            await client.request_at(address, "jobs")
        assert retry_after(refused.value.code) is not None
        go_on.set()
        await first


async def test_a_service_that_no_node_offers_is_called_at_a_grenache_worker(border: Border) -> None:
    async def quotes(request: Request) -> Any:
        return {"asked": request.payload}

    await border.worker(quotes=quotes)
    result = await border.outside.ask("quotes", {"a": 1}, timeout=5.0, idempotent=False)
    assert (result.value, result.node) == ({"asked": {"a": 1}}, NODE)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ("no_job: not this one", HandlerError, "no_job: not this one"),
        ("ERR_MY_APP", HandlerError, "error: ERR_MY_APP"),
        ("it broke: badly", HandlerError, "error: it broke: badly"),
        (busy(60.0), ServiceBusy, "busy"),
    ],
)
async def test_a_workers_error_looks_like_a_nodes_error(
    border: Border, error: str, kind: type[Exception], text: str
) -> None:
    async def quotes(request: Request) -> Any:
        raise RemoteError(error)

    await border.worker(quotes=quotes)
    with pytest.raises(kind, match=text):
        await border.outside.ask("quotes", None, timeout=1.0, idempotent=False)


async def test_a_call_without_an_answer_reports_the_reason(border: Border) -> None:
    async def never(request: Request) -> Any:
        await asyncio.Event().wait()

    with pytest.raises(NoProvider):
        await border.outside.ask("nobody", None, timeout=0.2, idempotent=False)
    await border.worker(never=never)
    with pytest.raises(CallTimeout):
        await border.outside.ask("never", None, timeout=0.2, idempotent=False)
    border.directory.calls.append(("gone", 19_999))
    with pytest.raises((ServiceUnreachable, CallTimeout)):
        await border.outside.ask("gone", None, timeout=0.3, idempotent=False)
    await border.outside.close()
    with pytest.raises(NoProvider):
        await border.outside.ask("never", None, timeout=0.2, idempotent=False)
