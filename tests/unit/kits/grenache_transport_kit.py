"""Requests to one worker, for tests of the transports."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from grenache_client_kit import echo, http_reply, read_request

from p2p.grenache.directory import Address
from p2p.grenache.rpc.http_transport import HttpTransport
from p2p.grenache.rpc.rpc_wire import RpcReply
from p2p.grenache.rpc.ws_transport import WsTransport

SOON = 20.0  # seconds; only a failure waits so long


async def ask(
    transport: HttpTransport | WsTransport,
    address: Address,
    payload: Any = "hi",
    *,
    rid: str = "r1",
    timeout: float = SOON,
    **more: Any,
) -> RpcReply:
    body = transport.encode(rid, "svc", payload)
    return await transport.request(address, rid, body, timeout=timeout, **more)


def answering(*replies: bytes | Callable[[bytes], bytes]) -> Any:
    """A script that answers requests on one connection with these in turn, then reads on. An empty one
    ends the connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            _, body = await read_request(reader)
            data = reply(body) if callable(reply) else reply
            if not data:
                return
            writer.write(data)
            await writer.drain()
        await reader.read()

    return script


def echoing(body: bytes) -> bytes:
    return http_reply(echo(body))


def blocking_server() -> tuple[socket.socket, Address]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening, listening.getsockname()
