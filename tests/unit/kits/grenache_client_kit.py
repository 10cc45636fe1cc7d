"""For tests of the Grenache client: a directory in memory, a transport in memory, servers by script."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import GrenacheError, RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_transport import TransportStatus
from p2p.grenache.rpc.rpc_wire import RpcReply, decode_request, encode_request

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class MemoryDirectory:
    """Lookups of what is in `services`; `error`, when set, is raised instead. `delay`: seconds of each."""

    def __init__(self, **services: Iterable[Address]) -> None:
        self.services = {name: list(addresses) for name, addresses in services.items()}
        self.error: GrenacheError | None = None
        self.delay = 0.0
        self.lookups: list[tuple[str, bool]] = []
        self.forgotten: list[str] = []

    async def withdraw(self, service: str, port: int) -> int:
        return 0

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        self.lookups.append((service, fresh))
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return list(self.services.get(service, ()))

    def forget(self, service: str) -> None:
        self.forgotten.append(service)

    async def announce(self, service: str, port: int) -> int:
        raise NotImplementedError

    async def put(self, value: bytes) -> str:
        raise NotImplementedError

    async def put_mutable(self, item: MutableItem) -> str:
        raise NotImplementedError

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        raise NotImplementedError


class MemoryTransport:
    """Workers as functions of the payload: `workers[address]` returns the result, raises what a transport
    raises, or returns an `RpcReply`. An address without one refuses connections."""

    def __init__(self) -> None:
        self.workers: dict[Address, Callable[[Any], Awaitable[Any]]] = {}
        self.asked: Counter[Address] = Counter()
        self.rids: list[str] = []
        self.under_way: Counter[Address] = Counter()
        self.closed = False

    def encode(self, rid: str, key: str, payload: Any) -> bytes:
        return encode_request(rid, key, payload)

    async def request(
        self,
        address: Address,
        rid: str,
        body: bytes,
        *,
        timeout: float,
        connect_timeout: float | None = None,
        idempotent: bool = False,
    ) -> RpcReply:
        self.asked[address] += 1
        self.rids.append(rid)
        work = self.workers.get(address)
        if work is None:
            raise RequestFailed("ERR_REQUEST_GENERIC", f"refused {address}", sent=False)
        self.under_way[address] += 1
        try:
            async with asyncio.timeout(timeout):
                result = await work(decode_request(body)[2])
        except TimeoutError:
            raise RequestTimeout(f"{address}") from None
        finally:
            self.under_way[address] -= 1
        return result if isinstance(result, RpcReply) else RpcReply(rid, None, result)

    def status(self) -> TransportStatus:
        return TransportStatus("memory", 0, 0, sum(self.asked.values()), 0)

    async def close(self) -> None:
        self.closed = True


async def until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Wait for what other tasks bring about; only a failure waits so long."""
    for _ in range(int(timeout / 0.001)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"not within {timeout:g} s")


def unused_address() -> Address:
    """Address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return "127.0.0.1", sock.getsockname()[1]


@asynccontextmanager
async def server(script: Script, **options: Any) -> AsyncIterator[Address]:
    """A TCP server that runs `script` for each connection, and what it does is over when this is."""
    running: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(run(reader, writer))
        running.add(task)

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, **options)
    try:
        yield listening.sockets[0].getsockname()
    finally:
        listening.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await listening.wait_closed()
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """Headers (names in lower case) and body of an HTTP request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    assert lines[0] == "POST / HTTP/1.1"
    headers = {}
    for line in filter(None, lines[1:]):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers, await reader.readexactly(int(headers["content-length"]))


def http_reply(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def echo(body: bytes) -> bytes:
    """The reply that gives the payload back."""
    rid, _, payload = json.loads(body)
    return json.dumps([rid, None, payload]).encode()
