"""A worker process attached to a running node: its function is offered in the node's name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from math import inf
from ssl import SSLContext
from typing import Final

import aiohttp
import msgspec

from node.client.exchange_client import NodeUnreachable, client_headers
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
from p2p.services.fault_injection import Faults
from p2p.services.service_server import Handler, ServiceCall, ServiceReply, ServiceServer

HEARTBEAT: Final = 20.0  # seconds
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
        ssl: SSLContext | aiohttp.Fingerprint | bool,
        attached: Callable[[str], None],
    ) -> None:
        """Serve until the node ends the connection. `attached` is called with the node's id.

        Raises:
            AttachRefused: the node does not take the service.
            NodeUnreachable: it does not answer.
        """
        headers = client_headers(key, secret, None)
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.ws_connect(
                    url + WORKER_PATH,
                    ssl=ssl,
                    heartbeat=HEARTBEAT,
                    max_msg_size=MAX_MESSAGE,
                ) as socket,
            ):
                await socket.send_bytes(_encode(Attach(self._service, self._workers)))
                await self._serve(socket, attached)
        except aiohttp.WSServerHandshakeError as error:
            raise AttachRefused(
                f"the node at {url} answers {error.status}: it is of another version, or the "
                "key is not the operator's"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeUnreachable(f"no answer from {url}") from error
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def close(self) -> None:
        """Abandon what is being served."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._server.close()

    async def _serve(
        self, socket: aiohttp.ClientWebSocketResponse, attached: Callable[[str], None]
    ) -> None:
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.BINARY:
                continue
            message = _decoder.decode(frame.data)
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

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse, request: Serve) -> None:
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
        if not socket.closed:
            await socket.send_bytes(_encode(served))
