"""Streams between our client and our worker, and what either does when the other one ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grenache_client_kit import MemoryDirectory, http_reply, server, until, unused_address
from grenache_kit import RawConnection, client_context, make_certificates, server_context

from p2p.grenache.errors import BadInput, LookupEmpty, RemoteError, RequestFailed, RequestTimeout
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_client import Client, ClientSettings
from p2p.grenache.rpc.rpc_transport import BadReply
from p2p.grenache.rpc.rpc_worker import Request, StreamCut, StreamRequest, Worker
from p2p.grenache.rpc.stream_client import stream_headers

pytestmark = pytest.mark.timeout(30)

LARGE = b"0123456789abcdef" * (
    1 << 18
)  # 4 MiB: more than every buffer on the way, and than `max_payload`


async def echo(stream: StreamRequest) -> None:
    async for part in stream:
        await stream.write(part)


async def count(stream: StreamRequest) -> int:
    return sum([len(part) async for part in stream])


async def meta(stream: StreamRequest) -> dict[str, Any]:
    own = stream.headers.get("x-own")
    return {"key": stream.key, "action": stream.action, "args": stream.args, "own": own}


async def refuse(stream: StreamRequest) -> None:
    raise RemoteError("ERR_MINE", {"n": 1})


async def fail_late(stream: StreamRequest) -> None:
    await stream.write(b"half of ")
    raise RuntimeError("boom")


@asynccontextmanager
async def worker_of(**options: Any) -> AsyncIterator[Worker]:
    async with Worker(**options) as made:
        for handler in (echo, count, meta, refuse, fail_late):
            made.serve_stream(handler.__name__, handler)
        await made.start("127.0.0.1")
        yield made
        await made.stop(grace=0.0)


def directory(*workers: Worker | tuple[str, int]) -> MemoryDirectory:
    addresses = [w.address if isinstance(w, Worker) else w for w in workers]
    names = ("echo", "count", "meta", "refuse", "fail_late", "never")
    return MemoryDirectory(**dict.fromkeys(names, addresses))


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with worker_of() as made:
        yield made


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[Client]:
    async with Client(directory(worker)) as made:
        yield made


# Both ways


async def test_a_long_stream_comes_back_while_it_is_sent(client: Client) -> None:
    async with client.stream("echo") as stream:

        async def send() -> None:
            await stream.write(LARGE)
            await stream.end()

        sending = asyncio.create_task(send())
        got = b"".join([part async for part in stream])
        await sending
    assert got == LARGE


async def test_each_part_is_answered_before_the_next_is_sent(client: Client) -> None:
    async with client.stream("echo") as stream:
        parts = aiter(stream)
        for n in range(5):
            await stream.write(b"part %d" % n)
            assert await anext(parts) == b"part %d" % n
        await stream.end()
        with pytest.raises(StopAsyncIteration):
            await anext(parts)


async def test_a_value_that_a_handler_returns_is_the_reply(client: Client) -> None:
    async with client.stream("count") as stream:
        await stream.write(LARGE)
        assert await stream.reply() == len(LARGE)


async def test_action_arguments_and_headers_arrive(client: Client) -> None:
    args = {"name": "ü", "n": [1, None]}
    async with client.stream("meta", action="up", args=args, headers={"x-own": {"a": 1}}) as stream:
        found = await stream.reply()
    assert found == {"key": "meta", "action": "up", "args": args, "own": '{"a":1}'}


async def test_streams_work_over_tls(tmp_path: Path) -> None:
    pairs = make_certificates(tmp_path, "worker", "caller")
    options = {"tls": server_context(pairs["worker"], ask=True)}
    async with (
        worker_of(**options) as worker,
        Client(directory(worker), tls=client_context(pairs["caller"], show=True)) as client,
        client.stream("echo") as stream,
    ):
        await stream.write(b"secret")
        assert await stream.read() == b"secret"


async def test_a_service_can_have_requests_and_streams(worker: Worker, client: Client) -> None:
    async def answer(request: Request) -> Any:
        return request.payload

    worker.serve("echo", answer)
    assert await client.request("echo", "plain") == "plain"
    async with client.stream("echo") as stream:
        await stream.write(b"streamed")
        assert await stream.read() == b"streamed"
    assert worker.status().services.count("echo") == 1


# Errors


async def test_a_refusal_reaches_the_caller(client: Client) -> None:
    async with client.stream("refuse") as stream:
        with pytest.raises(RemoteError) as failed:
            await stream.reply()
    assert (failed.value.code, failed.value.result) == ("ERR_MINE", {"n": 1})


async def test_a_reply_that_is_not_whole_is_an_error(client: Client) -> None:
    async with client.stream("fail_late") as stream:
        with pytest.raises(RequestFailed) as failed:
            await stream.read()
    assert failed.value.sent


async def test_a_service_without_streams_is_not_waited_for(worker: Worker) -> None:
    async with Client(directory(worker)) as client, client.stream("never") as stream:

        async def send() -> None:
            await stream.write(LARGE)
            await stream.read()

        with pytest.raises(BadReply, match="ERR_PAYLOAD_SIZE"):  # taken as an ordinary request
            await send()


async def test_a_reply_larger_than_the_limit_is_refused(client: Client) -> None:
    async with client.stream("echo") as stream:
        await stream.write(b"x" * 1000)
        with pytest.raises(BadReply) as failed:
            await stream.read(999)
    assert failed.value.code == "ERR_PAYLOAD_SIZE"


async def test_single_reads_of_a_handler_are_limited(client: Client, worker: Worker) -> None:
    async def collect(stream: StreamRequest) -> int:
        return len(await stream.read(1000))

    worker.remove("count")
    worker.serve_stream("count", collect)
    async with client.stream("count") as stream:
        await stream.write(b"x" * 1000)
        assert await stream.reply() == 1000
    async with client.stream("count") as stream:
        await stream.write(b"x" * 1001)
        with pytest.raises(RemoteError, match="ERR_PAYLOAD_SIZE"):
            await stream.reply()


async def test_a_worker_that_cannot_be_connected_to_is_passed_over(worker: Worker) -> None:
    async with Client(directory(unused_address(), worker)) as client:
        for _ in range(4):
            async with client.stream("count") as stream:
                await stream.write(b"abc")
                assert await stream.reply() == 3
                assert stream.address == worker.address


async def test_no_worker_at_all() -> None:
    async with Client(
        directory(unused_address()), settings=ClientSettings(empty_wait=0.05)
    ) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.stream("echo", timeout=0.5).__aenter__()
        assert not failed.value.sent
        with pytest.raises(LookupEmpty):
            await client.stream("unknown").__aenter__()


async def test_a_worker_that_never_answers() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as address, Client(directory(address)) as client:
        async with client.stream("echo", timeout=0.2) as stream:
            await stream.write(b"anyone?")
            with pytest.raises(RequestTimeout) as failed:
                await stream.read()
        assert failed.value.sent


async def test_a_worker_that_ends_while_a_part_waits_to_be_sent() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with server(leave) as address, Client(directory(address)) as client:
        async with client.stream("echo") as stream:
            with pytest.raises(RequestFailed) as failed:
                await stream.write(LARGE * 8)
        assert failed.value.sent


async def test_a_worker_that_answers_early_wants_no_more() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_reply(b'["r",null,"enough"]'))
        await writer.drain()
        await reader.read(1)
        await asyncio.sleep(60)

    async with (
        server(early) as address,
        Client(directory(address)) as client,
        client.stream("echo") as stream,
    ):
        await stream.write(LARGE * 8)
        assert await stream.reply() == "enough"


async def test_closing_the_client_ends_its_streams(worker: Worker) -> None:
    client = Client(directory(worker))
    stream = await client.stream("echo").__aenter__()
    await stream.write(b"x")
    await client.close()
    with pytest.raises(RequestFailed):
        await stream.read()
    await stream.__aexit__(None, None, None)
    with pytest.raises(RequestFailed, match="closed"):
        client.stream("echo")


async def test_leaving_the_block_ends_the_handler(worker: Worker, client: Client) -> None:
    cut = asyncio.Event()

    async def wait(stream: StreamRequest) -> None:
        await stream.write(b"begin")
        try:
            async for _ in stream:
                pass
        finally:
            cut.set()

    worker.remove("echo")
    worker.serve_stream("echo", wait)
    async with client.stream("echo") as stream:
        assert await anext(aiter(stream)) == b"begin"
    await asyncio.wait_for(cut.wait(), 10)
    await until(lambda: not worker.status().in_flight)


def test_headers_that_http_cannot_carry_are_refused() -> None:
    for headers in ({"x": "a\r\nb: c"}, {"x": "ü"}, {"a\nb": "c"}):
        with pytest.raises(BadInput, match="ERR_BAD_HEADER"):
            stream_headers("svc", headers, None, None)
    with pytest.raises(BadInput, match="ERR_NOT_JSON"):
        stream_headers("svc", None, None, float("nan"))
    assert json.loads(stream_headers("süc", None, None, None)["_gr"])[1] == "süc"


async def test_streams_need_http(worker: Worker) -> None:
    async with Client(directory(worker), transport="ws") as client:
        with pytest.raises(BadInput, match="ERR_NO_STREAMS"):
            client.stream("echo")


# The worker's limits


async def test_more_streams_than_allowed_are_refused_as_busy() -> None:
    async with (
        worker_of(limits=Limits(max_streams=1)) as worker,
        Client(directory(worker)) as client,
    ):
        async with client.stream("echo") as first:
            await first.write(b"here")
            await anext(aiter(first))
            async with client.stream("echo") as second:
                with pytest.raises(RemoteError, match="ERR_BUSY"):
                    await second.reply()
        await until(lambda: not worker.status().in_flight)
        async with client.stream("echo") as third:
            await third.write(b"room")
            assert await third.read() == b"room"


async def test_a_caller_that_sends_nothing_is_cut() -> None:
    cuts: list[StreamCut] = []

    async def wait(stream: StreamRequest) -> None:
        try:
            await stream.read()
        except StreamCut as cut:
            cuts.append(cut)
            raise

    async with worker_of(limits=Limits(body_timeout=0.1)) as worker:
        worker.serve_stream("never", wait)
        async with Client(directory(worker)) as client, client.stream("never") as stream:
            await stream.write(b"first")
            await until(lambda: cuts)
            with pytest.raises(RemoteError, match="no bytes from the caller"):
                await stream.reply()


async def test_stopping_ends_streams_after_the_grace(worker: Worker, client: Client) -> None:
    async with client.stream("echo") as stream:
        await stream.write(b"x")
        await anext(aiter(stream))
        await asyncio.wait_for(worker.stop(grace=0.05), 5)
        with pytest.raises(RequestFailed):
            await stream.read()


async def test_a_header_that_is_no_json(worker: Worker) -> None:
    raw = await RawConnection.open(worker.address)
    try:
        assert await raw.http(b"x", "_gr: [") == (500, b'[null, "ERR_HEADER_PARSE_GR", null]')
    finally:
        await raw.close()
