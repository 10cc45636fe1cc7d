"""The worker socket (/v1/worker): a process on this machine serves functions in the node's name.

The node offers the service and admits its requests; the worker process answers them. The service is
withdrawn when the connection ends. For the operator only.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from math import inf
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from node.api import limits
from node.api.access import admit
from node.api.problems import problem
from node.api.rest import SERVICE
from node.views.worker_messages import (
    MAX_MESSAGE,
    WORKER_PATH,
    Attach,
    Attached,
    Dropped,
    FromWorker,
    Serve,
    Served,
    WorkerRefused,
)
from p2p.base.errors import HandlerError, RpcError
from p2p.services.service_server import current_request
from p2p.wire.messages import pack

log = logging.getLogger("node.api")

WORKERS: Final = web.AppKey("workers", set[web.WebSocketResponse])
_decoder: Final = msgspec.msgpack.Decoder(FromWorker)
_encode: Final = msgspec.msgpack.Encoder().encode


class AttachedWorker:
    """One connection of a worker process. `serve` is the service's handler in the node."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Served]] = {}
        self._numbers = count(1)

    async def serve(self, payload: Any) -> Any:
        """Have the worker answer a request.

        Raises:
            HandlerError: the worker's function refused.
            RpcError: it failed, or its process went away.
        """
        request = current_request()
        number = next(self._numbers)
        reply = self._waiting[number] = self._loop.create_future()
        left = 0.0 if request.deadline == inf else max(request.deadline - self._loop.time(), 0.001)
        message = Serve(number, msgspec.Raw(pack(payload)), request.caller, left, request.id)
        answered = False
        try:
            await self._send(message)
            served = await reply
            answered = True
        finally:
            del self._waiting[number]
            if not answered and not self._socket.closed:
                self._loop.create_task(self._send(Dropped(number))).add_done_callback(_seen)
        if served.error:
            raise HandlerError(served.error, served.message)
        if served.failure:
            raise RpcError(
                served.failure, served.message, retry_after_s=max(0.0, served.retry_after_s)
            )
        return msgspec.msgpack.decode(served.result)

    def on_served(self, served: Served) -> None:
        waiting = self._waiting.get(served.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(served)

    def gone(self) -> None:
        """Fail what is being served: the worker's connection has ended."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(RpcError("internal", "the worker process went away"))

    async def _send(self, message: Serve | Dropped) -> None:
        try:
            await self._socket.send_bytes(_encode(message))
        except ConnectionError:
            raise RpcError("internal", "the worker process went away") from None


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # the connection's end is seen where it is read


async def worker(request: web.Request) -> web.StreamResponse:
    """Serve one worker connection until either side ends it."""
    admit(request, "operator")
    socket = web.WebSocketResponse(
        heartbeat=limits.STREAM_HEARTBEAT, max_msg_size=MAX_MESSAGE, compress=False
    )
    if not socket.can_prepare(request).ok:
        detail = f"{WORKER_PATH} is for 'exchange-node worker', over WebSocket"
        return problem(request, 426, "upgrade_required", detail, headers={"Upgrade": "websocket"})
    await socket.prepare(request)
    workers = request.app[WORKERS]
    workers.add(socket)
    try:
        await _serve(request, socket)
    finally:
        workers.discard(socket)
    return socket


async def _serve(request: web.Request, socket: web.WebSocketResponse) -> None:
    node = request.app[SERVICE]
    attached: str | None = None
    process = AttachedWorker(socket)
    try:
        async for frame in socket:
            if frame.type is not WSMsgType.BINARY:
                continue
            message = _decoder.decode(frame.data)
            if isinstance(message, Served):
                process.on_served(message)
            elif isinstance(message, Attach) and attached is None:
                try:
                    node.serve(message.service, process.serve, workers=max(1, message.workers))
                except ValueError as error:
                    await socket.send_bytes(_encode(WorkerRefused(str(error))))
                    break
                attached = message.service
                log.info("a worker process serves %s", attached)
                await socket.send_bytes(_encode(Attached(node.node_id)))
    except msgspec.DecodeError as error:
        await socket.close(code=WSCloseCode.PROTOCOL_ERROR, message=str(error)[:100].encode())
    except ConnectionError:
        pass
    finally:
        if attached is not None:
            node.withdraw(attached)
            log.info("the worker process that served %s has gone", attached)
        process.gone()


async def _close_all(app: web.Application) -> None:
    await asyncio.gather(
        *(
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"the node is stopping")
            for socket in app[WORKERS]
        ),
        return_exceptions=True,
    )


def add_worker(app: web.Application) -> None:
    """Put the worker socket on `app`."""
    app[WORKERS] = set()
    app.router.add_get(WORKER_PATH, worker, allow_head=False)
    app.on_shutdown.append(_close_all)
