"""Reads of a Link from its Grapes: lookups and values."""

import asyncio

import pytest
from grenache_grapes_kit import HELLO, ONE, OWNER, fake_grapes, make_link, now, signed

from p2p.grenache import bep44
from p2p.grenache.directory import MutableItem, StoredValue
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable
from p2p.grenache.link import grape_pool
from p2p.grenache.link import link_client as link_module
from p2p.grenache.link.grape_answers import VersionRefused
from p2p.grenache.link.grape_pool import HEDGE
from p2p.grenache.link.link_client import REQUEST_TIMEOUT

pytestmark = pytest.mark.looptime(start=1000.0)

TWO = ["192.0.2.1:1337", "192.0.2.2:1338"]


# Looking up


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("192.0.2.10", ["192.0.2.1"]),
        ("100.64.0.1", ["100.64.0.5", "192.0.2.1"]),
        ("192.168.1.1", ["10.0.0.5", "100.64.0.5", "192.0.2.1"]),
        ("127.0.0.1", ["10.0.0.5", "100.64.0.5", "127.0.0.1", "169.254.169.254", "192.0.2.1"]),
        ("localhost", ["10.0.0.5", "100.64.0.5", "127.0.0.1", "169.254.169.254", "192.0.2.1"]),
        ("no-such-name.invalid", ["192.0.2.1"]),  # counts as public
    ],
)
async def test_a_grape_names_no_address_that_is_nearer_than_its_own(host, kept, monkeypatch):
    async def unknown(*args, **more):
        raise OSError("no such name")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    named = ["127.0.0.1", "169.254.169.254", "10.0.0.5", "100.64.0.5", "192.0.2.1", "224.0.0.1"]
    (grape,) = fake_grapes(1, lookup=[f"{each}:4000" for each in named])
    grape.url = f"http://{host}:1"
    async with make_link(grape) as link:
        assert sorted(found for found, _ in await link.lookup("rpc")) == sorted(kept)


async def test_a_grape_that_is_gone_costs_nothing_and_is_probed_now_and_then():
    dead, good = fake_grapes(2, lookup=ONE)
    dead.up = False
    async with make_link(dead, good) as link:
        began = now()
        for number in range(1000):
            await link.lookup(f"rpc{number}")
        assert now() - began < 1000 * 0.0021
        await asyncio.sleep(100)
        assert dead.kinds() in ([], ["lookup"])
        assert 5 <= len(dead.times("probe")) <= 14
        dead.up = True
        await asyncio.sleep(20)
        await link.lookup("rpc", fresh=True)
        assert dead.kinds()[-1] == "lookup"  # the preferred one again


@pytest.mark.parametrize("hanging", [[0], [1], [0, 1], [0, 1, 2]])
async def test_an_unknown_name_is_answered_by_the_grape_that_lives(hanging: list[int]):
    grapes = fake_grapes(max(2, len(hanging) + 1), lookup=[])
    async with make_link(*grapes) as link:
        await asyncio.sleep(1)
        for n in hanging:
            grapes[n].hangs = True
        began = now()
        assert await link.lookup("rpc0") == []
        several = 2 if len(hanging) > 1 else 1  # the last one that hangs has its time as well
        assert HEDGE <= now() - began < several * HEDGE + 0.03
        began = now()
        assert await link.lookup("rpc1") == []
        assert now() - began < 0.015 * len(hanging)
        assert link.status()[hanging[0]].up is True  # not given up yet


async def test_a_single_slow_grape_is_waited_for():
    (slow,) = fake_grapes(1, lookup=ONE)
    async with make_link(slow) as link:
        await asyncio.sleep(1)
        slow.delay = 4.6
        assert await link.lookup("rpc") == [("192.0.2.1", 1337)]
        slow.delay = 1e6
        began = now()
        with pytest.raises(GrapeUnreachable, match="no answer in 6 s"):
            await link.lookup("rpc", fresh=True)
        assert now() - began == pytest.approx(REQUEST_TIMEOUT)
        await asyncio.sleep(grape_pool.PROBE_TIMEOUT + 0.1)
        assert link.status()[0].up is False  # it was probed after that


async def test_a_grape_that_answers_requests_is_up_whatever_becomes_of_a_probe():
    (slow,) = fake_grapes(1, lookup=ONE)
    slow.delay = 2.5  # longer than a probe waits
    changes = []
    async with make_link(slow, on_state=lambda *change: changes.append(change[1])) as link:
        await asyncio.sleep(2.3)
        assert link.status()[0].up is False
        await link.lookup("rpc")  # answered while the second probe is under way
        await asyncio.sleep(2)
        assert link.status()[0].up is True
    assert changes == [False, True]


async def test_an_empty_lookup_is_accepted_after_a_second_grape():
    first, second, third = fake_grapes(3, lookup=[])
    async with make_link(first, second, third) as link:
        assert await link.lookup("rpc") == []
        assert [len(g.kinds()) for g in (first, second, third)] == [1, 1, 0]
        second.answers["lookup"] = ONE
        assert await link.lookup("rpc") == [("192.0.2.1", 1337)]
        second.up = False
        third.answers["lookup"] = "ERR_GRAPE_LOOKUP"
        assert await link.lookup("rpc", fresh=True) == []  # one that says so, one that cannot tell


async def test_an_empty_answer_is_not_remembered():
    (grape,) = fake_grapes(1, lookup=ONE)
    grape.turns["lookup"] = [[]]
    async with make_link(grape) as link:
        assert await link.lookup("rpc") == []
        assert await link.lookup("rpc") == [("192.0.2.1", 1337)]


async def test_the_lookup_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(link_module, "MAX_CACHED", 3)
    (grape,) = fake_grapes(1, lookup=ONE)
    async with make_link(grape) as link:
        for name in "abcde":
            await link.lookup(name)
        grape.log.clear()
        for name in "edcba":
            await link.lookup(name)
        assert grape.data("lookup") == ["b", "a"]


async def test_equal_lookups_at_once_are_one_request():
    (grape,) = fake_grapes(1, lookup=ONE)
    async with make_link(grape, cache_for=0) as link:
        found = await asyncio.gather(*(link.lookup("rpc") for _ in range(50)))
        assert found == [[("192.0.2.1", 1337)]] * 50
        assert len(grape.kinds()) == 1


async def test_a_cancelled_caller_leaves_the_shared_answer_to_the_others():
    (grape,) = fake_grapes(1, lookup=ONE)
    async with make_link(grape) as link:
        first = asyncio.create_task(link.lookup("rpc"))
        second = asyncio.create_task(link.lookup("rpc"))
        await asyncio.sleep(0.001)
        first.cancel()
        assert await second == [("192.0.2.1", 1337)]
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(grape.kinds()) == 1


async def test_an_answer_under_way_is_not_used_after_it_was_to_be_forgotten():
    (grape,) = fake_grapes(1, lookup=TWO)
    async with make_link(grape) as link:
        grape.delay, grape.turns["lookup"] = 1.0, [TWO, ONE]  # the late answer is the second turn
        before = asyncio.create_task(link.lookup("rpc"))
        await asyncio.sleep(0.5)
        link.forget("rpc")
        grape.delay = 0.002
        assert len(await link.lookup("rpc")) == 2
        assert len(await before) == 1
        assert len(await link.lookup("rpc")) == 2  # the older answer did not replace the newer one


async def test_without_any_grape_the_error_has_the_reason_and_each_is_tried_once_a_second():
    first, second = fake_grapes(2, lookup=ONE)
    first.up = second.up = False
    async with make_link(first, second) as link:
        await asyncio.sleep(5.5)  # between probes
        first.log.clear()
        second.log.clear()
        for number in range(100):
            with pytest.raises(GrapeUnreachable, match=r"2.10:1: connection refused.*2.11:1: conn"):
                await link.lookup(f"rpc{number}")
            await asyncio.sleep(0.05)
        assert 2 <= len(first.times("lookup")) <= 6
        first.up = True
        await asyncio.sleep(1)
        assert await link.lookup("rpc") == [("192.0.2.1", 1337)]  # no probe needs to come first


async def test_servers_that_are_no_grapes_are_not_used():
    page, good = fake_grapes(2, lookup=ONE)
    page.answers = {"lookup": (200, b"<html>"), "probe": (200, b"<html>")}
    async with make_link(page, good) as link:
        assert await link.lookup("rpc")
        await asyncio.sleep(0.1)
        status = link.status()[0]
        assert status.up is False
        assert "<html>" in status.detail
    page.answers = {"lookup": [], "probe": []}  # answers anything with a list
    async with make_link(page, good) as link:
        await asyncio.sleep(0.1)
        assert link.status()[0].up is False


@pytest.mark.parametrize("answer", ["ERR_GRAPE_LOOKUP", None, 5, {}, (500, b"oh dear")])
async def test_a_lookup_that_is_refused_goes_to_the_next_grape(answer):
    bad, good = fake_grapes(2, lookup=ONE)
    bad.answers["lookup"] = answer
    async with make_link(bad, good) as link:
        assert await link.lookup("rpc") == [("192.0.2.1", 1337)]
        assert link.status()[0].up is True
    async with make_link(bad) as link:
        with pytest.raises(GrapeRefused, match=bad.url):
            await link.lookup("rpc")


# Values


async def test_a_put_fails_over_and_is_repaired_by_a_search_for_its_key():
    first, second = fake_grapes(2, put=HELLO, get=(200, b""))
    first.answers["put"] = "No nodes to query"
    second.turns["put"] = ["All queries failed"]
    async with make_link(first, second) as link:
        assert await link.put(b"hello world") == HELLO
    assert first.kinds() == second.kinds() == ["put", "get", "put"]
    assert second.data("get") == [{"hash": HELLO, "cache": False}]


async def test_a_grape_that_stores_something_else_is_found_out():
    (grape,) = fake_grapes(1, put="00" * 20)
    async with make_link(grape) as link:
        with pytest.raises(GrapeRefused, match="stored"):
            await link.put(b"hello world")


async def test_put_values_are_seen_by_the_next_get():
    (grape,) = fake_grapes(1, put=HELLO, get={"id": "00" * 20, "v": "hello world"})
    async with make_link(grape) as link:
        grape.delay, grape.turns["get"] = 1.0, [{"id": "00" * 20, "v": "hello world"}, None]
        before = asyncio.create_task(link.get(HELLO))
        await asyncio.sleep(0.5)
        grape.delay = 0.002
        await link.put(b"hello world")
        assert await link.get(HELLO) == StoredValue(b"hello world")
        assert await before is None


async def test_a_missing_value_is_requested_twice():
    first, second = fake_grapes(2, get=(200, b""))
    async with make_link(first, second) as link:
        assert await link.get(HELLO) is None
        second.answers["get"] = {"id": "00" * 20, "v": "hello world"}
        assert await link.get(HELLO) == StoredValue(b"hello world")
        first.answers["get"] = {"id": "00" * 20, "v": "forged"}
        assert await link.get(HELLO) == StoredValue(b"hello world")
        second.answers["get"] = "ERR_GRAPE_GENERIC"
        with pytest.raises(GrapeRefused, match="ERR_GRAPE_VALUE"):
            await link.get(HELLO)


@pytest.mark.parametrize("salt", [b"", b"prices"])
async def test_a_signed_value_goes_as_hex_and_comes_back_proven(salt):
    item, key, answer = signed(3, salt=salt, cas=2)
    (grape,) = fake_grapes(1, put=key, get=answer)
    async with make_link(grape) as link:
        assert await link.put_mutable(item) == key
        found = await link.get(key, salt=salt)
    assert (found.seq, found.value, found.salt, found.public_key) == (
        3,
        b"text",
        salt,
        item.public_key,
    )
    sent = {
        "k": item.public_key.hex(),
        "seq": 3,
        "v": "text",
        "sig": item.signature.hex(),
        "cas": 2,
    }
    assert grape.data("put") == [{**sent, **({"salt": "prices"} if salt else {})}]
    assert grape.data("get") == [{"hash": key, **({"salt": "prices"} if salt else {})}]


async def test_of_a_signed_value_the_newest_version_that_any_grape_knows_is_taken():
    _, key, old = signed(3, b"old")
    new = signed(7, b"new")[2]
    first, second, third = fake_grapes(3, get=old)
    third.answers["get"] = new
    async with make_link(first, second, third) as link:
        assert (await link.get(key)).seq == 7
        third.answers["get"] = {**new, "seq": 99}  # forged
        assert (await link.get(key)).seq == 3
        third.up = False
        second.hangs = True
        began = now()
        assert (await link.get(key)).seq == 3
        assert now() - began < HEDGE + 0.01


async def test_a_signed_value_is_never_searched_for_past_a_grapes_own_copy():
    """A Node.js Grape spoils its copy when it is asked to."""
    item, key, answer = signed(3)
    first, second = fake_grapes(2, put=key, get=answer)
    first.turns["put"] = second.turns["put"] = ["All queries failed"]
    async with make_link(first, second) as link:
        await link.put_mutable(item)
        await link.get(key)
        await link.put_mutable(item)
    asked = first.data("get") + second.data("get")
    assert len(asked) >= 4
    assert all("cache" not in data for data in asked)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (301, b'"301 CAS mismatch, re-read and try again"'),
        (302, b'"302 sequence number less than current"'),
    ],
)
async def test_a_version_that_is_refused_is_not_tried_elsewhere(status, body):
    item, _, _ = signed(3)
    newer = signed(4)[2]
    first, second = fake_grapes(2, put=(status, body), get=newer)
    async with make_link(first, second) as link:
        with pytest.raises(VersionRefused, match=str(status)):
            await link.put_mutable(item)
        assert first.data("put")
        assert not second.data("put")


async def test_a_put_whose_first_answer_was_lost_is_a_success():
    item, key, answer = signed(3)
    first, second = fake_grapes(
        2, put=(302, b'"302 sequence number less than current"'), get=answer
    )
    first.turns["put"] = [GrapeUnreachable("it closed the connection without an answer")]
    async with make_link(first, second) as link:
        assert await link.put_mutable(item) == key


async def test_inputs_that_a_grape_would_misread_or_die_of_are_not_sent():
    (grape,) = fake_grapes(1, announce=1, lookup=ONE, put=HELLO, get=(200, b""))
    item, key, _ = signed(1)
    big = bep44.sign(OWNER, 2**53, b"v")
    forged = MutableItem(item.public_key, 2, item.value, item.signature)
    binary = bep44.sign(OWNER, 1, b"\xff")
    async with make_link(grape) as link:
        calls = [
            *(link.announce(name, 1337) for name in ("", "x" * 257, "\ud800", 7)),
            *(link.announce("rpc", port) for port in (0, -1, 65536, 1.0, "1", True)),
            *(link.announce("rpc", 1, host=host) for host in ("::1", "name", "0.0.0.0", "")),
            *(link.lookup(name) for name in ("", None, b"rpc")),
            *(link.lookup(name, fresh=True) for name in ("", 7)),
            *(link.get(name) for name in ("", "zz", HELLO[:-1], HELLO + "0", None)),
            *(link.get(key, salt=salt) for salt in (b"[1]", b'"x"', b"\xff", b"s" * 65)),
            *(link.put(value) for value in (b"\xff", b"x" * 1000, "é".encode() * 999)),
            *(link.put_mutable(wrong) for wrong in (big, forged, binary)),
            link.put_mutable(bep44.sign(OWNER, 1, b"v", salt=b"[1]")),
            link.put_mutable(bep44.sign(OWNER, 1, b"v", cas=2**60)),
        ]
        for call in calls:
            with pytest.raises(BadInput):
                await call
        for name, port in (("", 1), ("rpc", 0)):
            with pytest.raises(BadInput):
                link.start_announcing(name, port)
        with pytest.raises(BadInput):
            link.start_announcing("rpc", 1, interval=0)
        await asyncio.sleep(1)
    assert grape.kinds() == []
