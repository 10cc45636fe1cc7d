"""A Link and its Grapes: where they are, announcing, and its life."""

import asyncio
import itertools
import logging

import pytest
from grenache_grapes_kit import HELLO, ONE, fake_grapes, make_link, now, signed

from p2p.grenache.announcer import INTERVAL, SPREAD
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable
from p2p.grenache.link import grape_pool
from p2p.grenache.link.link_client import Link

pytestmark = pytest.mark.looptime(start=1000.0)


def test_urls_are_checked_at_once():
    for wrong in (
        [],
        ["127.0.0.1:30001"],
        ["http://a:1/x"],
        [f"http://a:{n}" for n in range(1, 18)],
    ):
        with pytest.raises(BadInput):
            Link(wrong)
    assert Link("http://a:1/").urls == ("http://a:1",)
    assert Link(["http://a:1", "http://A:1/"]).urls == ("http://a:1",)


async def test_a_link_that_is_not_started_raises():
    link = Link(["http://a:1"])
    for call in (link.lookup("x"), link.announce("x", 1), link.put(b""), link.get(HELLO)):
        with pytest.raises(RuntimeError, match="start"):
            await call
    with pytest.raises(RuntimeError, match="start"):
        link.start_announcing("x", 1)
    link.forget("x")
    link.stop_announcing("x")
    await link.close()


# Announcing


async def test_an_announcement_that_cannot_be_repaired_is_refused_with_the_grapes_words():
    (grape,) = fake_grapes(1, announce="No nodes to query", lookup=[])
    async with make_link(grape) as link:
        with pytest.raises(GrapeRefused, match=grape.url) as raised:
            await link.announce("rpc", 1337)
    assert raised.value.code == "No nodes to query"
    assert "no other Grape" in raised.value.detail
    assert grape.kinds() == ["announce", "lookup", "announce"]


async def test_other_refusals_are_not_repaired():
    (grape,) = fake_grapes(1, announce="ERR_GRAPE_SERVICE_PORT", lookup=[])
    async with make_link(grape) as link:
        with pytest.raises(GrapeRefused, match="ERR_GRAPE_SERVICE_PORT"):
            await link.announce("rpc", 1337)
    assert grape.kinds() == ["announce"]


async def test_an_announcement_succeeds_when_one_grape_took_it():
    refuses, dead, good = fake_grapes(3, announce=2, lookup=[])
    refuses.answers["announce"] = "No nodes to query"
    dead.up = False
    async with make_link(refuses, dead, good) as link:
        began = now()
        assert await link.announce("rpc", 1337) == 2
        assert now() - began < 0.1


async def test_a_refusal_does_not_send_the_request_to_a_grape_that_is_down():
    dead, refuses = fake_grapes(2, announce="ERR_GRAPE_ANNOUNCE", lookup="ERR_GRAPE_LOOKUP")
    dead.up = False
    async with make_link(dead, refuses) as link:
        await asyncio.sleep(5.5)  # between probes
        dead.log.clear()
        for call in (link.announce("rpc", 1337), link.lookup("rpc")):
            with pytest.raises(GrapeRefused):
                await call
        assert dead.kinds() == []


@pytest.mark.parametrize("hanging", [0, 1])
@pytest.mark.parametrize("call", ["announce", "withdraw"])
async def test_a_grape_that_hangs_holds_a_call_up_for_a_moment_only(call: str, hanging: int):
    grapes = fake_grapes(2, announce=1, unannounce=1)
    grapes[hanging].hangs = True
    async with make_link(*grapes) as link:
        for at_most in (0.15, 0.015, 0.015):
            began = now()
            assert await getattr(link, call)("rpc", 1337) == 1
            assert now() - began <= at_most
        kind = "announce" if call == "announce" else "unannounce"
        assert len(grapes[hanging].times(kind)) == 1  # waited for, not joined by a second one
        await asyncio.sleep(grape_pool.PROBE_TIMEOUT + 0.1)
        assert [one.up for one in link.status()] == [n != hanging for n in range(2)]


async def test_an_announcement_goes_on_at_a_late_grape_before_its_withdrawal_and_that_before_the_next():
    late, good = fake_grapes(2, announce=1, unannounce=1)
    late.delay = 0.8
    log: list[str] = []
    late.answers["announce"] = lambda data: log.append("announced") or 1
    late.answers["unannounce"] = lambda data: log.append("withdrawn") or 1
    async with make_link(late, good) as link:
        began = now()
        await link.announce("rpc", 1337)
        await link.withdraw("rpc", 1337)
        await link.announce("other", 1)
        await link.announce("rpc", 1337)
        assert now() - began < 0.2
        assert log == []
        await asyncio.sleep(3)
    assert log == [
        "announced",
        "announced",
        "withdrawn",
        "announced",
    ]  # the second is the other service


async def test_announcements_that_are_repeated_wait_longer_for_each_grape():
    slow, good = fake_grapes(2, announce=1)
    slow.delay = 0.8
    async with make_link(slow, good) as link:
        link.start_announcing("rpc", 1337)
        await asyncio.sleep(INTERVAL / 2)
        assert len(slow.times("announce")) == len(good.times("announce")) == 1  # no failure


async def test_announcements_are_repeated_at_jittered_intervals():
    (grape,) = fake_grapes(1, announce=1)
    async with make_link(grape) as link:
        link.start_announcing("rpc", 1337)
        await asyncio.sleep(40 * INTERVAL)
        times = grape.times("announce")
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert times[0] == 1000.0
        assert len(waits) > 30
        assert min(waits) >= INTERVAL * (1 - SPREAD)
        assert max(waits) <= INTERVAL * (1 + SPREAD) + 0.1
        assert max(waits) - min(waits) > INTERVAL * SPREAD
        link.stop_announcing("rpc")
        await asyncio.sleep(10 * INTERVAL)
        assert len(grape.times("announce")) == len(times)


async def test_announcing_outlives_its_grapes_and_begins_at_once_when_one_returns(caplog):
    caplog.set_level(logging.INFO)
    grape, other = fake_grapes(2, announce=1)
    changes = []
    link = make_link(grape, other, on_state=lambda *change: changes.append(change))
    async with link:
        link.start_announcing("rpc", 1337, interval=60.0)
        await asyncio.sleep(10)
        grape.up = other.up = False
        await asyncio.sleep(200)
        assert [one.up for one in link.status()] == [False, False]
        grape.log.clear()
        grape.up = True
        await asyncio.sleep(20)  # within a probe's wait
        returned = grape.times("probe")[-1]
        assert grape.times("announce")[0] - returned < 0.01
        other.up = True
        await asyncio.sleep(20)
        assert other.times("announce")[-1] - other.times("probe")[-1] < 0.01
    assert [(url, up) for url, up, _ in changes].count((grape.url, False)) == 1
    assert changes[:2] == [(grape.url, True, "it answers"), (other.url, True, "it answers")]
    assert changes[-2:] == [
        (grape.url, True, "it answers again"),
        (other.url, True, "it answers again"),
    ]
    lines = [r.message for r in caplog.records if "announce" in r.message]
    assert len(lines) == 2  # one that it fails, one that it is well again
    assert "trying on" in lines[0]
    assert "is announced again" in lines[1]


async def test_an_announcement_that_some_grapes_refused_is_repeated_sooner():
    good, young = fake_grapes(2, announce=1, lookup=[])
    young.turns["announce"] = ["No nodes to query"] * 4  # knows nobody yet: twice with its repair
    async with make_link(good, young) as link:
        link.start_announcing("rpc", 1337)
        await asyncio.sleep(8)
        assert len(young.times("announce")) == 5
        assert young.turns["announce"] == []
        await asyncio.sleep(INTERVAL / 2)
        assert len(young.times("announce")) == 5


async def test_announcing_the_same_again_changes_the_interval_and_a_port_can_be_stopped_alone():
    (grape,) = fake_grapes(1, announce=1)
    async with make_link(grape) as link:
        link.start_announcing("rpc", 1, interval=1000.0)
        link.start_announcing("rpc", 1, interval=1.0)
        link.start_announcing("rpc", 2, interval=1.0)
        link.start_announcing("other", 1, interval=1.0)
        await asyncio.sleep(10.5)
        link.stop_announcing("rpc", 1)
        grape.log.clear()
        await asyncio.sleep(10)
        told = [tuple(data) for data in grape.data("announce")]
        assert set(told) == {("rpc", 2), ("other", 1)}
        assert len(told) >= 14
        link.stop_announcing("rpc")
        grape.log.clear()
        await asyncio.sleep(3)
        assert {tuple(data) for data in grape.data("announce")} == {("other", 1)}


async def test_an_announcement_may_name_an_address_and_be_taken_back():
    old, ours = fake_grapes(2, announce=1)
    ours.answers["unannounce"] = 3
    async with make_link(old, ours) as link:
        await link.announce("rpc", 1337, host="192.0.2.9")
        assert ours.data("announce") == [["rpc", 1337, "192.0.2.9"]]
        assert await link.withdraw("rpc", 1337, host="192.0.2.9") == 3
        del ours.answers["unannounce"]
        assert await link.withdraw("rpc", 1337) == 0  # none of them can


async def test_an_announcement_under_way_does_not_overtake_its_withdrawal():
    held = []
    (grape,) = fake_grapes(1)
    # It takes effect when it is answered, after a while; `log` has when it was sent.
    grape.answers = {
        "announce": lambda data: held.append(data) or 1,
        "unannounce": lambda data: held.clear() or 1,
    }
    async with make_link(grape) as link:
        link.start_announcing("rpc", 1337)
        await asyncio.sleep(grape.delay / 2)
        grape.delay = 0.0
        assert (grape.kinds(), held) == (["announce"], [])
        assert await link.withdraw("rpc", 1337) == 1
        await asyncio.sleep(10)
        assert held == []
        assert grape.kinds() == ["announce", "unannounce"]


# Life


async def test_closing_ends_everything():
    hangs, _ = grapes = fake_grapes(2, announce=1, lookup=ONE)
    hangs.hangs = grapes[1].hangs = True
    link = make_link(*grapes)
    await link.start()
    await link.start()
    link.start_announcing("rpc", 1337)
    item = signed(1)[0]
    waiting = [
        asyncio.create_task(call)
        for call in (
            *(link.lookup("rpc"), link.announce("rpc", 1), link.put(b"x"), link.get(HELLO)),
            *(link.put_mutable(item), link.withdraw("other", 1)),
        )
    ]
    await asyncio.sleep(1)
    post = link._given_post
    await link.close()
    for task in waiting:
        with pytest.raises(GrapeUnreachable, match="closed"):
            await task
    assert post.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await link.close()


async def test_a_caller_that_is_cancelled_is_cancelled():
    (grape,) = fake_grapes(1)
    grape.hangs = True
    async with make_link(grape) as link:
        task = asyncio.create_task(link.lookup("rpc"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_starting_without_any_grape_is_no_failure():
    (grape,) = fake_grapes(1)
    grape.up = False
    async with make_link(grape) as link:
        assert link.status()[0].up is None
        assert link.status()[0].detail == "not used yet"
        await asyncio.sleep(0.1)
        assert link.status()[0].up is False
        assert link.status()[0].detail == "connection refused"


async def test_a_callback_that_fails_does_no_harm(caplog):
    (grape,) = fake_grapes(1, lookup=ONE)

    def on_state(url, up, reason):
        raise ZeroDivisionError

    async with make_link(grape, on_state=on_state) as link:
        assert await link.lookup("rpc")
    assert "on_state" in caplog.text
