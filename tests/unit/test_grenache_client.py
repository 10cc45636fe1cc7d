"""The Grenache client over workers in memory: who is asked, what is repeated, what the caller sees."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from grenache_client_kit import MemoryDirectory, MemoryTransport, unused_address

from p2p.adaptive import State
from p2p.grenache.errors import (
    BadInput,
    GrapeUnreachable,
    LookupEmpty,
    RemoteError,
    RequestFailed,
    RequestTimeout,
)
from p2p.grenache.ports import Address
from p2p.grenache.rpc import client as client_module
from p2p.grenache.rpc.calling import RETRY_RESERVE
from p2p.grenache.rpc.client import Client
from p2p.grenache.rpc.transports import CLOSED, BadReply
from p2p.grenache.rpc.wire import Reply, busy
from p2p.grenache.rpc.worker import Request, Worker
from p2p.identity import Identity
from p2p.tls import client_context, server_context

pytestmark = pytest.mark.looptime

Work = Callable[[Any], Awaitable[Any]]


def address(n: int) -> Address:
    return f"10.0.0.{n}", 1000 + n


def echo(delay: float = 0.01) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(delay)
        return payload

    return work


def failing(error: RequestFailed, delay: float = 0.01) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(delay)
        raise error

    return work


LOST = RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)
BUSY = Reply("", busy(0.2), None)


class World:
    """A client, and workers of the service "svc" at `address(1)` to `address(n)`."""

    def __init__(self, workers: int = 0, **options: Any) -> None:
        self.directory = MemoryDirectory()
        self.transport = MemoryTransport()
        self.options = options
        self.client = self.another()
        for n in range(1, workers + 1):
            self.add(n, echo())

    def another(self, **options: Any) -> Client:
        options = {"rng": random.Random(1), **self.options, **options}
        return Client(self.directory, transport=self.transport, **options)

    def add(self, n: int, work: Work | None) -> None:
        """Announced; refuses connections when `work` is None."""
        announced = self.directory.services.setdefault("svc", [])
        if address(n) not in announced:
            announced.append(address(n))
        if work is None:
            self.transport.workers.pop(address(n), None)
        else:
            self.transport.workers[address(n)] = work

    async def ask(self, payload: Any = "hi", **more: Any) -> Any:
        return await self.client.request("svc", payload, **more)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.client.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_result_of_a_worker_comes_back(world):
    world.add(1, echo())
    assert await world.ask({"n": [1, None], "é": "✓"}) == {"n": [1, None], "é": "✓"}
    figures = world.client.status().services["svc"].figures
    assert (figures.ok, figures.attempts, figures.failed) == (1, 1, 0)


async def test_twelve_requests_are_enough_to_ask_twelve_workers(world):
    for n in range(1, 13):
        world.add(n, echo(0.001 * n))
    for _ in range(12):
        await world.ask()
    assert world.transport.asked == {address(n): 1 for n in range(1, 13)}


async def test_all_workers_are_used_and_the_load_is_spread(world):
    for n in range(1, 13):
        world.add(n, echo())
    for _ in range(30):
        await asyncio.gather(*(world.ask(n) for n in range(12)))
    assert len(world.transport.asked) == 12
    assert min(world.transport.asked.values()) >= 15  # of 30 on average


async def test_a_slow_worker_gets_less(world):
    for n in range(1, 4):
        world.add(n, echo(0.01))
    world.add(4, echo(0.2))
    for _ in range(100):
        await world.ask()
    assert world.transport.asked[address(4)] < 10


# Errors of the worker


async def test_a_workers_error_is_its_answer(world):
    async def refuse(payload: Any) -> Any:
        return Reply("", "ERR_MY_APP", {"partial": 1})

    world.add(1, refuse)
    world.add(2, refuse)
    for _ in range(20):
        with pytest.raises(RemoteError) as failed:
            await world.ask(idempotent=True)
        assert (failed.value.code, failed.value.result) == ("ERR_MY_APP", {"partial": 1})
    assert sum(world.transport.asked.values()) == 20  # never repeated
    status = world.client.status().services["svc"]
    assert status.shunned == ()
    assert status.figures.remote_errors == 20


def saying(error: str) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(0.01)
        return Reply("", error, None)

    return work


@pytest.mark.parametrize(
    "error",
    [
        busy(0.2),
        "ERR_UNKNOWN_SERVICE: svc is not served here",
        "ERR_WORKER_STOPPED: this worker is stopping, nothing was done",
    ],
)
async def test_a_worker_that_turns_a_request_away_did_nothing_so_another_is_asked(world, error):
    world.add(1, saying(error))
    world.add(2, echo())
    for _ in range(20):
        assert await world.ask() == "hi"
    assert world.transport.asked[address(1)] < 10


@pytest.mark.parametrize("error", ["ERR_WORKER_STOPPED: perhaps executed"])
async def test_what_a_stopping_worker_may_have_done_is_repeated_only_if_idempotent(world, error):
    world.add(1, saying(error))
    with pytest.raises(RemoteError, match="perhaps executed"):
        await world.ask()
    assert world.transport.asked[address(1)] == 1
    world.add(2, echo())
    await asyncio.sleep(2.0)
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_when_all_are_busy_they_are_given_the_time_they_ask_for_and_then_the_caller_is_told(
    world,
):
    for n in range(1, 4):
        world.add(n, saying(busy(0.2)))
    began = now()
    with pytest.raises(RemoteError, match="ERR_BUSY: try again in"):
        await world.ask()
    assert sum(world.transport.asked.values()) == 4  # the first attempt and three retries
    assert now() - began > 0.2


# Workers that die


async def test_dead_workers_cost_nothing_while_one_lives(world):
    for n in range(1, 12):
        world.add(n, None)
    world.add(12, echo())
    began = now()
    for _ in range(50):
        assert await world.ask() == "hi"
    assert now() - began < 50 * 0.01 + 0.1  # the time of the good one
    assert sum(world.transport.asked.values()) < 50 + 11 * 6  # the dead are left alone soon


async def test_a_worker_that_dies_under_many_requests_fails_none_that_was_not_sent(world):
    """More at once than the retry budget has: what was not sent is not for it to count."""
    for n in range(1, 4):
        world.add(n, echo())
    await asyncio.gather(*(world.ask() for _ in range(30)))
    world.add(1, None)
    results = await asyncio.gather(*(world.ask(n) for n in range(500)))
    assert results == list(range(500))


async def test_a_single_worker_that_restarts_is_waited_for(world):
    world.add(1, None)
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0.005)
    world.add(1, echo())
    assert await asking == "hi"


async def test_when_every_worker_is_dead_it_is_known_that_nothing_was_done(world):
    for n in range(1, 4):
        world.add(n, None)
    began = now()
    with pytest.raises(RequestFailed) as failed:
        await world.ask()
    assert not failed.value.sent
    assert now() - began < 1.0
    assert world.transport.asked == {address(n): 4 for n in range(1, 4)}
    assert world.client.status().services["svc"].figures.failed == 1


@pytest.mark.parametrize("error", [LOST, BadReply("ERR_REPLY_EMPTY")])
async def test_what_may_have_been_done_is_repeated_only_if_idempotent(world, error):
    world.add(1, failing(error))
    with pytest.raises(RequestFailed) as failed:
        await world.ask()
    assert failed.value.sent
    assert sum(world.transport.asked.values()) == 1
    world.add(2, echo())
    await asyncio.sleep(0.1)  # the new one is found because all others failed
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_all_attempts_have_the_same_rid_and_different_requests_different_ones(world):
    world.add(1, failing(LOST))
    world.add(2, failing(LOST))
    with pytest.raises(RequestFailed):
        await world.ask(idempotent=True)
    assert len(world.transport.rids) == 4
    assert len(set(world.transport.rids)) == 1
    with pytest.raises(RequestFailed):
        await world.ask()
    assert len(set(world.transport.rids)) == 2


async def test_a_failure_tells_of_all_attempts_whether_it_may_have_been_done(world):
    async def once(payload: Any) -> Any:
        world.add(1, None)
        raise RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)

    world.add(1, once)
    with pytest.raises(RequestFailed, match="refused") as failed:
        await world.ask(idempotent=True)
    assert failed.value.sent


async def test_a_failure_is_told_as_it_is_when_nobody_is_left_to_try(world):
    world.add(1, failing(LOST, delay=11.0))
    asking = asyncio.ensure_future(world.ask(idempotent=True, timeout=60.0))
    await asyncio.sleep(1.0)
    world.directory.services["svc"] = []
    with pytest.raises(RequestFailed, match="socket hang up"):
        await asking


async def test_a_worker_that_failed_comes_back(world):
    world.add(1, echo())
    world.add(2, failing(LOST))
    for _ in range(20):
        await world.ask(idempotent=True)
    assert world.transport.asked[address(2)] < 8
    world.add(2, echo())
    for _ in range(3000):
        await world.ask(idempotent=True)
    world.transport.asked.clear()
    for _ in range(100):
        await world.ask(idempotent=True)
    assert world.transport.asked[address(2)] > 30


async def test_retries_are_bounded_by_a_budget(world):
    world.add(1, failing(LOST))
    world.add(2, failing(LOST))

    async def ask() -> None:
        with pytest.raises(RequestFailed):
            await world.ask(idempotent=True)

    await asyncio.gather(*(ask() for _ in range(400)))
    # 400 first attempts, the reserve, a fifth of a retry for each request
    assert sum(world.transport.asked.values()) <= 400 + RETRY_RESERVE + 80 + 2


# Workers that hang


async def test_a_hanging_worker_costs_an_idempotent_caller_little(world):
    world.add(1, echo(1000.0))
    world.add(2, echo())
    took = []
    for _ in range(50):
        began = now()
        assert await world.ask(idempotent=True, timeout=5.0) == "hi"
        took.append(now() - began)
    assert max(took) < 0.3  # the first time, before it is known what is usual
    assert sum(took) < 50 * 0.01 + 0.5
    assert world.transport.asked[address(1)] < 10


async def test_a_hanging_worker_is_found_out_by_what_is_not_waited_for_any_more(world):
    """The slower of the two is not cancelled: it shows in the end that the worker is silent."""
    world.add(1, echo(1000.0))
    world.add(2, echo())
    for _ in range(5):
        await world.ask(idempotent=True, timeout=1.0)
    await asyncio.sleep(2.0)
    assert world.transport.under_way[address(1)] == 0
    rows = {row.peer: row for row in world.client.explain("svc")}
    assert rows[address(1)].parts["timeout_rate"] > 0.0
    assert rows[address(2)].parts["timeout_rate"] == 0.0
    assert rows[address(2)].cost < rows[address(1)].cost


async def test_a_hanging_worker_is_avoided_by_those_who_cannot_repeat(world):
    world.add(1, echo(1000.0))
    for n in range(2, 5):
        world.add(n, echo())
    late = [
        error
        for _ in range(200)
        for error in await asyncio.gather(world.ask(timeout=0.5), return_exceptions=True)
        if isinstance(error, RequestTimeout)
    ]
    assert all(error.sent for error in late)
    assert len(late) <= 4


async def test_a_timeout_is_the_callers_not_the_attempts(world):
    world.add(1, echo(1000.0))
    world.add(2, echo(1000.0))
    for idempotent in (True, False):
        began = now()
        with pytest.raises(RequestTimeout) as failed:
            await world.ask(timeout=2.0, idempotent=idempotent)
        assert failed.value.sent
        assert now() - began == pytest.approx(2.0, abs=0.05)


async def test_answers_that_take_most_of_the_timeout_are_waited_for(world):
    """Nothing is known of how long they take, and trying another one does not end the first."""
    world.add(1, echo(3.5))
    world.add(2, echo(3.5))
    for _ in range(5):
        assert await world.ask(idempotent=True, timeout=5.0) == "hi"


async def test_without_budget_for_hedges_a_second_worker_is_asked_at_half_time(world):
    world.add(1, echo())
    world.add(2, echo())
    for _ in range(30):
        await world.ask(idempotent=True)
    hedge = world.client._services["svc"].hedge
    while hedge.take(now()):
        pass
    world.add(1, echo(1000.0))
    took = []
    for _ in range(3):
        began = now()
        await world.ask(idempotent=True, timeout=4.0)
        took.append(now() - began)
    assert max(took) == pytest.approx(2.01, abs=0.01)


async def test_no_more_than_two_are_asked_at_once(world):
    for n in range(1, 6):
        world.add(n, echo(1000.0))
    with pytest.raises(RequestTimeout):
        await world.ask(idempotent=True, timeout=4.0)
    assert sum(world.transport.asked.values()) == 2


async def test_hedges_are_few_when_everything_is_slow(world):
    for n in range(1, 5):
        world.add(n, echo())
    for _ in range(50):
        await world.ask(idempotent=True)
    for n in range(1, 5):
        world.add(n, echo(0.5))
    await asyncio.gather(*(world.ask(idempotent=True) for _ in range(100)))
    assert world.client.status().services["svc"].figures.hedges <= 5 + 8


# Lookups


async def test_requests_share_lookups_and_do_not_wait_for_the_next_ones(world):
    world.add(1, echo())
    world.directory.delay = 0.2
    await asyncio.gather(*(world.ask() for _ in range(20)))
    assert len(world.directory.lookups) == 1
    for _ in range(400):
        began = now()
        await world.ask()
        assert now() - began < 0.02
    assert 2 <= len(world.directory.lookups) <= 5  # 4 s at 1.5 s each
    assert world.directory.lookups[0] == ("svc", False)
    assert set(world.directory.lookups[1:]) == {("svc", True)}  # past the directory's own cache


async def test_a_new_worker_is_used_within_two_seconds_even_if_the_known_one_is_quick(world):
    world.add(1, echo(0.2))
    await world.ask()
    world.add(1, echo(0.001))  # so that one of which nothing is known, taken for average, is dear
    for _ in range(10):
        await world.ask()
    world.add(2, echo())
    began = now()
    while not world.transport.asked[address(2)]:
        await world.ask()
        assert now() - began < 2.0


async def test_nobody_is_waited_for_a_little_and_then_it_is_said(world):
    began = now()
    with pytest.raises(LookupEmpty, match="svc"):
        await world.ask()
    assert 0.5 < now() - began <= 1.05
    began = now()
    with pytest.raises(LookupEmpty):
        await world.ask(timeout=0.1)
    assert now() - began <= 0.1


async def test_an_announcement_that_is_just_under_way_is_found(world):
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0.3)
    world.add(1, echo())
    began = now()
    assert await asking == "hi"
    assert now() - began < 0.3


async def test_an_empty_answer_is_not_remembered(world):
    with pytest.raises(LookupEmpty):
        await world.ask()
    world.add(1, echo())
    began = now()
    assert await world.ask() == "hi"
    assert now() - began < 0.05


async def test_a_directory_that_is_gone_is_not_noticed_by_those_who_know_workers(world):
    world.add(1, echo())
    await world.ask()
    world.directory.error = GrapeUnreachable("all of them")
    for _ in range(600):
        await asyncio.sleep(1.0)
        began = now()
        assert await world.ask() == "hi"
        assert now() - began < 0.02


async def test_workers_that_answer_are_used_until_a_restarted_grape_knows_them_again(world):
    world.add(1, echo())
    world.add(2, None)
    await world.ask()
    world.directory.error = GrapeUnreachable("restarting")
    for _ in range(300):
        await asyncio.sleep(1.0)
        await world.ask()
    world.directory.error = None
    world.directory.services["svc"] = []
    for _ in range(150):
        await asyncio.sleep(1.0)
        assert await world.ask() == "hi"
    assert world.client.status().services["svc"].workers == (address(1),)  # the dead one is gone
    for _ in range(60):
        await asyncio.sleep(1.0)
        [said] = await asyncio.gather(world.ask(), return_exceptions=True)
    assert isinstance(said, LookupEmpty)  # but not for ever


async def test_who_is_not_used_any_more_and_not_found_is_forgotten_at_once(world):
    world.add(1, echo())
    await world.ask()
    world.directory.services["svc"] = []
    await asyncio.sleep(100.0)
    with pytest.raises(LookupEmpty):
        await world.ask()


async def test_workers_that_are_not_announced_any_more_are_forgotten(world):
    world.add(1, echo())
    world.add(2, echo())
    for _ in range(10):
        await world.ask()
    world.directory.services["svc"] = [address(2)]
    for _ in range(200):
        await asyncio.sleep(1.0)
        await world.ask()
    world.transport.asked.clear()
    for _ in range(20):
        await world.ask()
    assert set(world.transport.asked) == {address(2)}
    assert [row.peer for row in world.client.explain("svc")] == [address(2)]


async def test_who_comes_back_after_a_long_time_gets_the_workers_of_now(world):
    world.add(1, echo())
    await world.ask()
    world.directory.services["svc"] = []
    world.add(1, None)
    world.directory.services["svc"] = [address(2)]
    world.transport.workers[address(2)] = echo()
    await asyncio.sleep(300.0)
    world.transport.asked.clear()
    assert await world.ask() == "hi"
    assert world.transport.asked == {address(2): 1}


async def test_a_directory_that_cannot_be_asked_is_said_when_nobody_is_known(world):
    world.directory.error = GrapeUnreachable("all of them")
    with pytest.raises(GrapeUnreachable, match="all of them"):
        await world.ask()
    world.directory.error = None
    world.add(1, echo())
    assert await world.ask() == "hi"


async def test_a_directory_that_hangs_does_not_hold_the_caller(world):
    world.directory.delay = 1000.0
    began = now()
    with pytest.raises(RequestTimeout, match="lookup") as failed:
        await world.ask(timeout=1.0)
    assert not failed.value.sent
    assert now() - began == pytest.approx(1.0, abs=0.01)


async def test_a_directory_that_breaks_is_reported_as_unreachable(world, caplog):
    async def broken(service: str, *, fresh: bool = False) -> list[Address]:
        raise KeyError("oops")

    world.directory.lookup = broken
    with pytest.raises(GrapeUnreachable, match="oops"):
        await world.ask()
    assert "lookup of 'svc'" in caplog.text


async def test_a_failing_worker_makes_the_directory_forget_and_be_asked_again(world):
    world.add(1, None)
    world.add(2, echo())
    await world.ask()
    await asyncio.sleep(0.5)
    while not world.directory.forgotten:
        await world.ask()
    assert set(world.directory.forgotten) == {"svc"}


# map


async def test_map_gives_what_each_worker_said(world):
    async def refuse(payload: Any) -> Any:
        return Reply("", "ERR_MY_APP", {"partial": 1})

    world.add(1, echo())
    world.add(2, None)
    world.add(3, refuse)
    world.add(4, failing(LOST))
    world.add(5, echo(1000.0))
    world.add(6, echo())
    results = await world.client.map("svc", "hi", timeout=1.0)
    assert [said.address for said in results] == [address(n) for n in range(1, 7)]
    assert [said.result for said in results] == ["hi", None, {"partial": 1}, None, None, "hi"]
    errors = [None if said.error is None else said.error.code for said in results]
    generic = "ERR_REQUEST_GENERIC"
    assert errors == [None, generic, "ERR_MY_APP", generic, "ERR_TIMEOUT", None]
    assert isinstance(results[2].error, RemoteError)
    assert world.transport.asked == {address(n): 1 for n in range(1, 7)}


async def test_map_leaves_out_the_caller_itself(world):
    world.add(1, echo())
    world.add(2, echo())
    world.client.own = address(1)
    assert [said.address for said in await world.client.map("svc")] == [address(2)]
    world.directory.services["svc"] = [address(1)]
    await asyncio.sleep(20.0)
    assert await world.client.map("svc") == []


async def test_map_of_nobody_is_empty_at_once(world):
    began = now()
    assert await world.client.map("svc") == []
    assert now() == began


async def test_map_sees_a_worker_that_was_announced_just_now(world):
    world.add(1, echo())
    await world.client.map("svc")
    world.add(2, echo())
    await asyncio.sleep(0.51)
    assert len(await world.client.map("svc")) == 2


async def test_map_with_a_limit_asks_some_by_chance(world):
    for n in range(1, 11):
        world.add(n, echo())
    chosen: Counter[Address] = Counter()
    for _ in range(20):
        results = await world.client.map("svc", limit=3)
        assert len(results) == 3
        chosen.update(said.address for said in results)
    assert len(chosen) == 10
    assert await world.client.map("svc", limit=0) == []
    assert len(await world.client.map("svc", limit=99)) == 10


async def test_map_asks_no_more_than_so_many_at_once(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAP_AT_ONCE", 3)
    most = 0

    async def work(payload: Any) -> Any:
        nonlocal most
        most = max(most, sum(world.transport.under_way.values()))
        await asyncio.sleep(1.0)

    for n in range(1, 11):
        world.add(n, work)
    results = await world.client.map("svc", timeout=2.5)
    assert most == 3
    late = [said.error for said in results if isinstance(said.error, RequestTimeout)]
    assert [error.sent for error in late] == [True] * 3 + [False]


async def test_map_says_when_the_directory_cannot_be_asked(world):
    world.directory.error = GrapeUnreachable("all of them")
    with pytest.raises(GrapeUnreachable):
        await world.client.map("svc")


# One worker


async def test_request_at_asks_one_worker_once(world):
    world.transport.workers[address(7)] = echo()
    assert await world.client.request_at(address(7), "svc", "hi", 1.0) == "hi"
    assert world.directory.lookups == []
    with pytest.raises(RequestFailed) as failed:
        await world.client.request_at(address(8), "svc", "hi")
    assert not failed.value.sent
    assert world.transport.asked[address(8)] == 1


async def test_request_at_raises_the_workers_error(world):
    async def refuse(payload: Any) -> Any:
        return Reply("", "ERR_MY_APP", 7)

    world.transport.workers[address(7)] = refuse
    with pytest.raises(RemoteError) as failed:
        await world.client.request_at(address(7), "svc")
    assert failed.value.result == 7


# Whatever happens


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_workers_and_grapes_do(world, seed):
    """Nothing takes longer than its timeout, nobody gets another's answer, what is not idempotent is done
    once at most and never again after it may have been, and nothing is left behind."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    unsafe: set[str] = set()

    def worker() -> Work | None:
        if rng.random() < 0.2:
            return None
        kinds = rng.choices(["ok", "lost", "hang", "busy", "bad", "error"], k=3)

        async def work(payload: Any) -> Any:
            kind = rng.choice(kinds)
            if kind == "busy":
                return BUSY
            done[payload] += 1
            assert payload not in unsafe or done[payload] == 1, "done twice"
            await asyncio.sleep(1000.0 if kind == "hang" else rng.expovariate(20.0))
            if kind == "lost":
                raise RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)
            if kind == "bad":
                raise BadReply("ERR_REPLY_EMPTY")
            return Reply("", "ERR_MINE", payload) if kind == "error" else payload

        return work

    async def ask(number: int) -> str:
        payload, idempotent = f"n{number}", rng.random() < 0.5
        if not idempotent:
            unsafe.add(payload)
        timeout, began = rng.uniform(0.2, 5.0), now()
        patience = rng.random() if rng.random() < 0.1 else None
        asked = world.ask(payload, timeout=timeout, idempotent=idempotent)
        [said] = await asyncio.gather(asyncio.wait_for(asked, patience), return_exceptions=True)
        if isinstance(said, RemoteError):
            assert said.result in (payload, None)
        elif isinstance(said, RequestFailed):
            assert said.sent or not done[payload]
        elif isinstance(said, LookupEmpty | GrapeUnreachable):
            assert not done[payload]
        elif not isinstance(said, TimeoutError):
            assert said == payload
        assert now() - began < timeout + 0.01
        return payload

    asking = []
    for number in range(200):
        if rng.random() < 0.05:
            world.add(rng.randrange(1, 7), worker())
        if rng.random() < 0.02:
            world.directory.services["svc"] = []
        if rng.random() < 0.02:
            world.directory.error = rng.choice([None, GrapeUnreachable("all of them")])
        asking.append(asyncio.ensure_future(ask(number)))
        await asyncio.sleep(rng.expovariate(30.0))
    await asyncio.gather(*asking)
    await asyncio.sleep(10.0)
    assert not world.client._tasks
    assert world.client.status().under_way == 0
    assert sum(world.transport.under_way.values()) == 0
    assert all(row.parts["in_flight"] == 0 for row in world.client.explain("svc"))


# Limits and closing


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e9, None, "x"])
async def test_a_timeout_that_is_none_is_refused(world, timeout):
    world.add(1, echo())
    for asking in (
        world.ask(timeout=timeout),
        world.client.map("svc", timeout=timeout),
        world.client.request_at(address(1), "svc", timeout=timeout),
    ):
        with pytest.raises(BadInput, match="a timeout is a number of seconds"):
            await asking


@pytest.mark.parametrize("service", ["", "x" * 300, 7])
async def test_a_name_that_would_harm_a_grape_is_refused(world, service):
    with pytest.raises(BadInput):
        await world.client.request(service)
    with pytest.raises(BadInput):
        await world.client.map(service)
    assert world.directory.lookups == []


async def test_a_payload_that_is_no_json_is_refused(world):
    world.add(1, echo())
    with pytest.raises(BadInput):
        await world.ask(object())


async def test_requests_under_way_are_bounded(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_UNDER_WAY", 3)
    world.add(1, echo(1.0))
    asking = [asyncio.ensure_future(world.ask()) for _ in range(3)]
    await asyncio.sleep(0.1)
    with pytest.raises(RequestFailed, match="3 requests are under way") as failed:
        await world.ask()
    assert not failed.value.sent
    await asyncio.gather(*asking)
    assert await world.ask() == "hi"


async def test_services_remembered_are_bounded(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_SERVICES", 3)
    for n in range(10):
        world.directory.services[f"svc{n}"] = [address(1)]
    world.transport.workers[address(1)] = echo()
    for n in range(10):
        await world.client.request(f"svc{n}")
        await world.client.request("svc0")
    assert sorted(world.client.status().services) == ["svc0", "svc8", "svc9"]


async def test_cancelling_a_request_cancels_its_attempts_and_blames_nobody(world):
    world.add(1, echo(100.0))
    world.add(2, echo(100.0))
    asking = asyncio.ensure_future(world.ask(idempotent=True, timeout=50.0))
    await asyncio.sleep(1.0)
    assert sum(world.transport.under_way.values()) == 2  # the first and the one beside it
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert sum(world.transport.under_way.values()) == 0
    for row in world.client.explain("svc"):
        assert row.state is State.CLOSED
        assert row.parts["timeout_rate"] == row.parts["error_rate"] == row.parts["in_flight"] == 0


async def test_closing_fails_what_waits_for_a_service_that_is_not_remembered(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_SERVICES", 1)
    world.directory.delay = 100.0
    waiting = asyncio.ensure_future(world.ask(timeout=1000.0))
    await asyncio.sleep(1.0)
    other = asyncio.ensure_future(world.client.request("other", timeout=1000.0))
    await asyncio.sleep(1.0)
    await world.client.close()
    ended = await asyncio.gather(waiting, other, return_exceptions=True)
    assert [error.code for error in ended] == [CLOSED, CLOSED]
    assert not world.client._tasks


async def test_closing_fails_what_waits_for_anything():
    world = World()
    waiting = asyncio.ensure_future(world.ask())
    world.directory.delay = 1000.0
    await asyncio.sleep(0)
    world2 = World(2)
    for n in (1, 2):
        world2.add(n, echo(1000.0))
    racing = asyncio.ensure_future(world2.ask(idempotent=True, timeout=100.0))
    world3 = World()
    world3.add(1, failing(LOST, delay=0.0))
    retrying = asyncio.ensure_future(world3.ask(idempotent=True, timeout=100.0))
    await asyncio.sleep(0.001)
    for each in (world, world2, world3):
        await each.client.close()
        assert each.transport.closed
    ended = await asyncio.gather(waiting, racing, retrying, return_exceptions=True)
    assert [type(error) for error in ended] == [RequestFailed] * 3
    assert now() < 5.0
    with pytest.raises(RequestFailed, match="was closed"):
        await world.ask()
    with pytest.raises(RequestFailed, match="was closed"):
        await world.client.map("svc")
    with pytest.raises(RequestFailed, match="was closed"):
        await world.client.request_at(address(1), "svc")


async def test_status_and_explain_are_for_people(world):
    world.add(1, echo())
    world.add(2, None)
    for _ in range(10):
        await world.ask()
    status = world.client.status()
    assert status.under_way == 0
    service = status.services["svc"]
    assert service.workers == (address(1), address(2))
    assert service.age_s is not None
    assert service.figures.ok == 10
    best, worst = world.client.explain("svc")
    assert (best.peer, worst.peer) == (address(1), address(2))
    assert world.client.explain("other") == []


# The real transports


@pytest.mark.looptime(False)
@pytest.mark.parametrize("kind", ["http", "ws"])
async def test_the_real_transports_are_made_and_closed(kind):
    directory = MemoryDirectory(svc=[unused_address()])
    async with Client(directory, transport=kind) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.request("svc", timeout=1.0)
        assert not failed.value.sent
        assert client.status().transport.kind == kind


@pytest.mark.looptime(False)
@pytest.mark.parametrize(
    "options", [{}, {"compress": True}, {"transport": "ws"}], ids=["http", "gzip", "ws"]
)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_with_our_own_worker(options, secure):
    ours, theirs = Identity.generate(), Identity.generate()
    shown: list[bytes | None] = []

    async def serve(request: Request) -> Any:
        shown.append(request.certificate)
        if request.payload == "refuse":
            raise RemoteError("ERR_MINE", {"partial": 1})
        return request.payload

    worker = Worker(tls=server_context(theirs) if secure else None)
    worker.serve("svc", serve)
    await worker.start("127.0.0.1", 0)
    directory = MemoryDirectory(svc=[worker.address], other=[worker.address])
    tls = client_context(ours) if secure else None
    async with Client(directory, tls=tls, **options) as client:
        results = await asyncio.gather(*(client.request("svc", {"n": n}) for n in range(30)))
        assert results == [{"n": n} for n in range(30)]
        with pytest.raises(RemoteError) as failed:
            await client.request("svc", "refuse")
        assert (failed.value.code, failed.value.result) == ("ERR_MINE", {"partial": 1})
        with pytest.raises(RemoteError, match="ERR_UNKNOWN_SERVICE"):
            await client.request("other", timeout=1.0)
        assert [said.result for said in await client.map("svc", "x" * 100_000)] == ["x" * 100_000]
        await worker.stop(0.0)
        with pytest.raises(RequestFailed, match="cannot connect") as refused:
            await client.request("svc", timeout=1.0)
        assert not refused.value.sent
    assert {certificate is not None for certificate in shown} == {secure}


@pytest.mark.looptime(False)
@pytest.mark.parametrize("kind", ["http", "ws"])
async def test_closing_fails_what_real_workers_have_not_answered(kind):
    asked = asyncio.Event()

    async def never(request: Request) -> Any:
        asked.set()
        await asyncio.sleep(1000.0)

    async with Worker() as worker:
        worker.serve("svc", never)
        await worker.start("127.0.0.1", 0)
        client = Client(MemoryDirectory(svc=[worker.address]), transport=kind)
        waiting = asyncio.ensure_future(client.request("svc", timeout=100.0))
        await asked.wait()
        await client.close()
        with pytest.raises(RequestFailed) as failed:
            async with asyncio.timeout(1.0):
                await waiting
        assert (failed.value.code, failed.value.sent) == (CLOSED, True)
        await worker.stop(0.0)


@pytest.mark.looptime(False)
async def test_what_the_transports_do_not_have_is_refused():
    with pytest.raises(ValueError, match="over HTTP only"):
        Client(MemoryDirectory(), transport="ws", compress=True)
    with pytest.raises(ValueError, match="no transport 'udp'"):
        Client(MemoryDirectory(), transport="udp")  # type: ignore[arg-type]
