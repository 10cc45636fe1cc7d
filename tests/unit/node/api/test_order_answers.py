"""Answers to orders over REST: when they leave, and what they say when something fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
import pytest
from raw_kit import BUY, KEY, RawNode, get, post, running
from trading_kit import TOKEN

from exchange.journal.journal import Journal, JournalError
from exchange.model.records import Record
from node.api import limits
from node.api.access import AccessRules


@pytest.fixture(params=[False, True], ids=["at once", "waiting"])
async def node(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RawNode]:
    rules = AccessRules(operator_token=TOKEN)
    async with running(tmp_path, rules, waiting=request.param) as node:
        yield node


def keyed(body: object = BUY) -> bytes:
    return post(body, f"Authorization: Bearer {KEY}\r\n")


async def test_a_key_that_may_not_trade_is_refused(node: RawNode) -> None:
    await node.account("read")
    assert (await node.ask(keyed())).status == 403


async def test_requests_are_counted_by_key(tmp_path: Path) -> None:
    async with running(tmp_path, AccessRules(keys_required=True, rate_limit=3)) as node:
        await node.account("trade")
        found = [await node.ask(keyed(BUY | {"quantity": "0.01"})) for _ in range(4)]
        assert [answer.status for answer in found] == [201, 201, 201, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in found] == ["2", "1", "0", "0"]
        assert found[3].headers["Retry-After"] == found[3].headers["RateLimit-Reset"]


def hold_commits(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits wait in their thread until the event is set."""
    gate, commit = threading.Event(), Journal.commit

    def slowly(journal: Journal, records: Sequence[Record]) -> None:
        assert gate.wait(10)
        commit(journal, records)

    monkeypatch.setattr(Journal, "commit", slowly)
    monkeypatch.setattr(Journal, "appends_only", False)
    return gate


async def test_no_answer_leaves_before_the_commit_and_late_ones_say_so(
    node: RawNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDLER_TIMEOUT", 0.2)
    gate = hold_commits(monkeypatch)
    found = await node.ask(post())
    assert found.status == 504
    assert orjson.loads(found.body)["code"] == "no_answer"
    gate.set()
    monkeypatch.setattr(limits, "HANDLER_TIMEOUT", 30.0)
    assert (await node.ask(post())).status == 201


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_failed_disk_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    def fail(journal: Journal, records: Sequence[Record]) -> None:
        raise JournalError("disk full")

    async def ask() -> None:
        async with running(tmp_path, waiting=waiting) as node:
            monkeypatch.setattr(Journal, "commit", fail)
            found = await node.ask(post())
            assert found.status == 503
            assert orjson.loads(found.body)["code"] == "storage_failed"

    with pytest.raises(BaseExceptionGroup) as group:
        await ask()
    failed, other = group.value.split(JournalError)
    assert failed is not None
    assert other is None


async def test_a_request_under_way_is_answered_when_the_server_stops(
    node: RawNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_commits(monkeypatch)
    async with node.connection() as connection:
        asking = asyncio.create_task(connection.ask(post()))
        while not node.node.committer.write_age:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        stopping = asyncio.create_task(node.server.stop())
        await asyncio.sleep(0.01)
        assert not asking.done()
        gate.set()
        answer = await asking
        assert answer.status == 201
        await stopping


async def test_a_client_that_leaves_before_its_answer_harms_nobody_else(
    node: RawNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_commits(monkeypatch)
    async with node.connection() as connection:
        connection.writer.write(post())
        while not node.node.trading.order_count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        connection.writer.transport.abort()
        await asyncio.sleep(0.01)
    gate.set()
    assert (await node.ask(get("/v1/orders"))).status == 200
    assert node.node.trading.order_count == 1
    assert node.server.figures.requests["submitOrder", "201"] == 1


async def test_a_mistake_in_the_engine_is_an_incident(
    node: RawNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node.node.engine.orders, "place", fail)
    found = await node.ask(post())
    assert found.status == 500
    assert f"incident {orjson.loads(found.body)['incident']}: POST '/v1/orders'" in caplog.text
