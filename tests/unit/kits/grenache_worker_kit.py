"""Handlers for tests of a worker, and requests to it over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields, replace
from typing import Any

from grenache_kit import RawConnection, request_body

from p2p.flow.admission import Busy
from p2p.grenache.errors import BadInput, RemoteError
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_worker import Request, Worker

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Service:
    """Handlers that tests drive."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.finished = 0

    async def echo(self, request: Request) -> Any:
        self.requests.append(request)
        return request.payload

    async def held(self, request: Request) -> Any:
        """Ends when `go` is set."""
        self.entered.set()
        await self.go.wait()
        self.finished += 1
        return request.payload

    async def fail(self, request: Request) -> Any:
        match request.payload:
            case "refuse":
                raise RemoteError("ERR_MY_APP", {"partial": 1})
            case "refuse badly":
                raise RemoteError("ERR_MY_APP", object())
            case "empty":
                raise RemoteError("")
            case "cancel":
                raise asyncio.CancelledError
            case "object":
                return object()
            case "input":
                raise BadInput("ERR_OTHER", "of a call of its own")
            case "timeout":
                raise TimeoutError("of something inside")
            case "busy":
                raise Busy(1.0)
        raise RuntimeError("the password is 1234")

    def worker(self, **more: Any) -> Worker:
        """A worker; what is not an argument of it is one of its limits."""
        worker = Worker(**with_limits(more))
        worker.serve("echo", self.echo)
        worker.serve("held", self.held)
        worker.serve("fail", self.fail)
        return worker


async def ask(connection: RawConnection, key: str, payload: Any, rid: Any = "r1") -> Any:
    """The reply to a request over HTTP, which must have status 200."""
    status, body = await connection.http(request_body(key, payload, rid))
    assert status == 200, body
    return json.loads(body)


async def ask_ws(connection: RawConnection, key: str, payload: Any, rid: Any = "r1") -> Any:
    connection.send_frame(request_body(key, payload, rid))
    opcode, data = await connection.frame()
    assert opcode == 1
    return json.loads(data)


def with_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a worker, with those that are limits put into its `Limits`."""
    names = {field.name for field in fields(Limits)} & options.keys()
    limits = replace(options.get("limits", Limits()), **{name: options[name] for name in names})
    rest = {name: value for name, value in options.items() if name not in names}
    return rest | {"limits": limits}
