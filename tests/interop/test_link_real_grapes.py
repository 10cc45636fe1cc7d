"""`Link` with real Grapes: what works, what fails, and what it takes to keep them alive."""

from __future__ import annotations

import asyncio
import time
import uuid

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from real import GrapeSet, NodeProgram, RealGrape, eventually

from p2p.grenache import bep44
from p2p.grenache.directory import StoredValue
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable
from p2p.grenache.link.grape_answers import VersionRefused
from p2p.grenache.link.link_client import Link
from tests.ports import free_port

BETWEEN = 0.05  # seconds between looks at something that changes by itself
# First bytes in which every bit is set in some name and not in others: whichever of two node ids is the
# closer one to a name, it is not so for all names.
REGIONS = "!0AQaq~é中"


def names() -> list[str]:
    return [f"{first}{uuid.uuid4().hex[:8]}" for first in REGIONS]


def value() -> bytes:
    return f"a value {uuid.uuid4().hex} with ümlaut, \0 and \U0001f347".encode()


async def dead(*grapes: RealGrape) -> None:
    async def ended() -> bool:
        return not any(grape.running for grape in grapes)

    await eventually(ended, what="the Grape to die")


# What works


async def test_announced_through_one_and_found_through_the_other(grapes, service):
    first, second = grapes
    async with Link([first.url]) as here, Link([second.url]) as there:
        assert await there.lookup(service) == []
        assert await here.announce(service, 1337) == 1
        assert await here.announce(service, 1338) == 1
        assert set(await there.lookup(service)) == {("127.0.0.1", 1337), ("127.0.0.1", 1338)}
        assert set(await here.lookup(service)) == set(await there.lookup(service))


async def test_names_and_ports_at_their_limits(grapes):
    async with Link([grape.url for grape in grapes]) as link:
        for name in ("x" * 256, "é" * 128, 'quo"te \\ \n', "0", "[1]", "null"):
            for port in (1, 65535):
                assert await link.announce(name, port) >= 1
            assert set(await link.lookup(name)) == {("127.0.0.1", 1), ("127.0.0.1", 65535)}


async def test_the_real_link_and_ours_see_each_other(grapes, service, tmp_path):
    first, second = grapes
    async with (
        NodeProgram("link.js", tmp_path / "link.log", {"grape": first.url}) as node,
        Link([second.url]) as link,
    ):
        assert await node.line() == {"ready": True}
        await link.announce(service, 1337)
        found = await node.ask({"id": 1, "method": "lookup", "args": [service]})
        assert found["data"] == ["127.0.0.1:1337"]
        await node.ask({"id": 2, "method": "announce", "args": [service, 1338]})
        found = await link.lookup(service, fresh=True)
        assert set(found) == {("127.0.0.1", 1337), ("127.0.0.1", 1338)}
        text = value()
        key = await link.put(text)
        found = await node.ask({"id": 3, "method": "get", "args": [key]})
        assert found["data"]["v"].encode() == text


async def test_a_value_is_stored_and_found(grapes):
    first, second = grapes
    async with Link([first.url]) as here, Link([second.url]) as there:
        for text in (
            value(),
            b"",
            b"x" * 999,
            "é".encode() * 499,
            b"\0",
            b'["json"]',
            b"\xef\xbb\xbfx",
        ):
            key = await here.put(text)
            assert key == bep44.immutable_key(text).hex()
            assert await there.get(key) == StoredValue(text)
            assert await here.get(key) == StoredValue(text)
        assert await there.get("00" * 20) is None


async def test_a_value_that_is_no_text_is_refused_instead_of_misread(grapes):
    first, second = grapes
    async with Link([second.url]) as link:
        for other in (5, [1, 2], {"a": 1}):
            key = await first.ask("put", {"v": other})
            with pytest.raises(GrapeRefused, match="not the text"):
                await link.get(key)


async def test_announcing_keeps_a_service_visible(npm, tmp_path, service):
    """Entries that live for a second or two, announced four times as often."""
    first = RealGrape(tmp_path / "a.log", peer_age=1.5)
    second = RealGrape(tmp_path / "b.log", peer_age=1.5, bootstrap=[first.dht_address])
    first.bootstrap = [second.dht_address]
    async with (
        GrapeSet([first, second]),
        Link([first.url, second.url], cache_for=0) as link,
    ):
        link.start_announcing(service, 1337, interval=0.25)
        await eventually(lambda: link.lookup(service), what="it to be visible")
        until = time.monotonic() + 4.0  # twice what an entry lives at most
        while time.monotonic() < until:
            assert await link.lookup(service) == [("127.0.0.1", 1337)]
            await asyncio.sleep(BETWEEN)
        link.stop_announcing(service)

        async def gone() -> bool:
            return not await link.lookup(service)

        await eventually(gone, what="it to fade")


# Grapes that fail


async def test_a_lone_grape_stores_nothing_and_reports_it(npm, tmp_path, service):
    async with GrapeSet([RealGrape(tmp_path / "lone.log")]) as (lone,), Link([lone.url]) as link:
        assert await link.lookup(service) == []
        for call in (link.announce(service, 1337), link.put(b"x")):
            with pytest.raises(GrapeRefused, match="No nodes to query") as raised:
                await call
            assert lone.url in str(raised.value)


async def test_a_missing_grape_is_reported_quickly(npm, service):
    async with Link([f"http://127.0.0.1:{free_port()}"]) as link:
        began = time.monotonic()
        for call in (link.lookup(service), link.announce(service, 1), link.put(b"x")):
            with pytest.raises(GrapeUnreachable, match="refused"):
                await call
        assert time.monotonic() - began < 2.0


async def test_calls_go_on_when_a_grape_is_killed(npm, tmp_path):
    """Three Grapes, of which the one that the Link prefers dies without a word."""
    first = RealGrape(tmp_path / "a.log")
    second = RealGrape(tmp_path / "b.log", bootstrap=[first.dht_address])
    third = RealGrape(tmp_path / "c.log", bootstrap=[first.dht_address])
    first.bootstrap = [second.dht_address]
    async with GrapeSet([first, second, third]):
        urls = [third.url, first.url, second.url]
        changes: list[tuple[str, bool]] = []
        async with Link(urls, on_state=lambda url, up, _: changes.append((url, up))) as link:
            before = names()[:3]
            for name in before:
                await link.announce(name, 1337)
            third.kill()
            slowest = 0.0
            for name in [*before, *names()]:
                began = time.monotonic()
                await link.announce(name, 1338)
                assert ("127.0.0.1", 1338) in await link.lookup(name, fresh=True)
                slowest = max(slowest, time.monotonic() - began)
            # The others wait for the dead one's answer first, 2 to 2.5 s for each name that it held, and
            # forget it then.
            assert slowest < 6.0
            began = time.monotonic()
            for name in names():
                await link.announce(name, 1339)
                assert await link.lookup(name) == [("127.0.0.1", 1339)]
            assert time.monotonic() - began < 2.0
            assert [one.up for one in link.status()] == [False, True, True]
        assert changes.count((third.url, False)) == 1


async def test_an_announcement_is_repaired_after_the_other_grape_was_restarted(own_grapes):
    first, second = own_grapes
    known = names()
    for name in known:
        assert await first.ask("announce", [name, 1337]) == 1
    await second.stop()
    await second.start()
    await second.joined()
    # The first one announces to a node that no longer exists, with a token that nobody gave.
    for name in known:
        assert await first.ask("announce", [name, 1337]) in (
            "All queries failed",
            "No nodes to query",
        )
    repaired = 0
    async with Link([first.url]) as link:
        for name in known:
            try:
                repaired += await link.announce(name, 1337)
            except GrapeRefused:
                # It asks one of the two ids that it knows at that address: here the one that is gone.
                continue
    assert repaired >= 1
    async with Link([first.url, second.url]) as link:
        for name in known:
            assert await link.announce(name, 1337) >= 1
            assert await link.lookup(name) == [("127.0.0.1", 1337)]


async def test_grapes_that_come_back_are_announced_to_again(own_grapes, service):
    first, second = own_grapes
    changes: list[tuple[str, bool]] = []
    async with Link(
        [first.url, second.url], on_state=lambda url, up, _: changes.append((url, up))
    ) as link:
        link.start_announcing(service, 1337, interval=600.0)
        await eventually(lambda: second.ask("lookup", service), what="the first announcement")
        first.kill()
        second.kill()
        with pytest.raises(GrapeUnreachable):
            await link.lookup(service, fresh=True)
        assert [one.up for one in link.status()] == [False, False]
        await asyncio.gather(first.start(), second.start())  # as new: they remember nothing
        await eventually(lambda: first.ask("lookup", service), 20.0, what="the next announcement")
        assert await link.lookup(service) == [("127.0.0.1", 1337)]

        async def both() -> bool:
            return [one.up for one in link.status()] == [True, True]

        await eventually(both, what="the Link to notice both")
    for grape in (first, second):
        assert [up for url, up in changes if url == grape.url] == [True, False, True]


async def test_a_grape_that_hangs_is_passed_by(own_grapes, service):
    first, second = own_grapes
    async with Link([first.url, second.url]) as link:
        await link.announce(service, 1337)
        first.pause()
        began = time.monotonic()
        # The second one holds what was announced through the first, but asks that one, too: 2.5 s.
        assert await link.lookup(service, fresh=True) == [("127.0.0.1", 1337)]
        assert time.monotonic() - began < 5.5

        async def noticed() -> bool:
            return link.status()[0].up is False

        await eventually(noticed, what="the hanging Grape to be noticed")
        first.resume()

        async def back() -> bool:
            return link.status()[0].up is True

        await eventually(back, 30.0, what="the Grape to be noticed again")


# Grapes that would die


async def test_input_that_kills_a_real_grape_is_never_sent_to_it(npm, tmp_path, service):
    async with GrapeSet([RealGrape(tmp_path / "lone.log")]) as (lone,):
        async with Link([lone.url]) as link:
            for _ in range(3):
                for call in (
                    *(link.get("zz"), link.get(""), link.lookup(""), link.announce("", 1)),
                    *(link.get("6d33"), link.announce(service, 0), link.announce(service, 1.5)),  # type: ignore[arg-type]
                ):
                    with pytest.raises(BadInput):
                        await call
                assert await link.lookup(service, fresh=True) == []
        assert lone.running


@pytest.mark.parametrize(
    "deadly",
    [
        [("get", "zz"), ("lookup", "x"), ("get", "zz")],
        [("announce", ["", 1]), ("lookup", "x"), ("get", "zz")],
    ],
)
async def test_sent_as_they_are_they_kill_it(npm, tmp_path, deadly):
    """Counterpart of the test above: it shows that the original does not survive these."""
    async with GrapeSet([RealGrape(tmp_path / "lone.log")]) as (lone,):
        for kind, data in deadly:
            try:
                await lone.post(kind, data, timeout=5.0)
            except (aiohttp.ClientError, TimeoutError):
                break
        await dead(lone)
        assert "TypeError" in lone.output


# Signed values


async def test_grapes_of_the_command_line_refuse_signed_values(grapes):
    item = bep44.sign(Ed25519PrivateKey.generate(), 1, b"v")
    async with Link([grape.url for grape in grapes]) as link:
        with pytest.raises(GrapeRefused, match="All queries failed"):
            await link.put_mutable(item)
        assert await link.get(bep44.mutable_key(item.public_key).hex()) is None


@pytest.fixture
async def verifying(npm, tmp_path):
    """Two real Grapes that store signed values: their URLs."""
    ports = [(free_port(), free_port()) for _ in range(2)]
    programs, urls = [], []
    try:
        for number, (dht, api) in enumerate(ports):
            settings = {
                **{"dht_port": dht, "api_port": api},
                "bootstrap": [f"127.0.0.1:{ports[1 - number][0]}"],
            }
            program = NodeProgram("verifying_grape.js", tmp_path / f"grape{number}.log", settings)
            programs.append(program)
            await program.start()
            assert await program.line() == {"ready": True}
            urls.append(f"http://127.0.0.1:{api}")
        for url in urls:
            async with Link([url]) as link:
                await eventually(lambda link=link: announces(link), what="the Grapes to join")
        yield urls
    finally:
        for program in programs:
            await program.stop()


async def announces(link: Link) -> bool:
    try:
        return bool(await link.announce("probe", 9))
    except GrapeRefused:
        return False


@pytest.mark.parametrize("salt", [b"", b"prices", b"42", b"null"])
async def test_signed_values_are_replaced_by_newer_versions_only(verifying, salt):
    first, second = verifying
    owner = Ed25519PrivateKey.generate()
    text = value()
    async with Link([first]) as here, Link([second]) as there:
        item = bep44.sign(owner, 3, text, salt=salt)
        key = await here.put_mutable(item)
        assert key == bep44.mutable_key(item.public_key, salt).hex()
        for link in (here, there):
            found = await link.get(key, salt=salt)
            assert found is not None
            assert (found.value, found.seq, found.public_key) == (text, 3, item.public_key)
            assert bep44.verify(bep44.sign(owner, 3, found.value, salt=salt))
        await here.put_mutable(item)  # the same version again is no error
        with pytest.raises(VersionRefused, match="302"):
            await here.put_mutable(bep44.sign(owner, 2, b"old", salt=salt))
        with pytest.raises(VersionRefused, match="301"):
            await here.put_mutable(bep44.sign(owner, 9, b"new", salt=salt, cas=1))
        await here.put_mutable(bep44.sign(owner, 9, b"new", salt=salt, cas=3))
        found = await there.get(key, salt=salt)
        assert found is not None
        assert (found.value, found.seq) == (b"new", 9)
        if salt:
            with pytest.raises(GrapeRefused, match="salt"):
                await there.get(key)  # that Grape holds it, and tells without being told the salt


async def test_the_newest_version_is_found_where_a_grape_alone_answers_with_an_older_one(verifying):
    """A Grape stores signed values on others only: each of two holds what came through the other."""
    first, second = verifying
    owner = Ed25519PrivateKey.generate()
    async with Link([first]) as here, Link([second]) as there, Link([second, first]) as both:
        key = await here.put_mutable(bep44.sign(owner, 3, b"old"))
        await there.put_mutable(bep44.sign(owner, 7, b"new"))
        for _ in range(3):  # reading it does it no harm
            versions = [await link.get(key) for link in (here, there, both)]
            assert [found and found.seq for found in versions] == [7, 3, 7]


async def test_real_grapes_spoil_signed_values_that_they_search_for(verifying):
    """The real Grape writes the answer's hex digits into what it stores: others cannot read it any more."""
    first, second = verifying
    async with Link([first]) as here, Link([second]) as holder:
        item = bep44.sign(Ed25519PrivateKey.generate(), 3, b"v")
        key = await here.put_mutable(item)
        assert await here.get(key) is not None
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{second}/get", json={"data": {"hash": key, "cache": False}}) as reply,
        ):
            assert (await reply.json(content_type=None))["v"] == "v"
        assert await holder.get(key) is not None
        assert await here.get(key) is None
