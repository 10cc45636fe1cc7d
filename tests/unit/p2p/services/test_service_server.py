"""The serving side: handlers, admission, refusals, load, faults."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from p2p.base.errors import HandlerError, RpcError
from p2p.services.fault_injection import Faults
from p2p.services.service_server import ServiceCall, ServiceReply, ServiceServer, current_request
from p2p.wire.messages import pack


@pytest.fixture
async def server() -> AsyncIterator[ServiceServer]:
    made = ServiceServer(rng=random.Random(1))
    yield made
    await made.close()


def ask(server: ServiceServer, service: str, payload: Any = None, **more: Any) -> Any:
    call = ServiceCall(service, msgspec.Raw(pack(payload)), more.pop("id", ""))
    return server.execute(call, "caller", **more)


async def reply(server: ServiceServer, service: str, payload: Any = None, **more: Any) -> Any:
    answer = await ask(server, service, payload, **more)
    assert isinstance(answer.value, ServiceReply)
    assert not answer.value.error
    return msgspec.msgpack.decode(answer.value.result)


async def test_async_and_sync_handlers_answer_and_know_the_caller(server):
    async def in_loop(payload: Any) -> Any:
        request = current_request()
        return [payload, request.caller, request.service, request.id]

    def in_thread(payload: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return [payload, current_request().caller, current_request().id]

    server.serve("loop", in_loop)
    server.serve("thread", in_thread)
    assert await reply(server, "loop", {"a": 1}, id="x") == [{"a": 1}, "caller", "loop", "x"]
    assert await reply(server, "thread", (1, 2)) == [[1, 2], "caller", ""]
    with pytest.raises(LookupError):
        current_request()


async def test_an_object_with_an_async_call_runs_in_the_loop(server):
    class Handler:
        async def __call__(self, payload: Any) -> Any:
            return threading.current_thread() is threading.main_thread()

    server.serve("object", Handler())
    assert await reply(server, "object") is True


async def test_a_handlers_own_refusal_is_an_answer_with_its_code(server):
    async def refuse(payload: Any) -> None:
        raise HandlerError("no_funds", "nothing left")

    server.serve("bank", refuse)
    answer = await ask(server, "bank")
    assert (answer.value.error, answer.value.message) == ("no_funds", "nothing left")
    assert answer.load is not None
    assert server.figures()[0].served == 1


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_crash_of_a_handler_is_internal_and_reveals_its_type_alone(server, kind, caplog):
    def crash(payload: Any) -> None:
        raise KeyError("secret")

    async def crash_in_loop(payload: Any) -> None:
        crash(payload)

    server.serve("bad", crash if kind == "thread" else crash_in_loop)
    with pytest.raises(RpcError) as caught:
        await ask(server, "bad")
    assert (caught.value.code, caught.value.message) == ("internal", "KeyError")
    assert server.in_flight == 0
    assert "secret" in caplog.text  # for whoever runs the node


async def test_a_result_that_cannot_be_sent_is_internal_too(server, caplog):
    async def odd(payload: Any) -> Any:
        return object()

    server.serve("odd", odd)
    with pytest.raises(RpcError, match="internal: TypeError"):
        await ask(server, "odd")


async def test_calls_to_a_missing_service_are_answered_as_unknown(server):
    with pytest.raises(RpcError, match="unknown_service"):
        await ask(server, "nothing")
    server.serve("it", lambda payload: None)
    server.remove("it")
    with pytest.raises(RpcError, match="unknown_service"):
        await ask(server, "it")


async def test_names_are_taken_once_and_must_be_names(server):
    server.serve("it", lambda payload: None)
    with pytest.raises(ValueError, match="served already"):
        server.serve("it", lambda payload: None)
    with pytest.raises(ValueError, match="invalid service name"):
        server.serve("a b", lambda payload: None)


@pytest.mark.looptime
async def test_beyond_workers_and_queue_it_is_busy_at_once_with_a_time_to_come_back(server):
    async def slow(payload: Any) -> int:
        await asyncio.sleep(1.0)
        return 1

    server.serve("slow", slow, workers=2, max_wait_s=0.1)
    first = [asyncio.create_task(ask(server, "slow")) for _ in range(2)]
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()
    more = [asyncio.create_task(ask(server, "slow")) for _ in range(40)]
    refused = await asyncio.gather(*more, return_exceptions=True)
    assert asyncio.get_running_loop().time() - now <= 0.11
    assert all(isinstance(error, RpcError) and error.code == "busy" for error in refused)
    assert min(error.retry_after_s for error in refused) > 0
    answers = await asyncio.gather(*first)
    assert {a.load.in_flight for a in answers} <= {0, 1}
    assert answers[0].load.served == pytest.approx(1.0)
    (figures,) = server.figures()
    assert (figures.served, figures.busy, figures.serving, figures.waiting) == (2, 40, 0, 0)


@pytest.mark.looptime
async def test_work_whose_deadline_has_passed_is_not_begun(server):
    begun = []

    async def work(payload: Any) -> None:
        begun.append(payload)

    server.serve("work", work)
    now = asyncio.get_running_loop().time()
    with pytest.raises(RpcError, match="expired"):
        await ask(server, "work", deadline=now - 0.1)
    assert begun == []


@pytest.mark.looptime
async def test_cancelling_ends_the_work_in_the_loop_and_frees_its_worker(server):
    ended = []

    async def wait(payload: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(payload)

    server.serve("wait", wait, workers=1)
    task = asyncio.create_task(ask(server, "wait", "first"))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    assert ended == ["first"]
    assert server.in_flight == 0


async def test_a_thread_keeps_its_worker_until_it_ends_though_its_caller_has_gone(server):
    go, began = threading.Event(), threading.Event()

    def hold(payload: Any) -> str:
        began.set()
        assert go.wait(10)
        return "done"

    server.serve("hold", hold, workers=1)
    task = asyncio.create_task(ask(server, "hold"))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    await asyncio.wait({task})
    assert server.in_flight == 1
    with pytest.raises(RpcError, match="busy"):
        await ask(server, "hold")
    go.set()
    while server.in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert await reply(server, "hold") == "done"


async def test_closing_does_not_wait_for_a_thread_that_hangs(server):
    go, began = threading.Event(), threading.Event()

    def hang(payload: Any) -> None:
        began.set()
        go.wait(60)

    server.serve("hang", hang)
    task = asyncio.create_task(ask(server, "hang"))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    async with asyncio.timeout(10):
        await server.close()
    go.set()


@pytest.mark.looptime
async def test_faults_happen_at_their_rates_and_take_their_time():
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    faults = Faults(latency_s=0.05, jitter_s=0.1, error_rate=0.25)
    failed = 0
    for _ in range(400):
        before = loop.time()
        try:
            await faults.happen(loop.time(), rng)
        except RpcError:
            failed += 1
        assert 0.05 <= loop.time() - before <= 0.151
    assert 70 <= failed <= 130
    assert str(faults) == "latency 0.05 s, jitter 0.1 s, error rate 0.25"
    assert not Faults()


@pytest.mark.looptime
async def test_a_flapping_service_fails_and_works_by_turns(server):
    async def work(payload: Any) -> int:
        return 1

    server.serve("flap", work, faults=Faults(flap_s=5.0))
    seen = []
    for _ in range(20):
        try:
            await ask(server, "flap")
            seen.append("ok")
        except RpcError:
            seen.append("bad")
        await asyncio.sleep(1.0)
    assert 8 <= seen.count("ok") <= 12
    assert seen[0] == seen[10]
    assert server.figures()[0].faults == "flap 5 s"


@pytest.mark.looptime
async def test_a_hang_on_purpose_never_answers(server):
    async def work(payload: Any) -> int:
        return 1

    server.serve("hang", work, faults=Faults(hang_rate=1.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1000):
            await ask(server, "hang")


@pytest.mark.parametrize("wrong", [{"error_rate": 1.5}, {"latency_s": -1.0}, {"hang_rate": -0.1}])
def test_faults_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError):
        Faults(**wrong)
