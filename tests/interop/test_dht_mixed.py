"""One DHT of real Grapes and ours: what is done through any of them holds for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from real import NodeProgram, RealGrape, eventually

from p2p.grenache import bep44
from p2p.grenache.directory import Address
from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_settings import GrapeSettings
from tests.ports import free_port

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def ours(*bootstrap: Address, port: int = 0, **settings: Any) -> Grape:
    # No lookup cache: these tests ask again and again until something shows.
    return Grape(
        GrapeSettings(
            host="127.0.0.1", port=port, bootstrap=bootstrap, lookup_cache=0.0, **settings
        )
    )


def text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


async def announce(grape: Grape | RealGrape, service: str, port: int) -> int:
    if isinstance(grape, Grape):
        return await grape.announce(service, port)
    answer = await grape.ask("announce", [service, port])
    assert isinstance(answer, int), answer
    return answer


async def lookup(grape: Grape | RealGrape, service: str) -> set[str]:
    if isinstance(grape, Grape):
        return {text(found) for found in await grape.lookup(service)}
    answer = await grape.ask("lookup", service)
    assert isinstance(answer, list), answer
    return set(answer)


async def know(grapes: list[Grape], others: int) -> None:
    async def joined() -> bool:
        return all(grape.status().nodes >= others for grape in grapes)

    await eventually(joined, what=f"our Grapes to know {others} others")


@asynccontextmanager
async def mixed(directory: Path, **real: Any) -> AsyncIterator[list[Grape | RealGrape]]:
    """Real, ours, real, ours; each bootstrapped at the one before."""
    first = RealGrape(directory / "real-1.log", **real)
    second = RealGrape(directory / "real-2.log", **real)
    started: list[Grape] = []
    try:
        await first.start()
        started.append(ours(("127.0.0.1", first.dht_port)))
        await started[0].start()
        second.bootstrap = [text(started[0].address)]
        await second.start()
        started.append(ours(("127.0.0.1", second.dht_port)))
        await started[1].start()
        await know(started, 3)
        await asyncio.gather(first.joined(), second.joined())
        yield [first, started[0], second, started[1]]
    finally:
        for grape in started:
            await grape.stop()
        first.kill()
        second.kill()


async def test_an_announcement_at_any_is_seen_at_all(npm: Path, tmp_path: Path, service: str):
    async with mixed(tmp_path) as grapes:
        expected = set()
        for number, grape in enumerate(grapes):
            expected.add(f"127.0.0.1:{1000 + number}")
            assert await announce(grape, service, 1000 + number) >= 3
            for asked in grapes:
                assert await lookup(asked, service) == expected, (number, asked)


@pytest.mark.parametrize("name", ["a", "rpc_übersetzung", "n" * 20, "long-" * 30])
async def test_a_service_name_of_any_length_is_the_same_to_both(
    npm: Path, tmp_path: Path, name: str
):
    async with mixed(tmp_path) as grapes:
        await announce(grapes[0], name, 1)
        await announce(grapes[1], name, 2)
        for asked in grapes:
            assert await lookup(asked, name) == {"127.0.0.1:1", "127.0.0.1:2"}


async def test_an_announcement_of_a_real_grape_fades_at_ours_when_its_time_is_up(
    npm: Path, tmp_path: Path, service: str
):
    async with mixed(tmp_path) as grapes:
        lone = ours(grapes[1].address, peer_max_age=2.0)  # type: ignore[union-attr]
        await lone.start()
        try:
            await know([lone], 4)
            await announce(grapes[0], service, 5)
            at_lone = lone._node
            assert at_lone is not None
            began = time.monotonic()

            async def forgotten() -> bool:
                return not at_lone.listed(asyncio.get_running_loop().time(), service.encode(), ())

            assert not await forgotten()
            await eventually(forgotten, what="our Grape to forget the announcement")
            assert 1.5 < time.monotonic() - began < 4
        finally:
            await lone.stop()


async def test_an_immutable_value_put_at_one_kind_is_got_at_the_other(npm: Path, tmp_path: Path):
    async with mixed(tmp_path) as grapes:
        real, our = grapes[0], grapes[3]
        assert isinstance(real, RealGrape)
        assert isinstance(our, Grape)
        key = await our.put(b"put at ours")
        assert key == bep44.immutable_key(b"put at ours").hex()
        assert (await real.ask("get", key))["v"] == "put at ours"
        key = await real.ask("put", {"v": "put at the real one"})
        found = await our.get(key)
        assert found is not None
        assert found.value == b"put at the real one"
        longest = b"v" * 999
        key = await our.put(longest)
        assert (await real.ask("get", key))["v"].encode() == longest
        assert await our.get("ab" * 20) is None


async def test_a_signed_value_goes_from_ours_to_ours_through_the_mix(npm: Path, tmp_path: Path):
    async with mixed(tmp_path) as grapes:
        first, second = grapes[1], grapes[3]
        assert isinstance(first, Grape)
        assert isinstance(second, Grape)
        for seq, value in ((3, b"three"), (7, b"seven")):
            key = await first.put_mutable(bep44.sign(KEY, seq, value, salt=b"room"))
            for grape in (first, second):
                found = await grape.get(key, salt=b"room")
                assert found is not None
                assert (found.seq, found.value) == (seq, value)


@asynccontextmanager
async def verifying(directory: Path) -> AsyncIterator[tuple[RealGrape, Grape]]:
    """A real Grape that checks signatures, as those of the command line cannot, and one of ours."""
    our = ours()
    await our.start()
    real = RealGrape(directory / "unused.log")  # the HTTP side of the program
    program = NodeProgram(
        "verifying_grape.js",
        directory / "verifying.log",
        {
            "dht_port": real.dht_port,
            "api_port": real.api_port,
            "bootstrap": [text(our.address)],
        },
    )
    try:
        async with program:
            assert await program.line() == {"ready": True}
            await know([our], 1)
            await real.joined()
            yield real, our
    finally:
        await our.stop()


@pytest.mark.parametrize("salt", [b"", b"room"])
async def test_a_signed_value_goes_both_ways_between_ours_and_a_real_grape_that_verifies(
    npm: Path, tmp_path: Path, salt: bytes
):
    async with verifying(tmp_path) as (real, our):
        salted = {"salt": salt.decode()} if salt else {}

        async def put_at_real(seq: int, value: str, **more: Any) -> tuple[int, str]:
            item = bep44.sign(KEY, seq, value.encode(), salt=salt)
            return await real.post(
                "put",
                {
                    "k": item.public_key.hex(),
                    "seq": seq,
                    "v": value,
                    "sig": item.signature.hex(),
                    **salted,
                    **more,
                },
            )

        key = await our.put_mutable(bep44.sign(KEY, 1, b"one", salt=salt))
        assert (await real.ask("get", {"hash": key, "cache": False, **salted}))["v"] == "one"

        status, body = await put_at_real(2, "two")
        assert (status, body) == (200, f'"{key}"')
        found = await our.get(key, salt=salt)
        assert found is not None
        assert (found.seq, found.value) == (2, b"two")

        # Refusals have the same texts both ways.
        assert await put_at_real(1, "old") == (302, '"302 sequence number less than current"')
        cas = await put_at_real(3, "three", cas=1)
        assert cas == (301, '"301 CAS mismatch, re-read and try again"')
        with pytest.raises(Exception, match="302 sequence number less than current"):
            await our.put_mutable(bep44.sign(KEY, 1, b"old", salt=salt))
        with pytest.raises(Exception, match="301 CAS mismatch"):
            await our.put_mutable(bep44.sign(KEY, 3, b"three", salt=salt, cas=1))
        await our.put_mutable(bep44.sign(KEY, 3, b"three", salt=salt, cas=2))
        assert (await real.ask("get", {"hash": key, "cache": False, **salted}))["v"] == "three"


async def test_a_real_grape_that_restarts_on_its_port_is_known_again_within_seconds(
    npm: Path, tmp_path: Path, service: str
):
    async with mixed(tmp_path) as grapes:
        real, our = grapes[2], grapes[3]
        assert isinstance(real, RealGrape)
        assert isinstance(our, Grape)
        assert our._node is not None
        place = ("127.0.0.1", real.dht_port)

        def known_id() -> bytes | None:
            assert our._node is not None
            contact = our._node._core.table.at(place)
            return contact.id if contact and not contact.doubtful else None

        before = known_id()
        assert before is not None
        real.kill()
        await real.start()

        async def renewed() -> bool:
            await our.lookup(service)  # somebody uses the network
            return known_id() not in (None, before)

        began = time.monotonic()
        await eventually(renewed, what="our Grape to know the new id")
        assert time.monotonic() - began < 5
        assert await announce(our, service, 9) >= 3

        async def seen() -> bool:
            return await lookup(real, service) == {"127.0.0.1:9"}

        await eventually(seen, what="the restarted Grape to see the announcement")


async def test_a_dead_real_grape_costs_our_lookups_no_seconds(
    npm: Path, tmp_path: Path, service: str
):
    async with mixed(tmp_path) as grapes:
        dead, our = grapes[2], grapes[3]
        assert isinstance(dead, RealGrape)
        assert isinstance(our, Grape)
        await announce(grapes[0], service, 7)
        dead.kill()
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert await lookup(our, service) == {"127.0.0.1:7"}
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1.0


async def test_our_grape_restarted_on_its_port_serves_the_real_ones_again(
    npm: Path, tmp_path: Path, service: str
):
    """Unlike a real Grape that keeps the old id, ours can be announced through again."""
    port = free_port()
    first = RealGrape(tmp_path / "real.log")
    first.bootstrap = [f"127.0.0.1:{port}"]
    our = ours(port=port)
    await our.start()
    try:
        await first.start()
        await first.joined()
        await our.stop()
        our = ours(("127.0.0.1", first.dht_port), port=port)
        await our.start()
        assert await our.announce(service, 11) == 2
        assert await lookup(first, service) == {"127.0.0.1:11"}
    finally:
        await our.stop()
        first.kill()
