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

from node.api import limits
from node.api.access import AccessControl
from node.api.node_service import NodeService
from node.api.problems import problem
from node.http.http_messages import Response
from node.http.http_server import Application
from node.http.server_connection import Request
from node.http.server_socket import GOING_AWAY, ServerSocket, SocketOptions, accept_key
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
from p2p.base.websocket import BINARY, PROTOCOL_ERROR
from p2p.services.service_server import current_request
from p2p.wire.messages import pack

log = logging.getLogger("node.api")

_decoder: Final = msgspec.msgpack.Decoder(FromWorker)
_encode: Final = msgspec.msgpack.Encoder().encode


class AttachedWorker:
    """One connection of a worker process. `serve` is the service's handler in the node."""

    def __init__(self, node: NodeService, socket: ServerSocket) -> None:
        self._node = node
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Served]] = {}
        self._numbers = count(1)
        self._attached: str | None = None

    # For the socket

    def on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            return
        try:
            found = _decoder.decode(message)
        except msgspec.DecodeError as error:
            self._socket.close(PROTOCOL_ERROR, str(error)[:100])
            return
        if isinstance(found, Served):
            self._on_served(found)
        elif isinstance(found, Attach) and self._attached is None:
            self._attach(found)

    def on_writable(self) -> None:
        pass

    def on_end(self) -> None:
        if self._attached is not None:
            self._node.service_calls.withdraw(self._attached)
            log.info("the worker process that served %s has gone", self._attached)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(RpcError("internal", "the worker process went away"))

    def _attach(self, wanted: Attach) -> None:
        try:
            self._node.service_calls.serve(
                wanted.service, self.serve, workers=max(1, wanted.workers)
            )
        except ValueError as error:
            self._socket.send(_encode(WorkerRefused(str(error))), BINARY)
            self._socket.close()
            return
        self._attached = wanted.service
        log.info("a worker process serves %s", wanted.service)
        self._socket.send(_encode(Attached(self._node.node_id)), BINARY)

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
            self._send(message)
            served = await reply
            answered = True
        finally:
            del self._waiting[number]
            if not answered and self._socket.open:
                self._send(Dropped(number))
        if served.error:
            raise HandlerError(served.error, served.message)
        if served.failure:
            raise RpcError(
                served.failure, served.message, retry_after_s=max(0.0, served.retry_after_s)
            )
        return msgspec.msgpack.decode(served.result)

    def _on_served(self, served: Served) -> None:
        waiting = self._waiting.get(served.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(served)

    def _send(self, message: Serve | Dropped) -> None:
        if not self._socket.open:
            raise RpcError("internal", "the worker process went away")
        self._socket.send(_encode(message), BINARY)


def add_worker(application: Application, service: NodeService, door: AccessControl) -> None:
    """Put the worker socket on an application."""
    workers: dict[ServerSocket, None] = {}
    clock = asyncio.get_running_loop().time

    def serve(request: Request) -> Response | None:
        door.admit(request, clock(), "operator")
        accept = accept_key(request.head)
        if accept is None:
            detail = f"{WORKER_PATH} is for 'exchange-node worker', over WebSocket"
            upgrade = {"Upgrade": "websocket"}
            return problem(
                request.head.target.raw_path, 426, "upgrade_required", detail, headers=upgrade
            )
        options = SocketOptions(MAX_MESSAGE, limits.STREAM_HEARTBEAT)
        socket = ServerSocket(request, accept, options, lambda made: AttachedWorker(service, made))
        workers[socket] = None
        socket.ended.add_done_callback(lambda _: workers.pop(socket, None))
        return None

    async def close() -> None:
        for socket in workers:
            socket.close(GOING_AWAY, "the node is stopping")
        if workers:
            await asyncio.wait([socket.ended for socket in workers])

    application.router.add("GET", WORKER_PATH, serve, head=False)
    application.goodbyes.append(close)
