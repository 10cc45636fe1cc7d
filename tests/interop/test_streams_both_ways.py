"""Streams (`peer.stream`): our client with the real worker, the real client with our worker."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from real import NodeProgram, RealGrape

from p2p.grenache.errors import RemoteError, RequestFailed
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_worker import StreamRequest, Worker
from tests.unit.kits.grenache_kit import Pair, client_context, make_certificates, server_context

PART = b"0123456789abcdef" * 4096  # 64 KiB
MANY = 128  # parts: 8 MiB, more than any buffer on the way


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "worker", "caller")


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def secure(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def paths(pair: Pair) -> dict[str, str]:
    return {name: str(getattr(pair, name)) for name in ("key", "cert", "ca")}


# Our client, the real worker


@asynccontextmanager
async def real_worker(
    grapes: list[RealGrape], service: str, log: Path, pairs: dict[str, Pair] | None = None
) -> AsyncIterator[Client]:
    settings: dict[str, Any] = {"grape": grapes[0].url, "service": service}
    if pairs is not None:
        settings["secure"] = paths(pairs["worker"])
    tls = None if pairs is None else client_context(pairs["caller"], show=True)
    async with NodeProgram("stream_worker.js", log, settings) as program:
        assert (await program.line())["ready"]
        async with Link([grape.url for grape in grapes]) as link, Client(link, tls=tls) as client:
            yield client


async def test_our_stream_comes_back_from_the_real_worker_while_it_is_sent(
    grapes: list[RealGrape],
    service: str,
    tmp_path: Path,
    certificates: dict[str, Pair],
    secure: bool,
) -> None:
    pairs = certificates if secure else None
    async with (
        real_worker(grapes, service, tmp_path / "log", pairs) as client,
        client.stream(service, action="shout") as stream,
    ):

        async def send() -> None:
            for _ in range(MANY):
                await stream.write(PART)
            await stream.end()

        sending = asyncio.create_task(send())
        got = b"".join([part async for part in stream])
        await sending
    assert got == PART.upper() * MANY


async def test_the_real_worker_answers_each_part_at_once(
    grapes: list[RealGrape], service: str, tmp_path: Path
) -> None:
    async with (
        real_worker(grapes, service, tmp_path / "log") as client,
        client.stream(service, action="shout") as stream,
    ):
        parts = aiter(stream)
        for n in range(3):
            await stream.write(b"part %d" % n)
            assert await anext(parts) == b"PART %d" % n


async def test_replies_errors_and_cuts_of_the_real_worker(
    grapes: list[RealGrape], service: str, tmp_path: Path
) -> None:
    async with real_worker(grapes, service, tmp_path / "log") as client:
        args = {"name": "ü", "n": [1, None]}
        async with client.stream(service, action="count", args=args) as stream:
            await stream.write(PART)
            found = await stream.reply()
        assert found == {"bytes": len(PART), "key": service, "args": args, "isStream": True}
        async with client.stream(service, action="fail") as stream:
            with pytest.raises(RemoteError) as refused:
                await stream.reply()
        assert (refused.value.code, refused.value.result) == ("ERR_MY_APP", {"partial": 1})
        async with client.stream(service, action="cut") as stream:
            with pytest.raises(RequestFailed) as failed:
                await stream.read()
        assert failed.value.sent


# The real client, our worker


async def shout(stream: StreamRequest) -> Any:
    if stream.action == "fail":
        raise RemoteError("ERR_MY_APP", {"partial": 1})
    if stream.action == "count":
        size = sum([len(part) async for part in stream])
        return {"bytes": size, "key": stream.key, "args": stream.args}
    async for part in stream:
        await stream.write(part.upper())
    return None


async def test_the_real_clients_streams_to_our_worker(
    grapes: list[RealGrape],
    service: str,
    tmp_path: Path,
    certificates: dict[str, Pair],
    secure: bool,
) -> None:
    settings: dict[str, Any] = {"grape": grapes[0].url}
    tls = None
    if secure:
        settings["secure"] = paths(certificates["caller"])
        tls = server_context(certificates["worker"], ask=True)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(Link([grape.url for grape in grapes]))
        worker = await stack.enter_async_context(Worker(directory=link, tls=tls))
        worker.serve_stream(service, shout)
        await worker.start("127.0.0.1")
        await worker.announced()
        program = NodeProgram("stream_client.js", tmp_path / "log", settings)
        await stack.enter_async_context(program)
        assert await program.line() == {"ready": True}

        async def ask(id_: int, text: str, times: int, **headers: Any) -> dict[str, Any]:
            command = {"id": id_, "service": service, "text": text, "times": times}
            found: dict[str, Any] = await program.ask({**command, "headers": headers})
            assert found["id"] == id_
            assert found["error"] is None
            return found

        back = await ask(1, PART.decode(), MANY)
        assert back["bytes"] == MANY * len(PART)
        assert back["sha1"] == hashlib.sha1(PART.upper() * MANY).hexdigest()
        counted = json.loads((await ask(2, "abc", 1000, _a="count", _ar={"n": 1}))["text"])
        assert counted[1:] == [None, {"bytes": 3000, "key": service, "args": {"n": 1}}]
        refused = json.loads((await ask(3, "abc", 1, _a="fail"))["text"])
        assert refused[1:] == ["ERR_MY_APP", {"partial": 1}]
        assert refused[0] != counted[0]  # the rids that the client made
        await worker.stop(grace=0.0)
