"""Our Grape behind its HTTP API, used by the real Node.js Link, worker and client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from real import NodeProgram, eventually

from p2p.grenache import bep44
from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_http import GrapeApi
from p2p.grenache.grape.grape_settings import GrapeSettings

HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


class OurGrape:
    """A Grape in this process, with its API."""

    def __init__(self, *bootstrap: OurGrape) -> None:
        self.grape = Grape(
            GrapeSettings(
                host="127.0.0.1", port=0, bootstrap=tuple(one.grape.address for one in bootstrap)
            )
        )
        self.api = GrapeApi(self.grape)

    async def start(self) -> None:
        await self.grape.start()
        await self.api.start("127.0.0.1", 0)

    async def stop(self) -> None:
        await self.api.stop()
        await self.grape.stop()

    @property
    def url(self) -> str:
        return self.api.url

    async def knows(self, others: int) -> None:
        async def joined() -> bool:
            return self.grape.status().nodes >= others

        await eventually(joined, what=f"the Grape to know {others} others")


@asynccontextmanager
async def our_grapes(count: int) -> AsyncIterator[list[OurGrape]]:
    """Grapes that know each other."""
    grapes: list[OurGrape] = []
    try:
        for _ in range(count):
            grape = OurGrape(*grapes[:1])
            await grape.start()
            grapes.append(grape)
        await asyncio.gather(*(grape.knows(count - 1) for grape in grapes))
        yield grapes
    finally:
        for grape in grapes:
            await grape.stop()


@pytest.fixture
async def pair(npm: Path) -> AsyncIterator[list[OurGrape]]:
    async with our_grapes(2) as grapes:
        yield grapes


class RealLink:
    """The real Link at one Grape."""

    def __init__(self, program: NodeProgram) -> None:
        self._program = program

    async def call(self, method: str, *args: Any) -> Any:
        """The answer. The error's text, when the Link reports one, as an `AssertionError`."""
        answer = await self.outcome(method, *args)
        assert answer["error"] is None, answer
        return answer.get("data")

    async def outcome(self, method: str, *args: Any) -> Any:
        return await self._program.ask({"id": 1, "method": method, "args": list(args)})

    async def start_announcing(self, service: str, port: int, interval: float) -> Any:
        announcing = {"service": service, "port": port, "interval": interval * 1000}
        return await self._program.ask({"id": 1, "announcing": announcing})


@asynccontextmanager
async def real_link(grape: OurGrape, log: Path) -> AsyncIterator[RealLink]:
    async with NodeProgram("link.js", log, {"grape": grape.url}) as program:
        assert await program.line() == {"ready": True}
        yield RealLink(program)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_announcements_of_the_real_link_at_one_grape_are_found_at_another(
    npm: Path, tmp_path: Path, service: str, count: int
) -> None:
    async with our_grapes(count) as grapes:
        async with real_link(grapes[0], tmp_path / "at-first") as first:
            assert (await first.outcome("lookup", service))["error"] == "ERR_GRAPE_LOOKUP_EMPTY"
            assert await first.call("announce", service, 1337) >= 1
        async with real_link(grapes[-1], tmp_path / "at-last") as last:
            assert await last.call("lookup", service) == ["127.0.0.1:1337"]


async def test_repeated_announcing_of_the_real_link_works(
    pair: list[OurGrape], tmp_path: Path, service: str
) -> None:
    async with real_link(pair[0], tmp_path / "log") as link:
        assert (await link.start_announcing(service, 1337, 0.1))["error"] is None

        async def announced_often() -> bool:
            return pair[0].api.counters.requests >= 4

        await eventually(announced_often, what="four announcements")
        assert pair[0].api.counters.errors == 0


async def test_the_real_link_puts_and_gets(pair: list[OurGrape], tmp_path: Path) -> None:
    first, second = pair
    async with real_link(first, tmp_path / "a") as one, real_link(second, tmp_path / "b") as other:
        assert await one.call("put", {"v": "hello world"}) == HELLO
        found = await other.call("get", HELLO)
        assert found["v"] == "hello world"
        assert len(bytes.fromhex(found["id"])) == 20
        assert await other.call("get", "0" * 40) == ""


@pytest.mark.parametrize("as_buffers", [False, True])
async def test_the_real_link_puts_and_gets_signed_values(
    pair: list[OurGrape], tmp_path: Path, as_buffers: bool
) -> None:
    def told(data: bytes, text: str) -> Any:
        return {"hex": data.hex()} if as_buffers else text

    first, second = pair
    salt = b"colours"
    async with real_link(first, tmp_path / "a") as one, real_link(second, tmp_path / "b") as other:
        for seq, value in ((1, "red"), (2, "green")):
            item = bep44.sign(KEY, seq, value.encode(), salt=salt)
            put = {
                "k": told(PUBLIC, PUBLIC.hex()),
                "sig": told(item.signature, item.signature.hex()),
                "salt": told(salt, salt.decode()),
                "seq": seq,
                "v": value,
            }
            key = await one.call("put", put)
            assert key == bep44.mutable_key(PUBLIC, salt).hex()
            found = await other.call("get", {"hash": key, "salt": told(salt, salt.decode())})
            assert (found["v"], found["seq"], found["k"]) == (value, seq, PUBLIC.hex())
            assert found["sig"] == item.signature.hex()
        old = bep44.sign(KEY, 1, b"red", salt=salt)
        outcome = await one.outcome(
            "put",
            {
                "k": PUBLIC.hex(),
                "sig": old.signature.hex(),
                "salt": "colours",
                "seq": 1,
                "v": "red",
            },
        )
        assert (outcome["code"], outcome["error"]) == (302, "302 sequence number less than current")


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("announce", ["", 1], "ERR_GRAPE_SERVICE_NAME: a service name is a text, not ''"),
        ("announce", ["s", "1337"], "ERR_GRAPE_SERVICE_PORT"),
        ("put", [{"v": "x" * 1000}], "v must be less than 1000 bytes in put()"),
        ("get", ["zz"], "ERR_GRAPE_HASH_FORMAT"),
    ],
)
async def test_refusals_reach_the_callers_of_the_real_link_as_data(
    pair: list[OurGrape], tmp_path: Path, method: str, arguments: list[Any], text: str
) -> None:
    async with real_link(pair[0], tmp_path / "log") as link:
        assert await link.call(method, *arguments) == text


async def test_a_request_that_is_too_large_is_an_error_of_the_real_link(
    pair: list[OurGrape], tmp_path: Path
) -> None:
    async with real_link(pair[0], tmp_path / "log") as link:
        outcome = await link.outcome("lookup", "x" * 9000)
        assert (outcome["code"], outcome["error"]) == (413, "ERR_GRAPE_PAYLOAD_SIZE")


async def test_a_grape_that_restarts_is_used_again_by_a_running_link(
    npm: Path, tmp_path: Path, service: str
) -> None:
    async with our_grapes(1) as (grape,), real_link(grape, tmp_path / "log") as link:
        assert await link.call("announce", service, 1) == 1
        host, port = grape.api.address
        await grape.stop()
        assert "ECONNREFUSED" in (await link.outcome("announce", service, 1))["error"]
        await grape.grape.start()
        await grape.api.start(host, port)
        assert await link.call("announce", service, 1) == 1


@pytest.mark.parametrize("transport", ["http", "ws"])
async def test_a_real_client_finds_and_calls_a_real_worker_through_our_grapes(
    pair: list[OurGrape], tmp_path: Path, service: str, transport: str
) -> None:
    first, second = pair
    worker_settings = {"grape": first.url, "service": service}
    async with (
        NodeProgram(f"{transport}_worker.js", tmp_path / "worker", worker_settings) as worker,
        NodeProgram(f"{transport}_client.js", tmp_path / "client", {"grape": second.url}) as client,
    ):
        assert (await worker.line())["ready"]
        assert (await client.line())["ready"]
        call = {"id": 1, "service": service, "payload": {"a": [1, "ä"]}, "opts": {"timeout": 5000}}
        reply = await client.ask(call)
        assert (reply["error"], reply["result"]) == (None, {"a": [1, "ä"]})
