# ruff: noqa: A002 - `type` is what the contract calls it
from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import uvloop
from call_kit import LoopMesh
from virtual_mesh import VirtualMesh, anyone, identity

from p2p.base import limits
from p2p.base.errors import DeliveryError, LinkClosed, RpcError, RpcTimeout
from p2p.mesh.routed_messages import Received
from p2p.rpc.requests import Call, RpcCore
from p2p.wire.messages import Load, RpcCancel, RpcRequest, RpcResponse, pack


class Net(VirtualMesh):
    """A mesh whose nodes have an `RpcCore`; `calls` and `aborted` are what each node serves."""

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(n, latency=(0.01, 0.01), **kwargs)
        self.calls: list[list[Call]] = [[] for _ in range(n)]
        self.aborted: list[list[Call]] = [[] for _ in range(n)]
        self.cores = [self._make_core(i) for i in range(n)]

    def _make_core(self, i: int) -> RpcCore:
        core = RpcCore(
            self.routers[i],
            rng=random.Random(f"rpc {i}"),
            on_abort=lambda now, call: self.aborted[i].append(call),
            max_in_flight=3,
        )
        core.handlers["slow"] = lambda now, call: self.calls[i].append(call)
        core.handlers["echo"] = lambda now, call: core.respond(now, call, call.body)
        return core

    def ask(self, a: int, b: int, method: str, body: Any = None, timeout: float = 1.0) -> int:
        number = self.cores[a].request(self.now, self.ids[b], method, pack(body), timeout)
        self.collect()
        return number

    def pass_time(self, seconds: float) -> None:
        """`run`, with the cores' timers."""
        end = self.now + seconds
        while True:
            deadlines = [core.next_deadline() for core in self.cores]
            at = min((d for d in deadlines if d is not None), default=end)
            if at > end:
                at = end
            self.run(at - self.now)
            for core in self.cores:
                core.tick(self.now)
            self.collect()
            if at >= end:
                return

    def results(self, i: int) -> dict[int, Any]:
        return dict(self.cores[i].take_results())


@pytest.fixture
def net() -> Net:
    net = Net(3)
    net.chain()
    for i in range(3):
        net.broadcast(i, pack(["I am", i]))
    net.run(1.0)
    return net


class TestAsking:
    @pytest.mark.parametrize("to", [1, 2])
    def test_an_answer_comes_back_over_a_link_and_over_a_relay(self, net, to):
        first = net.ask(0, to, "echo", "one")
        second = net.ask(0, to, "echo", "two")
        net.pass_time(0.5)
        results = net.results(0)
        assert list(results) == [first, second]
        assert [msgspec.msgpack.decode(r.body) for r in results.values()] == ["one", "two"]
        assert not net.cores[0]._asked
        assert net.cores[0].next_deadline() is None

    def test_without_an_answer_it_times_out_at_its_deadline_and_the_work_is_aborted(self, net):
        number = net.ask(0, 1, "slow", timeout=1.0)
        net.pass_time(0.99)
        assert net.results(0) == {}
        net.pass_time(0.03)
        [(found, outcome)] = net.results(0).items()
        assert found == number
        assert isinstance(outcome, RpcTimeout)
        assert outcome.code == "timeout"
        [call] = net.calls[1]
        assert net.aborted[1] == [call]
        assert net.cores[1].in_flight(net.ids[0]) == 0
        net.cores[1].respond(net.now, call, pack("late"))
        net.collect()
        net.pass_time(1.0)
        assert net.results(0) == {}

    def test_no_way_is_an_outcome_at_once(self, net):
        net.unlink(1, 2)
        number = net.ask(1, 2, "echo")
        [(found, outcome)] = net.results(1).items()
        assert found == number
        assert isinstance(outcome, DeliveryError)
        assert [way for way, _ in outcome.tried] == ["direct", "grenache", "relayed", "queued"]
        assert not net.cores[1]._asked

    def test_cancelling_ends_the_work_over_there_and_gives_no_result(self, net):
        number = net.ask(0, 2, "slow", timeout=10.0)
        net.pass_time(0.1)
        [call] = net.calls[2]
        net.cores[0].cancel(net.now, number)
        net.cores[0].cancel(net.now, number)
        net.collect()
        net.pass_time(0.1)
        assert net.aborted[2] == [call]
        assert net.cores[2].in_flight(net.ids[0]) == 0
        net.pass_time(20.0)
        assert net.results(0) == {}

    def test_an_answer_of_another_node_or_to_no_question_is_ignored_and_counted(self, net):
        number = net.ask(1, 2, "slow", timeout=5.0)
        false = pack(RpcResponse(number, body=pack("false")))
        net.routers[0].send(net.now, net.ids[1], "response", false)
        net.routers[2].send(net.now, net.ids[1], "response", pack(RpcResponse(number + 1)))
        net.collect()
        net.pass_time(0.5)
        assert net.results(1) == {}
        assert net.cores[1].counters["stray_responses"] == 2
        [call] = net.calls[2]
        net.cores[2].respond(net.now, call, pack("true"))
        net.collect()
        net.pass_time(0.5)
        assert net.results(1)[number].body == pack("true")

    def test_ids_of_two_lives_of_a_node_do_not_meet(self, net):
        first = RpcCore(_Nowhere(), rng=random.Random(1))
        second = RpcCore(_Nowhere(), rng=random.Random(2))
        a, b = (
            {core.request(0.0, identity(1).node_id, "m", b"", 1.0) for _ in range(1000)}
            for core in (first, second)
        )
        assert len(a) == len(b) == 1000
        assert not a & b


class TestServing:
    def test_an_unknown_method_is_answered_so(self, net):
        number = net.ask(0, 1, "nothing")
        net.pass_time(0.1)
        assert net.results(0)[number].error == "unknown_method"

    def test_more_at_once_than_allowed_for_one_caller_is_busy_and_others_are_served(self, net):
        numbers = [net.ask(0, 1, "slow", timeout=10.0) for _ in range(5)]
        other = net.ask(2, 1, "echo", "hello")
        net.pass_time(0.1)
        results = net.results(0)
        assert [results[n].error for n in numbers[3:]] == ["busy", "busy"]
        assert len(net.calls[1]) == 3
        assert net.results(2)[other].error == ""
        net.cores[1].respond(net.now, net.calls[1][0], b"")
        net.collect()
        net.pass_time(0.1)
        again = net.ask(0, 1, "echo")
        net.pass_time(0.1)
        assert net.results(0)[again].error == ""

    def test_bodies_being_served_for_one_caller_are_bounded_in_bytes(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        core.handlers["slow"] = lambda now, call: None
        body = bytes(1000 * 1000)
        for number in range(20):
            give(core, 0.0, RpcRequest(number, "slow", 1000, body))
        served = limits.RPC_MAX_BYTES // len(body)
        assert core.in_flight(identity(5).node_id) == served
        assert core.counters["refused_busy"] == 20 - served
        core.tick(1.0)
        assert core.in_flight(identity(5).node_id) == 0
        give(core, 1.0, RpcRequest(99, "slow", 1000, body))
        assert core.in_flight(identity(5).node_id) == 1

    def test_an_expired_request_is_not_started(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        started: list[Call] = []
        core.handlers["m"] = lambda now, call: started.append(call)
        assert give(core, 0.0, RpcRequest(1, "m", 0, b""))
        assert give(core, 0.0, RpcRequest(1, "m", -5, b""))
        assert started == []
        assert core.counters["refused_expired"] == 2
        assert core.next_deadline() is None

    def test_no_request_makes_a_node_work_for_longer_than_the_limit(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        core.handlers["m"] = lambda now, call: None
        give(core, 10.0, RpcRequest(1, "m", 2**62, b""))
        assert core.next_deadline() == 10.0 + limits.RPC_MAX_DEADLINE

    def test_a_request_that_comes_twice_while_served_is_started_once(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        started: list[Call] = []
        core.handlers["m"] = lambda now, call: started.append(call)
        give(core, 0.0, RpcRequest(1, "m", 1000, b""))
        give(core, 0.1, RpcRequest(1, "m", 1000, b""))
        assert len(started) == 1
        assert core.counters["duplicates"] == 1

    def test_an_answer_to_an_aborted_call_does_not_end_a_later_one_of_its_id(self):
        sender = _Nowhere()
        core = RpcCore(sender, rng=random.Random(0))
        started: list[Call] = []
        core.handlers["m"] = lambda now, call: started.append(call)
        give(core, 0.0, RpcRequest(1, "m", 1000, b""))
        give(core, 0.0, RpcCancel(1))
        give(core, 0.0, RpcRequest(1, "m", 1000, b""))
        core.respond(0.1, started[0], b"old")
        assert sender.sent == []
        core.respond(0.1, started[1], b"new")
        assert [msgspec.msgpack.decode(p, type=RpcResponse).body for p in sender.sent] == [b"new"]

    def test_all_callers_together_are_bounded_and_ended_calls_do_not_count(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        calls: list[Call] = []
        core.handlers["m"] = lambda now, call: calls.append(call)
        for caller in range(20):
            for number in range(500):
                give(core, 0.0, RpcRequest(number, "m", 1000, b""), caller=caller)
        assert len(calls) == limits.RPC_MAX_IN_FLIGHT_ALL
        assert core.counters["refused_busy"] == 10_000 - limits.RPC_MAX_IN_FLIGHT_ALL
        for call in calls:
            core.respond(0.1, call, b"")
        assert give(core, 0.2, RpcRequest(1, "m", 1000, b""), caller=19)
        assert len(calls) == limits.RPC_MAX_IN_FLIGHT_ALL + 1

    def test_a_cancel_ends_only_the_caller_s_own_request(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        core.handlers["m"] = lambda now, call: None
        give(core, 0.0, RpcRequest(1, "m", 1000, b""), caller=5)
        give(core, 0.0, RpcCancel(1), caller=6)
        assert core.in_flight(identity(5).node_id) == 1
        give(core, 0.0, RpcCancel(1), caller=5)
        assert core.in_flight(identity(5).node_id) == 0

    def test_a_request_of_the_wrong_shape_or_to_everyone_is_invalid(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        assert not give(core, 0.0, RpcRequest(-1, "m", 1000, b""))
        assert not give(core, 0.0, RpcRequest(2**63, "m", 1000, b""))
        assert not give(core, 0.0, RpcRequest(1, "m" * 100, 1000, b""))
        assert not give(core, 0.0, RpcRequest(1, "m", 1000, b""), broadcast=True)

    def test_an_answer_too_large_for_a_frame_is_an_error_to_the_caller(self, net):
        net.cores[1].handlers["huge"] = lambda now, call: net.cores[1].respond(
            now, call, bytes(limits.MAX_FRAME)
        )
        number = net.ask(0, 1, "huge")
        net.pass_time(0.1)
        assert net.results(0)[number].error == "too_large"

    def test_an_answer_waits_for_a_way_as_long_as_its_caller_does(self, net):
        number = net.ask(0, 1, "slow", timeout=5.0)
        net.pass_time(0.1)
        net.unlink(0, 1)
        net.cores[1].respond(net.now, net.calls[1][0], pack("done"))
        net.pass_time(2.0)
        net.link(0, 1)
        net.pass_time(0.1)
        assert net.results(0)[number].body == pack("done")

    def test_answered_requests_leave_no_timers_behind(self):
        core = RpcCore(_Nowhere(), rng=random.Random(0))
        core.handlers["m"] = lambda now, call: core.respond(now, call, b"")
        for number in range(5000):
            give(core, 0.0, RpcRequest(number, "m", 100_000, b""))
        assert len(core._deadlines._heap) < 200


class _Nowhere:
    """A sender that takes everything."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, now: float, to: str, type: str, payload: bytes, **_: Any) -> Any:
        self.sent.append(payload)

    def handle(self, type: str, handler: Any) -> None:
        pass


def give(
    core: RpcCore, now: float, message: Any, *, caller: int = 5, broadcast: bool = False
) -> bool:
    name = identity(caller).node_id
    kind = type(message).__name__.removeprefix("Rpc").lower()
    return core.receive(Received(now, kind, name, name, pack(message), broadcast))


# The asyncio face, in virtual time


class Chain(LoopMesh):
    def __init__(self, n: int) -> None:
        super().__init__(n, latency=0.01)
        for router in self.routers:
            router.handle("news", lambda received: True, origin=anyone)
        for a, b in itertools.pairwise(range(n)):
            self.link(a, b)

    async def introduce(self) -> None:
        for i, router in enumerate(self.routers):
            router.broadcast(self.loop.time(), "news", pack(i))
            self.flush(i)
        await asyncio.sleep(0.2)


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    chain = Chain(3)
    await chain.introduce()
    yield chain
    for rpc in chain.rpcs:
        await rpc.close()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_deadline_that_is_as_good_as_now_is_one_like_any_other(runner: Any) -> None:
    """uvloop makes no timer of a time within half a millisecond, but a callback without a time."""

    async def main() -> None:
        chain = Chain(2)
        await chain.introduce()
        calls = [chain.rpcs[0].ask(chain.ids[1], "nothing", timeout=1e-4) for _ in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {RpcTimeout}
        for rpc in chain.rpcs:
            await rpc.close()

    runner(main())


class Sum(msgspec.Struct):
    a: int
    b: int


@pytest.mark.looptime
@pytest.mark.parametrize("to", [1, 2])
async def test_a_call_returns_the_handlers_result(chain, to):
    async def add(caller: str, body: Sum) -> int:
        assert caller == chain.ids[0]
        await asyncio.sleep(0.5)
        return body.a + body.b

    chain.rpcs[to].serve("add", add, body_type=Sum)
    assert await chain.rpcs[0].call(chain.ids[to], "add", Sum(2, 3), result_type=int) == 5
    many = [chain.rpcs[0].call(chain.ids[to], "add", Sum(n, n)) for n in range(20)]
    assert await asyncio.gather(*many) == [2 * n for n in range(20)]
    assert chain.rpcs[0].in_flight == 0


@pytest.mark.looptime
async def test_a_call_times_out_in_time_and_the_handler_is_cancelled(chain):
    ended: list[float] = []

    async def hang(caller: str, body: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(chain.loop.time())

    chain.rpcs[1].serve("hang", hang)
    start = chain.loop.time()
    with pytest.raises(RpcTimeout):
        await chain.rpcs[0].call(chain.ids[1], "hang", timeout=2.0)
    assert chain.loop.time() - start == pytest.approx(2.0)
    await asyncio.sleep(0.1)
    assert ended == [pytest.approx(start + 2.01)]


@pytest.mark.looptime
async def test_cancelling_the_caller_cancels_the_handler(chain):
    ended = asyncio.Event()

    async def hang(caller: str, body: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    chain.rpcs[2].serve("hang", hang)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await chain.rpcs[0].call(chain.ids[2], "hang", timeout=100.0)
    async with asyncio.timeout(0.1):
        await ended.wait()
    assert chain.rpcs[0].in_flight == 0


@pytest.mark.looptime
async def test_a_handler_s_own_error_passes_and_any_other_shows_its_type_only(chain, caplog):
    async def refuse(caller: str, body: Any) -> None:
        raise RpcError("no_funds", "not enough lots")

    async def fail(caller: str, body: Any) -> None:
        raise KeyError("secret")

    chain.rpcs[1].serve("refuse", refuse)
    chain.rpcs[1].serve("fail", fail)
    with pytest.raises(RpcError, match="not enough lots") as refused:
        await chain.rpcs[0].call(chain.ids[1], "refuse")
    assert refused.value.code == "no_funds"
    with pytest.raises(RpcError) as failed:
        await chain.rpcs[0].call(chain.ids[1], "fail")
    assert (failed.value.code, failed.value.message) == ("internal", "KeyError")
    assert "secret" in caplog.text  # our own log has it


@pytest.mark.looptime
async def test_bodies_of_the_wrong_shape_are_distinguished_on_both_sides(chain):
    async def text(caller: str, body: Any) -> str:
        return "text"

    async def unencodable(caller: str, body: Any) -> object:
        return object()

    chain.rpcs[1].serve("text", text, body_type=Sum)
    chain.rpcs[1].serve("unencodable", unencodable)
    with pytest.raises(RpcError) as bad_request:
        await chain.rpcs[0].call(chain.ids[1], "text", {"a": "x"})
    assert bad_request.value.code == "bad_request"
    chain.rpcs[1].serve("any", text)
    with pytest.raises(RpcError) as not_text:
        await chain.rpcs[0].call(chain.ids[1], "any", msgspec.Raw(b"\xa2\xff\xfe"))
    assert not_text.value.code == "bad_request"
    with pytest.raises(RpcError) as bad_response:
        await chain.rpcs[0].call(chain.ids[1], "text", Sum(1, 2), result_type=int)
    assert bad_response.value.code == "bad_response"
    with pytest.raises(RpcError) as internal:
        await chain.rpcs[0].call(chain.ids[1], "unencodable")
    assert internal.value.code == "internal"


@pytest.mark.looptime
async def test_a_call_without_a_provider_lists_the_attempts(chain):
    with pytest.raises(DeliveryError, match="not connected"):
        await chain.rpcs[0].call(identity(9).node_id, "any")
    with pytest.raises(ValueError, match="itself"):
        await chain.rpcs[0].call(chain.ids[0], "any")
    assert chain.rpcs[0].in_flight == 0


@pytest.mark.looptime
async def test_closing_ends_calls_on_both_sides(chain):
    ended: list[str] = []

    async def hang(caller: str, body: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(caller)

    chain.rpcs[1].serve("hang", hang)
    served = asyncio.ensure_future(chain.rpcs[0].call(chain.ids[1], "hang", timeout=60.0))
    asked = asyncio.ensure_future(chain.rpcs[1].call(chain.ids[2], "none", timeout=60.0))
    await asyncio.sleep(0.015)
    await chain.rpcs[1].close()
    assert ended == [chain.ids[0]]
    for call in (served, asked):
        with pytest.raises(RpcError) as closed:
            await call
        assert closed.value.code == "closed"
    with pytest.raises(RpcError) as refused:
        await chain.rpcs[0].call(chain.ids[1], "hang")
    assert refused.value.code == "closed"
    with pytest.raises(RpcError):
        await chain.rpcs[1].call(chain.ids[0], "hang")


@pytest.mark.looptime
async def test_a_handler_that_cancels_itself_is_an_error_and_not_silence(chain):
    async def odd(caller: str, body: Any) -> None:
        raise asyncio.CancelledError

    chain.rpcs[1].serve("odd", odd)
    with pytest.raises(RpcError) as failed:
        await chain.rpcs[0].call(chain.ids[1], "odd")
    assert failed.value.code == "internal"


class TestLoadAndLinks:
    def test_an_answer_carries_its_senders_load_and_busy_a_time_to_come_back(self, net):
        load = Load(in_flight=3.0, latency=0.25, service=0.1, waited=0.05, served=0.2)
        first = net.ask(0, 1, "slow")
        second = net.ask(0, 1, "slow")
        net.pass_time(0.1)
        one, two = net.calls[1]
        net.cores[1].respond(net.now, one, pack("it"), load)
        net.cores[1].fail(net.now, two, "busy", "later", retry_after_s=0.0123)
        net.collect()
        net.pass_time(0.1)
        results = net.results(0)
        assert results[first].load == load
        assert results[second].load is None
        assert (results[second].error, results[second].retry_after) == ("busy", 13)

    def test_a_response_without_load_is_written_as_before(self):
        assert msgspec.msgpack.decode(pack(RpcResponse(5, body=b"x"))) == {"id": 5, "body": b"x"}

    def test_a_request_that_needs_its_link_ends_with_the_link(self, net):
        core = net.cores[0]
        needs = core.request(net.now, net.ids[1], "slow", pack(None), 5.0, needs_link=True)
        waits = core.request(net.now, net.ids[1], "slow", pack(None), 5.0)
        relayed = core.request(net.now, net.ids[2], "slow", pack(None), 5.0, needs_link=True)
        net.collect()
        net.pass_time(0.1)
        core.link_down(net.ids[2])  # it did not go over a link to that node
        core.link_down(net.ids[1])
        [(found, outcome)] = net.results(0).items()
        assert found == needs
        assert isinstance(outcome, LinkClosed)
        assert len(core._asked) == 2
        net.pass_time(5.0)
        assert set(net.results(0)) == {waits, relayed}
        assert core.next_deadline() is None
