"""A worker process attached to a running node: its function is offered in the node's name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Final

import msgspec

from node.client.exchange_client import NodeUnreachable, client_headers
from node.client.server_trust import Trust
from node.views.worker_messages import (
    MAX_MESSAGE,
    WORKER_PATH,
    Attach,
    Attached,
    Dropped,
    FromNode,
    Serve,
    Served,
    WorkerRefused,
)
from p2p.base.errors import RpcError
from p2p.base.http1 import HttpFailed, Url
from p2p.base.websocket import BINARY, SocketOptions, WsConnection, connect
from p2p.services.fault_injection import Faults
from p2p.services.service_server import Handler, ServiceCall, ServiceReply, ServiceServer

CONNECT_TIMEOUT: Final = 30.0  # seconds
HEARTBEAT: Final = 20.0
_decoder: Final = msgspec.msgpack.Decoder(FromNode)
_encode: Final = msgspec.msgpack.Encoder().encode


class AttachRefused(Exception):
    """The node refused the service; the message has the reason."""


class WorkerProcess:
    """Answers the requests that a node passes on, one connection at a time."""

    def __init__(
        self, service: str, handler: Handler, *, workers: int, faults: Faults | None
    ) -> None:
        self._service = service
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._server = ServiceServer(rng=random.Random())  # noqa: S311 - for faults on purpose
        self._server.serve(service, handler, workers=workers, faults=faults)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(
        self,
        url: str,
        *,
        key: str | None,
        secret: str | None,
        trust: Trust,
        attached: Callable[[str], None],
    ) -> None:
        """Serve until the node ends the connection. `attached` is called with the node's id.

        Raises:
            AttachRefused: the node does not take the service.
            NodeUnreachable: it does not answer.
        """
        headers = client_headers(key, secret, None)
        try:
            parts = Url.parse(url + WORKER_PATH)
            tls = trust if parts.secure else None
            options = SocketOptions(parts.target, headers, tls, MAX_MESSAGE, HEARTBEAT)
            socket = await connect(parts.address, options, timeout=CONNECT_TIMEOUT)
            try:
                await self._send(socket, Attach(self._service, self._workers))
                await self._serve(socket, attached)
            finally:
                await socket.close()
        except HttpFailed as error:
            if error.reply is None:
                raise NodeUnreachable(f"no answer from {url}") from error
            raise AttachRefused(
                f"the node at {url} answers {error.reply.status}: it is of another version, or the "
                "key is not the operator's"
            ) from error
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def close(self) -> None:
        """Abandon what is being served."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._server.close()

    async def _send(self, socket: WsConnection, message: Attach | Served) -> None:
        socket.send(_encode(message), BINARY)
        await socket.drain()

    async def _serve(self, socket: WsConnection, attached: Callable[[str], None]) -> None:
        while (frame := await socket.receive()) is not None:
            opcode, payload = frame
            if opcode != BINARY:
                continue
            message = _decoder.decode(payload)
            if isinstance(message, Serve):
                task = self._loop.create_task(self._answer(socket, message))
                self._tasks[message.id] = task
                task.add_done_callback(partial(self._ended, message.id))
            elif isinstance(message, Dropped):
                if (dropped := self._tasks.get(message.id)) is not None:
                    dropped.cancel()
            elif isinstance(message, Attached):
                attached(message.node_id)
            elif isinstance(message, WorkerRefused):
                raise AttachRefused(message.detail)

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(number, None)
        if not task.cancelled():
            task.exception()  # a lost connection is seen where it is read

    async def _answer(self, socket: WsConnection, request: Serve) -> None:
        deadline = self._loop.time() + request.timeout if request.timeout > 0.0 else inf
        call = ServiceCall(self._service, request.payload, request.idempotency_id)
        try:
            answer = await self._server.execute(call, request.caller, deadline)
            reply: ServiceReply = answer.value
            served = Served(request.id, reply.result, error=reply.error, message=reply.message)
        except RpcError as error:
            served = Served(
                request.id,
                failure=error.code,
                message=error.message,
                retry_after_s=error.retry_after_s,
            )
        await self._send(socket, served)
