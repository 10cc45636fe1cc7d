"""Connections of the server: which bytes are requests, in which order they are answered, and when a connection ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from raw_kit import BUY, HOST, JSON, KEY, RawNode, get, post, running
from trading_kit import TOKEN

from node.api.access import AccessRules
from node.http import limits

BODY = orjson.dumps(BUY)
CHUNKED = f"POST /v1/orders HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n".encode()
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
PLAIN = "Accept: */*\r\nUser-Agent: bot/1.0\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n"
LONG = b'{"market":"' + b"x" * limits.MAX_BODY + b'"}'


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RawNode]:
    async with running(tmp_path, AccessRules(operator_token=TOKEN)) as node:
        yield node


CASES: dict[str, tuple[bytes | tuple[bytes, ...], int]] = {
    "plain": (post(), 201),
    "usual headers": (post(headers=PLAIN), 201),
    "lower case": (post().replace(b"Content-Type", b"content-type"), 201),
    "own address": (post(host="Host: localhost:3000\r\n"), 201),
    "charset": (post(kind="Content-Type: application/json; charset=utf-8\r\n"), 201),
    "upper case type": (post(kind="Content-Type: Application/JSON\r\n"), 201),
    "operator's token": (post(headers=f"Authorization: Bearer operator:{TOKEN}\r\n"), 201),
    "wrong token": (post(headers="Authorization: Bearer operator:x\r\n"), 401),
    "wrong key": (post(headers="Authorization: Bearer a:b\r\n"), 401),
    "no bearer": (post(headers="Authorization: Basic YTpi\r\n"), 401),
    "empty authorization": (post(headers="Authorization: \r\n"), 401),
    "two authorizations": (post(headers="Authorization: Bearer a:b\r\n" * 2), 401),
    "empty foreign key": (post(headers="X-API-Key:\r\n"), 401),
    "empty key of the dialect": (post(headers="bfx-apikey: \r\n"), 401),
    "unknown market": (post(BUY | {"market": "X-Y"}), 404),
    "bad number": (post(BUY | {"price": "0.0000001"}), 422),
    "number": (post(BUY | {"price": 30000}), 400),
    "unknown field": (post(BUY | {"colour": "red"}), 400),
    "no JSON": (post(b"{"), 400),
    "quantity twice": (post(BODY[:-1] + b',"quantity":"9"}'), 400),
    "side twice, once escaped": (post(BODY[:-1] + b',"s\\u0069de":"sell"}'), 400),
    "empty": (post(b""), 400),
    "too long": (post(LONG), 413),
    "announced too long": (post(b"{").replace(b"Length: 1", b"Length: 99999"), 413),
    "too long in chunks": (CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(LONG), LONG), 413),
    "text": (post(kind="Content-Type: text/plain\r\n"), 415),
    "no type": (post(kind=""), 415),
    "packed": (post(headers="Content-Encoding: gzip\r\n"), 415),
    "foreign host": (post(host="Host: evil.example\r\n"), 403),
    "no host": (post(host=""), 400),
    "two hosts": (post(headers="Host: evil.example\r\n"), 400),
    "two types": (post(headers="Content-Type: text/plain\r\n"), 400),
    "origin": (post(headers="Origin: http://evil.example\r\n"), 403),
    "own origin": (post(headers="Origin: http://127.0.0.1\r\n"), 201),
    "page of another site": (post(headers="Sec-Fetch-Site: cross-site\r\n"), 403),
    "another node": (post(headers="X-Exchange-Node: ff\r\n"), 421),
    "unusual header": (post(headers="X-Thing: 1\r\n"), 201),
    "folded header": (post(headers="X-Thing: 1\r\n 2\r\n"), 400),
    "header twice": (post(headers="Accept: a\r\nAccept: b\r\n"), 201),
    "space before a colon": (post(headers="X-Thing : 1\r\n"), 400),
    "no name": (post(headers=": 1\r\n"), 400),
    "zero byte": (post(headers="X-Thing: \0\r\n"), 400),
    "bare line feed in the head": (post(headers="X-Thing: 1\n"), 400),
    "bare carriage return": (post(headers="X-Thing: 1\rX: 2\r\n"), 400),
    "lines of line feeds": (post().replace(b"\r\n", b"\n"), 400),
    "not ASCII in a header": (post(headers="User-Agent: \xe9\r\n"), 201),
    "not ASCII in the target": (get("/v1/\xe9"), 400),
    "query": (post(path="/v1/orders?wait_for_takes=true"), 201),
    "unknown query": (post(path="/v1/orders?x=1"), 400),
    "another path": (post(path="/v1/orders/"), 404),
    "escaped path": (post(path="/v1/%6frders"), 201),
    "whole URL": (post(path="http://127.0.0.1/v1/orders"), 201),
    "fragment": (post(path="/v1/orders#x"), 201),
    "no target": (b"GET  HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "no path": (get("v1/orders"), 400),
    "other scheme": (get("ftp://127.0.0.1/v1/orders"), 400),
    "tunnel": (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "unknown method": (get("/v1/orders").replace(b"GET", b"TAKE"), 400),
    "lower case method": (get("/v1/orders").replace(b"GET", b"get"), 400),
    "another method": (get("/v1/orders").replace(b"GET", b"OPTIONS"), 405),
    "closing": (post(headers="Connection: close\r\n"), 201),
    "old version": (post().replace(b"HTTP/1.1", b"HTTP/1.0"), 201),
    "very old version": (b"GET /v1/orders\r\n\r\n", 400),
    "new version": (post().replace(b"HTTP/1.1", b"HTTP/2.0"), 400),
    "two lengths": (post(headers="Content-Length: 3\r\n"), 400),
    "two equal lengths": (post(headers=f"Content-Length: {len(BODY)}\r\n"), 400),
    "signed length": (post().replace(b"Length: ", b"Length: +"), 400),
    "negative length": (post().replace(b"Length: ", b"Length: -"), 400),
    "hexadecimal length": (post().replace(b"Length: ", b"Length: 0x"), 400),
    "endless length": (post().replace(b"Length: ", b"Length: 9" + b"9" * 30), 400),
    "chunked": (CHUNKED + CHUNKS, 201),
    "chunked with an extension": (CHUNKED + CHUNKS.replace(b"\r\n", b";a=b\r\n", 1), 201),
    "chunked with a trailer": (CHUNKED + CHUNKS[:-2] + b"X: y\r\n\r\n", 201),
    "chunked in pieces": ((CHUNKED, CHUNKS[:20], CHUNKS[20:]), 201),
    "chunked and a length": (post(headers="Transfer-Encoding: chunked\r\n"), 400),
    "chunked twice": (CHUNKED.replace(b"chunked", b"chunked, chunked") + CHUNKS, 400),
    "chunked and packed": (CHUNKED.replace(b"chunked", b"gzip, chunked") + CHUNKS, 400),
    "not chunked": (CHUNKED.replace(b"chunked", b"identity") + CHUNKS, 400),
    "chunked of old": (CHUNKED.replace(b"1.1", b"1.0") + CHUNKS, 400),
    "wrong chunks": (CHUNKED + b"zz\r\n", 400),
    "negative chunk": (CHUNKED + b"-1\r\n", 400),
    "chunks of line feeds": (CHUNKED + CHUNKS.replace(b"\r\n", b"\n"), 400),
    "chunk that is longer": (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", 400),
    "head in pieces": ((post()[:30], post()[30:]), 201),
    "body in pieces": ((post()[:-10], post()[-10:]), 201),
    "empty lines before": (b"\r\n\r\n" + post(), 201),
    "long head": (post(headers=f"User-Agent: {'x' * limits.MAX_REMEMBERED}\r\n"), 201),
    "too long a head": (post(headers=f"User-Agent: {'x' * limits.MAX_HEAD}\r\n"), 400),
    "too long a target": (get("/" + "x" * limits.MAX_HEAD), 400),
    "a head without an end": (get("/v1/orders")[:-2] + b"X: " + b"x" * limits.MAX_HEAD, 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "words": (b"hello\r\n", 400),
    "unknown expectation": (post(headers="Expect: wonders\r\n"), 417),
    "unknown upgrade": (get("/v1/orders", "Connection: Upgrade\r\nUpgrade: h2c\r\n"), 200),
}


@pytest.mark.parametrize("name", CASES)
async def test_bytes_are_read_strictly(node: RawNode, name: str) -> None:
    sent, status = CASES[name]
    pieces = (sent,) if isinstance(sent, bytes) else sent
    answer = await node.ask(*pieces)
    assert answer.status == status, answer
    assert node.node.trading.order_count == (status == 201)
    if status == 400 and b'"bad_request"' in answer.body:
        assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("seed", range(3))
async def test_mutants_are_answered_once_or_the_connection_ends(node: RawNode, seed: int) -> None:
    """Whatever becomes of a request, no byte of it is taken for another one, and the next connection is served."""
    await node.account("read", "trade")
    rng = random.Random(seed)
    requests = (post(), post(headers=PLAIN), post(headers=f"Authorization: Bearer {KEY}\r\n"))
    for _ in range(150):
        data = mutant(rng, rng.choice((*requests, CHUNKED + CHUNKS, get("/v1/orders?open=true"))))
        before = node.node.trading.order_count
        async with node.connection() as connection:
            connection.writer.write(data)
            connection.writer.write_eof()
            found = await asyncio.wait_for(connection.reader.read(), 10)
        assert not found or found.startswith(b"HTTP/1.1 "), data
        assert node.node.trading.order_count - before <= 1, data
    assert (await node.ask(get("/v1/orders"))).status == 200


def mutant(rng: random.Random, request: bytes) -> bytes:
    """A request with some bytes changed, taken out, repeated or put in."""
    data = bytearray(request)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        what = rng.randrange(4)
        if what == 0:
            data[at] = rng.choice(b'\r\n :;,\x00\x7f\xff0aA"{}/?')
        elif what == 1:
            del data[at : at + rng.choice((1, 1, 4))]
        elif what == 2:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.choice((b"\r\n", b"\n", b" ", b"\t", b"\r\nA: b", b"\r\n x", b"%"))
    return bytes(data)


async def test_pipelined_requests_are_answered_in_their_order(node: RawNode) -> None:
    look = get("/v1/orders/1")
    async with node.connection() as connection:
        connection.writer.write(look + post() + look + post(b"{") + post() + get("/") + look)
        found = [await connection.answer() for _ in range(7)]
        assert [answer.status for answer in found] == [404, 201, 200, 400, 201, 200, 200]
        assert [orjson.loads(found[at].body)["number"] for at in (1, 4)] == [1, 2]


async def test_a_request_byte_by_byte_is_one_request(node: RawNode) -> None:
    async with node.connection() as connection:
        for byte in post(headers="X: y\r\n") + get("/v1/orders"):
            connection.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert [(await connection.answer()).status for _ in range(2)] == [201, 200]


async def test_nothing_is_taken_after_a_request_whose_end_is_not_known(node: RawNode) -> None:
    smuggled = post(BUY | {"client_id": "smuggled"})
    for sent in (
        CHUNKED + CHUNKS + smuggled,
        post(headers="Content-Length: 5\r\n") + smuggled,
        post(headers="Transfer-Encoding: chunked\r\n") + smuggled,
        post(LONG) + smuggled,
        post(headers="Connection: close\r\n") + smuggled,
    ):
        async with node.connection() as connection:
            connection.writer.write(sent)
            assert (await connection.answer()).headers["Connection"] == "close"
            assert (await connection.answer()).status == 0
    found = orjson.loads((await node.ask(get("/v1/orders?open=false"))).body)
    assert [order["client_id"] for order in found] == [None] * 2


async def test_a_client_that_waits_for_the_word_to_go_on_gets_it(node: RawNode) -> None:
    sent = post(headers="Expect: 100-continue\r\n")
    async with node.connection() as connection:
        connection.writer.write(sent[: -len(BODY)])
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.writer.write(BODY)
        assert (await connection.answer()).status == 201
        assert (await connection.ask(sent)).status == 201, "the body came with the head"


async def test_the_answer_to_head_has_no_body(node: RawNode) -> None:
    async with node.connection() as connection:
        head = get("/v1/orders").replace(b"GET", b"HEAD")
        answer = await connection.ask(head, body=False)
        assert (answer.status, answer.headers["Content-Length"]) == (200, "2")
        assert (await connection.ask(get("/v1/orders"))).body == b"[]"


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "", None),
        ("1.1", "Connection: keep-alive\r\n", None),
        ("1.1", "Connection: Close\r\n", "close"),
        ("1.1", "Connection: keep-alive, close\r\n", "close"),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", "close"),
        ("1.0", "", "close"),
        ("1.0", "Connection: Keep-Alive\r\n", "keep-alive"),
    ],
)
async def test_connections_are_kept_as_the_client_asks(
    node: RawNode, version: str, connection: str, kept: str | None
) -> None:
    sent = get("/v1/orders", connection).replace(b"1.1\r\nH", f"{version}\r\nH".encode())
    async with node.connection() as line:
        answer = await line.ask(sent)
        assert (answer.status, answer.headers.get("Connection")) == (200, kept)
        if kept == "close":
            assert (await line.answer()).status == 0
        else:
            assert (await line.ask(sent)).status == 200


async def test_idle_connections_are_closed(node: RawNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE", 0.1)
    async with node.connection() as connection:
        assert (await connection.ask(get("/v1/orders"))).status == 200
        assert (await asyncio.wait_for(connection.answer(), 5)).status == 0


async def test_a_client_that_does_not_read_is_not_read_from(node: RawNode) -> None:
    """Its requests wait in the system, not in the node."""
    page = get("/openapi.json")
    async with node.connection() as connection:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        writing = asyncio.create_task(write_all(connection.writer, page * 100_000))
        await asyncio.sleep(0.3)
        assert not writing.done()
        served = node.server.figures.requests["/openapi.json", "200"]
        assert served < 500
        writing.cancel()
    assert (await node.ask(get("/v1/orders"))).status == 200


async def write_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(0, len(data), 1000):
        writer.write(data[at : at + 1000])
        await writer.drain()


async def test_a_key_holds_for_a_connection_until_it_is_revoked(node: RawNode) -> None:
    await node.account("read", "trade")
    sent = post(BUY | {"quantity": "0.1"}, f"Authorization: Bearer {KEY}\r\n")
    async with node.connection() as connection:
        assert [(await connection.ask(sent)).status for _ in range(2)] == [201, 201]
        node.node.accounts.revoke(2, KEY.split(":")[0])
        answer = await connection.ask(sent)
        assert (answer.status, orjson.loads(answer.body)["code"]) == (401, "key_revoked")
