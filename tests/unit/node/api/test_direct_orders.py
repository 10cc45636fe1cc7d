"""Orders on the short way: the same bytes are answered the same, and checked the same, on both ways.

Two equal nodes with equal clocks, one of which has no short way. Each request goes to both, byte for byte.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
from direct_kit import BUY, HOST, JSON, KEY, WARM_UP, Answer, Connection, Pair, Side, post, running
from trading_kit import TOKEN

from exchange.journal.journal import Journal, JournalError
from exchange.model.records import Record
from node.api import limits
from node.api.access import AccessRules
from node.api.direct_orders import DirectOrders
from p2p.base.direct_requests import MAX_HEAD

SILENCE = 0.05  # seconds after which a node that does not answer may be waiting for more
MANY = 150  # mutants


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with running(tmp_path, AccessRules(operator_token=TOKEN), DirectOrders) as pair:
        yield pair


PLAIN = "Accept: */*\r\nUser-Agent: bot/1.0\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n"
LONG = b'{"market":"' + b"x" * limits.MAX_BODY + b'"}'
# name: the request, the status, and whether the short way answers it
CASES: dict[str, tuple[bytes | tuple[bytes, ...], int, bool]] = {
    "plain": (post(), 201, True),
    "usual headers": (post(headers=PLAIN), 201, True),
    "lower case": (post().replace(b"Content-Type", b"content-type"), 201, True),
    "own address": (post(host="Host: localhost:3000\r\n"), 201, True),
    "charset": (post(kind="Content-Type: application/json; charset=utf-8\r\n"), 201, True),
    "refused by the band": (post(BUY | {"price": "1"}), 201, True),
    "refused: post only": (post(BUY | {"post_only": True, "price": None}), 422, True),
    "market order": (post({"market": "BTC-USD", "side": "buy", "quantity": "1"}), 201, True),
    "operator's token": (post(headers=f"Authorization: Bearer operator:{TOKEN}\r\n"), 201, True),
    "wrong token": (post(headers="Authorization: Bearer operator:x\r\n"), 401, False),
    "wrong key": (post(headers="Authorization: Bearer a:b\r\n"), 401, False),
    "no bearer": (post(headers="Authorization: Basic YTpi\r\n"), 401, False),
    "empty authorization": (post(headers="Authorization: \r\n"), 401, False),
    "bearer of nothing": (post(headers="Authorization: Bearer \r\n"), 401, False),
    "empty foreign key": (post(headers="X-API-Key:\r\n"), 401, False),
    "empty key of the dialect": (post(headers="bfx-apikey: \r\n"), 401, False),
    "unknown market": (post(BUY | {"market": "X-Y"}), 404, False),
    "bad number": (post(BUY | {"price": "0.0000001"}), 422, False),
    "number": (post(BUY | {"price": 30000}), 400, False),
    "unknown field": (post(BUY | {"colour": "red"}), 400, False),
    "no JSON": (post(b"{"), 400, False),
    "quantity twice": (post(orjson.dumps(BUY)[:-1] + b',"quantity":"9"}'), 400, False),
    "side twice, once escaped": (
        post(orjson.dumps(BUY)[:-1] + b',"s\\u0069de":"sell"}'),
        400,
        False,
    ),
    "signed quantity": (post(BUY | {"quantity": "+1"}), 400, False),
    "price with an exponent": (post(BUY | {"price": "3e4"}), 400, False),
    "empty": (post(b""), 400, False),
    "too long": (post(LONG), 413, False),
    "text": (post(kind="Content-Type: text/plain\r\n"), 415, False),
    "no type": (post(kind=""), 415, False),
    "foreign host": (post(host="Host: evil.example\r\n"), 403, False),
    "no host": (post(host=""), 400, False),
    "two hosts": (post(headers="Host: evil.example\r\n"), 400, False),
    "origin": (post(headers="Origin: http://evil.example\r\n"), 403, False),
    "own origin": (post(headers="Origin: http://127.0.0.1\r\n"), 201, False),
    "page of another site": (post(headers="Sec-Fetch-Site: cross-site\r\n"), 403, False),
    "another node": (post(headers="X-Exchange-Node: ff\r\n"), 421, False),
    "unusual header": (post(headers="X-Thing: 1\r\n"), 201, False),
    "folded header": (post(headers="X-Thing: 1\r\n 2\r\n"), 400, False),
    "header twice": (post(headers="Accept: a\r\nAccept: b\r\n"), 201, False),
    "query": (post(path="/v1/orders?wait_for_takes=true"), 201, False),
    "unknown query": (post(path="/v1/orders?x=1"), 400, False),
    "another path": (post(path="/v1/orders/"), 404, False),
    "closing": (post(headers="Connection: close\r\n"), 201, False),
    "old version": (post().replace(b"HTTP/1.1", b"HTTP/1.0"), 201, False),
    "two lengths": (post(headers="Content-Length: 3\r\n"), 400, False),
    "signed length": (post().replace(b"Content-Length: ", b"Content-Length: +"), 400, False),
    "chunked": (
        f"POST /v1/orders HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n".encode()
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(orjson.dumps(BUY)), orjson.dumps(BUY)),
        201,
        False,
    ),
    "head in pieces": ((post()[:30], post()[30:]), 201, False),
    "body in pieces": ((post()[:-10], post()[-10:]), 201, False),
    "expected": (post(headers="Accept-Encoding: gzip\r\nCookie: a=b\r\n"), 201, False),
    "long head": (post(headers=f"User-Agent: {'x' * MAX_HEAD}\r\n"), 201, False),
    "not ASCII": (post(headers="User-Agent: \xe9\r\n"), 201, False),
}


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_answer_the_same(pair: Pair, name: str) -> None:
    sent, status, direct = CASES[name]
    answer = await pair.ask(*((sent,) if isinstance(sent, bytes) else sent))
    assert answer[0].split(" ")[1:2] == [str(status)], answer
    assert (True in pair.taken) == direct


def keyed(body: object = BUY) -> bytes:
    return post(body, f"Authorization: Bearer {KEY}\r\n")


async def test_a_key_that_may_not_trade_is_refused_the_same(pair: Pair) -> None:
    await pair.account("read")
    assert (await pair.ask(keyed()))[0].split(" ")[1] == "403"
    assert pair.taken == [False]


async def test_the_rate_is_counted_the_same(tmp_path: Path) -> None:
    async with running(
        tmp_path, AccessRules(keys_required=True, rate_limit=3), DirectOrders
    ) as pair:
        await pair.account("trade")
        found = [await pair.ask(keyed(BUY | {"quantity": "0.01"})) for _ in range(4)]
        assert [answer[0].split(" ")[1] for answer in found] == ["201", "201", "201", "429"]
        assert pair.taken == [True, True, True, False]
        limits = [[line for line in headers if "Remaining" in line] for _, headers, _ in found]
        assert limits == [[f"RateLimit-Remaining: {left}"] for left in (2, 1, 0, 0)]


async def test_requests_follow_each_other_on_a_connection_whichever_way_each_goes(
    pair: Pair,
) -> None:
    look = b"GET /v1/orders/1 HTTP/1.1\r\n" + HOST.encode() + b"\r\n"
    for side in pair.sides:
        async with side.connection() as connection:
            found = [
                await connection.ask(sent)
                for sent in (look, post(), look, post(b"{"), post(), look, post(headers="A: b\r\n"))
            ]
            statuses = [int(answer[0].split(" ")[1]) for answer in found]
            assert statuses == [404, 201, 200, 400, 201, 200, 201]
            assert [orjson.loads(found[at][2])["number"] for at in (1, 4, 6)] == [1, 2, 3]
    assert pair.taken == [True, False, True]


def hold_commits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits wait in their thread until the event is set."""
    gate, commit = threading.Event(), Journal.commit

    def slowly(journal: Journal, records: Sequence[Record]) -> None:
        assert gate.wait(10)
        commit(journal, records)

    monkeypatch.setattr(Journal, "commit", slowly)
    monkeypatch.setattr(Journal, "appends_only", False)
    return gate


async def test_no_answer_leaves_before_the_commit_and_late_ones_say_so(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDLER_TIMEOUT", 0.2)
    gate = hold_commits(pair, monkeypatch)
    found = await pair.ask(post())
    assert found[0].startswith("HTTP/1.1 504 ")
    assert orjson.loads(found[2])["code"] == "no_answer"
    gate.set()
    assert (await pair.ask(post()))[0].startswith("HTTP/1.1 201 ")
    assert pair.taken == [True, True]


async def test_a_failed_disk_is_answered_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(journal: Journal, records: Sequence[Record]) -> None:
        raise JournalError("disk full")

    async def ask() -> None:
        async with running(tmp_path, AccessRules(), DirectOrders) as pair:
            monkeypatch.setattr(Journal, "commit", fail)
            found = await pair.ask(post())
            assert found[0].startswith("HTTP/1.1 503 ")
            assert orjson.loads(found[2])["code"] == "storage_failed"
            assert pair.taken == [True]

    with pytest.raises(BaseExceptionGroup) as group:
        await ask()
    failed, other = group.value.split(JournalError)
    assert failed is not None
    assert other is None


async def test_a_request_under_way_is_answered_when_the_server_stops(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_commits(pair, monkeypatch)
    for side in pair.sides:
        async with side.connection() as connection:
            await connection.ask(WARM_UP)
            gate.clear()
            asking = asyncio.create_task(connection.ask(post()))
            while not side.node.committer.write_age:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            stopping = asyncio.create_task(side.server.stop())
            await asyncio.sleep(0.01)
            assert not asking.done()
            gate.set()
            assert (await asking)[0].startswith("HTTP/1.1 201 ")
            await stopping


async def test_a_client_that_leaves_before_its_answer_harms_no_other(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_commits(pair, monkeypatch)
    side = pair.sides[0]
    async with side.connection() as connection:
        await connection.ask(WARM_UP)
        connection.writer.write(post())
        while not pair.taken:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        connection.writer.transport.abort()
        await asyncio.sleep(0.01)
    gate.set()
    async with side.connection() as connection:
        assert (await connection.ask(WARM_UP))[0].startswith("HTTP/1.1 200 ")
    assert side.node.trading.order_count == 1


async def test_a_mistake_in_the_engine_is_an_incident_on_both_ways(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    for side in pair.sides:
        monkeypatch.setattr(side.node.engine.orders, "place", fail)
    found = await pair.ask(post())
    assert found[0].startswith("HTTP/1.1 500 ")
    assert found[2] == b"incident"
    assert pair.taken == [True]


# Mutants


def mutant(rng: random.Random) -> list[bytes]:
    """A request with some bytes changed, taken out, repeated or put in, in one piece or in two."""
    data = bytearray(rng.choice((post(), post(headers=PLAIN), keyed(), post(BUY | {"price": "1"}))))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        what = rng.randrange(5)
        if what == 0:
            data[at] = rng.choice(b'\r\n :;,\x00\x7f\xff0aA"{}/?')
        elif what == 1:
            del data[at : at + rng.choice((1, 1, 4))]
        elif what == 2:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        elif what == 3:
            data[at:at] = rng.choice((b"\r\n", b"\n", b" ", b"\t", b"\r\nA: b", b"\r\n x", b"%"))
        elif (line := data.find(b"\r\n", at)) >= 0:
            data[line + 2 : line + 2] = data[data.find(b"\r\n") + 2 : line + 2]
    if rng.random() < 0.2:
        cut = rng.randrange(1, max(2, len(data)))
        return [bytes(data[:cut]), bytes(data[cut:])]
    return [bytes(data)]


async def send_to(side: Side, connection: Connection, pieces: list[bytes]) -> asyncio.Task[Answer]:
    """Send a request; return the task that reads its answer."""
    await connection.ask(WARM_UP)
    for piece in pieces:
        if piece is not pieces[0]:
            await asyncio.sleep(0.01)  # so that it comes as a piece of its own
        connection.writer.write(piece)
        await connection.writer.drain()
    return asyncio.create_task(connection.answer())


async def answers_to_both(pair: Pair, pieces: list[bytes]) -> list[Answer] | None:
    """Send a request to both nodes; return the answers, or None if both wait for more of it.

    A node that has not answered may be slow. It waits for more if it has answered an order that came later, which is
    placed and made durable after whatever came before.
    """
    async with AsyncExitStack() as stack:
        tasks = []
        for side in pair.sides:
            connection = await stack.enter_async_context(side.connection())
            tasks.append(await send_to(side, connection, pieces))
        done, _ = await asyncio.wait(tasks, timeout=SILENCE, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            await pair.ask(post())
            done, _ = await asyncio.wait(tasks, timeout=0, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return list(await asyncio.wait_for(asyncio.gather(*tasks), 10))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return None


@pytest.mark.parametrize("seed", range(3))
async def test_mutants_of_requests_are_answered_the_same(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with running(tmp_path, AccessRules(operator_token=TOKEN), DirectOrders) as pair:
        await pair.account("read", "trade")
        answered = 0
        for _ in range(MANY):
            pieces = mutant(rng)
            answers = await answers_to_both(pair, pieces)
            if answers is None:
                continue
            assert answers[0] == answers[1], pieces
            answered += 1
        assert answered > MANY / 2
        assert sum(pair.taken) > MANY / 10
        first, second = (side.node for side in pair.sides)
        assert first.trading.order_count == second.trading.order_count
        books = [[m.digest() for m in node.engine.markets.values()] for node in (first, second)]
        assert books[0] == books[1]


# Heads
