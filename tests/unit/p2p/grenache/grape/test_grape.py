"""The Grape: a DHT node on a real socket, and the directory in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.grenache import bep44
from p2p.grenache.dht.krpc import GetPeers, encode_query
from p2p.grenache.directory import Address, Directory, MutableItem, StoredValue
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable
from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_settings import GrapeSettings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def settings(*bootstrap: Address, **more: Any) -> GrapeSettings:
    return GrapeSettings(**{"host": "127.0.0.1", "port": 0, "bootstrap": bootstrap, **more})


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


@contextlib.asynccontextmanager
async def grapes(count: int, **more: Any) -> AsyncIterator[list[Grape]]:
    """Grapes that know each other; the first is the bootstrap address of the rest."""
    async with contextlib.AsyncExitStack() as stack:
        started: list[Grape] = []
        for _ in range(count):
            bootstrap = [started[0].address] if started else []
            grape = Grape(settings(*bootstrap, **more))
            started.append(await stack.enter_async_context(grape))
        await until(lambda: all(grape.status().nodes >= count - 1 for grape in started))
        yield started


@pytest.fixture
def deaf() -> Any:
    """A bound socket that nobody reads, and so a Grape that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


async def test_a_lone_grape_is_of_use():
    async with Grape(settings()) as grape:
        directory: Directory = grape
        assert await directory.announce("svc", 80) == 1
        assert await directory.lookup("svc") == [("127.0.0.1", 80)]
        assert await directory.lookup("other") == []
        key = await directory.put(b"hello world")
        assert key == "6d33adc2b6b2c14c3036feefb7fedbca1a880527"
        assert await directory.get(key) == StoredValue(b"hello world")
        assert await directory.get("ab" * 20) is None


async def test_announcements_of_one_grape_are_seen_by_all():
    async with grapes(3) as (a, b, c):
        assert await b.announce("svc", 80) == 3
        assert await a.announce("svc", 81, host="10.1.2.3") == 3
        for grape in (a, b, c):
            assert set(await grape.lookup("svc")) == {("127.0.0.1", 80), ("10.1.2.3", 81)}
        assert await b.withdraw("svc", 80) == 3
        for grape in (a, b, c):
            assert await grape.lookup("svc", fresh=True) == [("10.1.2.3", 81)]
        assert await b.withdraw("svc", 80) == 2  # the others forget what they do not know


async def test_the_first_lookup_after_the_start_goes_to_the_bootstrap_grape():
    async with Grape(settings()) as first:
        await first.announce("svc", 80)
        for host in ("127.0.0.1", "localhost"):
            async with Grape(settings((host, first.address[1]))) as second:
                assert await second.lookup("svc") == [("127.0.0.1", 80)]


async def test_a_bootstrap_name_that_does_not_resolve_stops_nothing(caplog):
    async with Grape(settings()) as first:
        nowhere = ("name.invalid", 20001)
        async with Grape(settings(nowhere, first.address)) as second:
            assert await second.announce("svc", 80) == 2
            down, up = second.status().bootstrap
            assert not down.reachable
            assert up.reachable
    assert "name.invalid" in caplog.text


async def test_signed_values_and_their_refusals():
    async with grapes(3) as (a, b, c):
        item = bep44.sign(KEY, 1, b"one", salt=b"salt")
        key = await a.put_mutable(item)
        assert await c.get(key, salt=b"salt") == StoredValue(
            b"one", item.public_key, 1, item.signature, b"salt"
        )
        await b.put_mutable(bep44.sign(KEY, 2, b"two", salt=b"salt", cas=1))
        for grape in (a, b, c):
            found = await grape.get(key, salt=b"salt")
            assert found is not None
            assert (found.seq, found.value) == (2, b"two")
        with pytest.raises(GrapeRefused) as refused:
            await a.put_mutable(item)
        assert refused.value.code == "302 sequence number less than current"
        with pytest.raises(GrapeRefused) as refused:
            await a.put_mutable(bep44.sign(KEY, 3, b"three", salt=b"salt", cas=1))
        assert refused.value.code == "301 CAS mismatch, re-read and try again"
        with pytest.raises(BadInput, match="invalid signature"):
            await a.put_mutable(MutableItem(item.public_key, 9, b"forged", item.signature))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("lookup", ("",)),
        ("lookup", ("n" * 257,)),
        ("lookup", ("ü" * 129,)),
        ("lookup", ("\ud800",)),
        ("lookup", (None,)),
        ("announce", ("", 80)),
        ("announce", ("svc", -1)),
        ("announce", ("svc", 65536)),
        ("announce", ("svc", True)),
        ("announce", ("svc", "80")),
        ("withdraw", ("", 80)),
        ("put", (bytes(1000),)),
        ("get", ("zz",)),
        ("get", ("ab" * 19,)),
        ("get", ("",)),
        ("get", (" " + "ab" * 20,)),
    ],
)
async def test_input_that_no_grape_accepts_is_refused(method, arguments):
    async with Grape(settings()) as grape:
        with pytest.raises(BadInput):
            await getattr(grape, method)(*arguments)


@pytest.mark.parametrize("host", ["example.org", "0.0.0.0", "::1", "224.0.0.1", ""])
async def test_a_given_host_is_an_address_that_can_be_reached(host):
    async with Grape(settings()) as grape:
        with pytest.raises(BadInput):
            await grape.announce("svc", 80, host=host)


async def test_a_salt_that_is_too_long_is_refused():
    async with Grape(settings()) as grape:
        with pytest.raises(BadInput):
            await grape.get("ab" * 20, salt=bytes(65))


def count_searches(grape: Grape) -> int:
    return grape.status().counters["searches"]


@pytest.mark.parametrize(("max_age", "kept"), [(120.0, 1.0), (0.2, 0.02), (float("inf"), 1.0)])
def test_a_lookup_is_kept_for_a_tenth_of_an_announcements_life_at_most(max_age, kept):
    assert GrapeSettings(peer_max_age=max_age).lookup_cache_s == pytest.approx(kept)


async def test_port_0_is_the_udp_port_of_the_grape():
    async with grapes(2) as (a, b):
        await b.announce("svc", 0)
        assert await a.lookup("svc") == [b.address]
        assert await b.withdraw("svc", 0) == 2
        assert await a.lookup("svc", fresh=True) == []


async def test_announcements_of_a_service_reuse_the_nodes_of_the_last_search():
    async with grapes(3) as (a, b, c):
        await a.lookup("svc")  # everybody knows everybody
        assert await a.announce("svc", 80) == 3
        before = count_searches(a)
        assert await a.announce("svc", 81) == 3
        assert count_searches(a) == before
        await c.stop()
        assert await a.announce("svc", 82) == 2  # one does not take it, so others are searched for
        assert count_searches(a) == before + 1
        assert {port for _, port in await b.lookup("svc")} == {80, 81, 82}


async def test_own_announcements_are_in_the_next_answer_despite_the_cache():
    async with grapes(2, lookup_cache=60.0) as (a, b):
        await b.announce("svc", 80)
        await a.lookup("svc")
        await a.announce("svc", 81)
        await b.announce("svc", 82)  # which reaches the other's store
        assert {port for _, port in await a.lookup("svc")} == {80, 81, 82}


async def test_lookups_of_the_same_name_at_once_are_one_search():
    async with grapes(2) as (a, b):
        await b.announce("svc", 80)
        before = count_searches(a)
        results = await asyncio.gather(*(a.lookup("svc") for _ in range(50)))
        assert results == [[("127.0.0.1", 80)]] * 50
        assert count_searches(a) == before + 1


@pytest.mark.parametrize("impatient", [0, 1])
async def test_a_cancelled_caller_does_not_cancel_the_others(impatient):
    async with grapes(2) as (a, b):
        await b.announce("svc", 80)
        tasks = [asyncio.create_task(a.lookup("svc")) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[impatient].cancel()
        assert await tasks[1 - impatient] == [("127.0.0.1", 80)]
        with pytest.raises(asyncio.CancelledError):
            await tasks[impatient]


async def test_operations_without_tasks_have_the_same_results_and_errors(deaf):
    results: list[Any] = []

    def done(result: Any, error: Exception | None) -> None:
        results.append(result if error is None else type(error))

    async with grapes(2) as (a, b):
        assert a.start_announce("svc", 9, None, done)
        await until(lambda: results == [2])
        assert b.start_lookup("svc", None, done)
        assert b.start_lookup("svc", None, done)  # joins the search of the first one
        await until(lambda: results == [2, [("127.0.0.1", 9)], [("127.0.0.1", 9)]])
        assert b.start_lookup("svc", None, done)  # from the cache: at once
        assert len(results) == 4
        with pytest.raises(BadInput):
            a.start_lookup("", None, done)
        with pytest.raises(BadInput):
            a.start_announce("svc", 70_000, None, done)
    assert not a.start_lookup("svc", None, done)
    async with Grape(settings(deaf)) as grape:
        assert not grape.start_lookup("svc", None, done)  # has not joined yet: `lookup` waits
        searching = asyncio.create_task(grape.lookup("svc"))
        await until(lambda: bool(grape._searching))
        grape._begin(lambda now, done: None, done)  # never ends
        assert len(results) == 4
    assert results[4:] == [GrapeUnreachable]
    await asyncio.gather(searching, return_exceptions=True)


async def test_own_withdrawals_are_removed_from_the_cache():
    async with grapes(2, lookup_cache=60.0) as (a, _):
        await a.announce("svc", 80)
        assert await a.lookup("svc") == [("127.0.0.1", 80)]
        await a.withdraw("svc", 80)
        assert await a.lookup("svc") == []


async def test_too_many_searches_are_refused(deaf):
    async with Grape(settings(deaf, max_searches=3)) as grape:
        running = [asyncio.create_task(grape.lookup(f"svc-{n}")) for n in range(6)]
        done = await asyncio.gather(*running, return_exceptions=True)
        codes = {error.code for error in done if isinstance(error, GrapeRefused)}
        assert codes == {"ERR_GRAPE_BUSY"}
        assert [] in done


async def test_a_stopped_grape_fails_lookups_under_way_and_can_start_again(deaf):
    grape = Grape(settings(deaf))
    with pytest.raises(GrapeUnreachable):
        await grape.lookup("svc")
    await grape.start()
    with pytest.raises(RuntimeError):
        await grape.start()
    lookup = asyncio.create_task(grape.lookup("svc"))
    announcement = asyncio.create_task(grape.announce("svc", 80))
    await asyncio.sleep(0.05)
    await grape.stop()
    await grape.stop()
    for task in (lookup, announcement):
        with pytest.raises(GrapeUnreachable):
            await task
    with pytest.raises(GrapeUnreachable):
        await grape.announce("svc", 80)
    await grape.start()
    assert await grape.announce("svc", 80) == 1
    await grape.stop()
    gc.collect()  # an exception that nobody took would be reported here


async def test_a_port_that_is_taken_is_an_error_at_the_start():
    async with Grape(settings()) as first:
        second = Grape(settings(port=first.address[1]))
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.stop()


async def test_a_failing_socket_fails_the_requests_under_way(deaf, caplog):
    grape = Grape(settings(deaf))
    await grape.start()
    lookup = asyncio.create_task(grape.lookup("svc"))
    await asyncio.sleep(0.05)
    assert grape._transport is not None
    grape._transport.abort()
    with pytest.raises(GrapeUnreachable):
        await lookup
    with pytest.raises(GrapeUnreachable):
        await grape.lookup("svc")
    assert "failed" in caplog.text
    await grape.stop()


async def test_a_grape_that_restarts_on_its_port_is_part_of_the_dht_again_at_once():
    async with grapes(3) as (a, b, c):
        place, before = b.address, b.node_id
        await b.stop()
        renewed = Grape(settings(a.address, port=place[1]))
        await renewed.start()
        try:
            assert renewed.node_id != before
            assert await renewed.announce("svc", 80) == 3
            for grape in (a, c):
                assert await grape.lookup("svc") == [("127.0.0.1", 80)]
            assert await a.announce("other", 81) == 3
        finally:
            await renewed.stop()


async def test_garbage_on_the_socket_does_no_harm():
    rng = random.Random(1)
    async with Grape(settings()) as grape:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect(grape.address)
            for _ in range(300):
                data = bytearray(encode_query(b"tt", b"client", GetPeers(b"svc")))
                for _ in range(rng.randrange(5)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                sock.send(bytes(data) if rng.random() < 0.8 else rng.randbytes(rng.randrange(900)))
            sock.send(b"")
            await asyncio.sleep(0.05)
            assert await grape.announce("svc", 80) == 1


async def test_bound_to_every_interface_it_gives_loopback_to_this_machine():
    async with (
        Grape(settings(host="0.0.0.0")) as first,
        Grape(settings(("127.0.0.1", first.address[1]))) as second,
    ):
        assert first.address[0] == "0.0.0.0"
        await first.announce("svc", 80)
        assert await first.lookup("svc") == [("127.0.0.1", 80)]
        assert await first.lookup("svc", reached_at="192.168.1.5") == [("192.168.1.5", 80)]
        assert await second.lookup("svc") == [("127.0.0.1", 80)]


async def test_the_status_of_a_grape_is_printed():
    async with grapes(2) as (a, b):
        await a.announce("svc", 80)
        await a.put(b"value")
        status = b.status()
        assert status.address == b.address
        assert status.node_id == b.node_id.hex()
        assert (status.nodes, status.doubtful_nodes) == (1, 0)
        assert (status.announcements, status.own_announcements, status.values) == (1, 0, 1)
        assert a.status().own_announcements == 1
        assert status.seen_as == "127.0.0.1"
        (bootstrap,) = status.bootstrap
        assert (bootstrap.host, bootstrap.port) == a.address
        assert bootstrap.reachable
        assert bootstrap.last_answer is not None
        assert status.counters["asked_announce_peer"] == 1
        assert status.uptime > 0


@pytest.mark.looptime
async def test_unresolved_bootstrap_names_are_reported_once_per_change(monkeypatch, caplog):
    loop = asyncio.get_running_loop()
    tries: list[str] = []
    known = False
    system = loop.getaddrinfo

    async def getaddrinfo(host: str, *args: Any, **more: Any) -> Any:
        if host == "127.0.0.1":  # where the Grape binds
            return await system(host, *args, **more)
        tries.append(host)
        if host == "no name":
            raise UnicodeError("label too long")
        if not known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.9", 9))]

    def said() -> list[str]:
        return [r.levelname for r in caplog.records if "grape.example" in r.getMessage()]

    caplog.set_level("INFO", logger="p2p.grenache.grape.bootstrap_names")
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    async with Grape(settings(("grape.example", 9), ("no name", 9))):
        await asyncio.sleep(300.0)
        assert len(tries) > 10
        assert said() == ["WARNING"]
        known = True
        await asyncio.sleep(200.0)
        assert said() == ["WARNING", "INFO"]
        known = False
        await asyncio.sleep(300.0)
        assert said() == ["WARNING", "INFO", "WARNING"]


async def first_lookup_after_death() -> float:
    """Seconds of a lookup of an unknown name at a Grape whose only neighbour has just died."""
    first = Grape(GrapeSettings(host="127.0.0.1", port=0))
    async with first:
        settings = GrapeSettings(host="127.0.0.1", port=0, bootstrap=(first.address,))
        async with Grape(settings) as other:
            await other.announce("known", 1)
            for n in range(10):  # the round trip is known then
                await first.lookup(f"other {n}")
            assert other._transport is not None
            other._transport.abort()  # without a word to its neighbour
            began = asyncio.get_running_loop().time()
            assert await first.lookup("unknown") == []
            return asyncio.get_running_loop().time() - began


async def test_the_only_neighbours_death_costs_a_lookup_no_second():
    # 0.14 s on a quiet machine. Of several, since the machine may be busy; it was a second each time.
    assert min([await first_lookup_after_death() for _ in range(3)]) < 0.5
