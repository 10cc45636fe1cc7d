"""The Python client against a real server, and against what is no node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from trading_kit import Api, running_api

from node.cli.client_session import BlockingTransport
from node.client.exchange_client import (
    ApiTransport,
    ExchangeClient,
    NodeUnreachable,
    NotANode,
    PooledTransport,
)


class ThreadedTransport:
    """The command line's blocking transport, with its waiting in a thread: the server is in this one."""

    def __init__(self, timeout: float = 5) -> None:
        self._inner = BlockingTransport(timeout)

    async def request(self, *args: object) -> object:
        return await asyncio.to_thread(lambda: asyncio.run(self._inner.request(*args)))  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._inner.close()


MakeTransport = Callable[..., ApiTransport]
both = pytest.mark.parametrize("make", [PooledTransport, ThreadedTransport])


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@both
async def test_the_error_of_an_unreachable_node_has_its_address(
    api: Api, make: MakeTransport
) -> None:
    await api.server.stop()
    async with ExchangeClient(api.url, transport=make()) as client:
        with pytest.raises(NodeUnreachable, match=rf"no answer from {api.url} \(.*refused.*\)"):
            await client.status()


@asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[str]:
    """A server that says `data` to whatever is asked; None: nothing, and stays silent."""

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if data is None:
                await reader.read()
            else:
                writer.write(data)
                await writer.drain()
        except (OSError, EOFError):
            pass  # the client left
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


def http(body: bytes, kind: str = "text/html", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@both
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        http(b"<html>It works!</html>"),
        http(b"{}", "application/json"),
        http(b"[1,", "application/json"),
        http(b"not found", status="404 Not Found"),
        http(b"not json", "application/problem+json", "404 Not Found"),
        http(b"", status="301 Moved Permanently\r\nLocation: http://127.0.0.1:1/"),
    ],
)
async def test_answers_of_other_programs_are_reported_as_such(
    make: MakeTransport, data: bytes
) -> None:
    async with answering(data) as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NotANode, match=url):
            await client.status()


@both
@pytest.mark.parametrize(
    "data",
    [http(b"[]"), http(b"[]", "application/json", "404 Not Found")],
)
async def test_an_answer_of_another_kind_or_status_is_not_taken_for_a_node_s(
    make: MakeTransport, data: bytes
) -> None:
    async with answering(data) as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NotANode, match="HTTP status"):
            await client.orders()


@both
async def test_a_connection_closed_without_answer_is_unreachable(make: MakeTransport) -> None:
    async with answering(b"") as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NodeUnreachable, match="closed the connection without"):
            await client.status()


@both
async def test_a_node_that_does_not_answer_in_time_is_unreachable(make: MakeTransport) -> None:
    async with answering(None) as url, ExchangeClient(url, transport=make(timeout=0.1)) as client:
        with pytest.raises(NodeUnreachable, match=r"no answer from .* in 0.1 s"):
            await client.status()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8300", "ftp://x", "http://"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="looks like http"):
        ExchangeClient(url)
