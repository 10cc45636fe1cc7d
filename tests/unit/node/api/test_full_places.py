"""The operator and the holders of keys get in while strangers hold every place that they can."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from trading_kit import Api, running_api

from node.api.access import AccessRules
from node.http import limits, server_connection
from node.http.api_tls import self_signed
from node.http.rate_limit import TimeShares
from p2p.base import places

pytestmark = pytest.mark.timeout(60)

STREAMS, OTHERS, SHARE = 12, 4, 8
LIMIT = OTHERS + 2 * STREAMS  # streams of two dialects
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits; all loopback addresses but one are those of other machines."""
    group = places.address_group
    monkeypatch.setattr(
        places, "address_group", lambda a: group(a) if a == "127.0.0.1" else f"of {a}"
    )
    monkeypatch.setattr(limits, "CONNECTIONS", OTHERS)
    monkeypatch.setattr(limits, "CONNECTIONS_PER_ADDRESS", SHARE)


def far(count: int) -> Iterable[str]:
    return (f"127.0.{1 + n // 200}.{2 + n % 200}" for n in range(count))


@asynccontextmanager
async def lines(api: Api, hosts: Iterable[str], sent: bytes) -> AsyncIterator[list[Line]]:
    """Open a connection of each host, send something, and wait for an answer to a request."""
    port = int(api.url.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        opened = []
        for host in hosts:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
            stack.callback(writer.close)
            writer.write(sent)
            if sent == GET:
                with suppress(ConnectionError):
                    await reader.read(4096)
            opened.append((reader, writer))
        await asyncio.sleep(0.05)
        yield opened


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/ver", POST, GET], ids=["none", "half", "body", "idle"]
)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_the_operator_gets_in_while_strangers_hold_all_connections(
    tmp_path: Path, sent: bytes, secure: bool
) -> None:
    tls = self_signed(tmp_path, ["127.0.0.1"]) if secure else None
    rules = AccessRules(max_streams=STREAMS, operator_token="t" * 32)
    async with running_api(tmp_path / "journal", rules=rules, tls=tls) as api:
        trust = ssl.create_default_context(cafile=str(tmp_path / "api-cert.pem")) if tls else None
        async with lines(api, far(3 * LIMIT), sent) as crowd:
            assert sum(not (r.at_eof() or r.exception()) for r, _ in crowd) <= LIMIT
            connector = aiohttp.TCPConnector(ssl=trust or True, limit=4)
            async with aiohttp.ClientSession(connector=connector) as operator:
                for number in range(3):  # and stays, whoever comes
                    async with asyncio.timeout(5), operator.get(api.url + "/v1/status") as answer:
                        assert answer.status == 200
                    assert connector._conns, "the connection is kept"
                    async with lines(api, far(LIMIT + number), sent):
                        pass


@pytest.mark.parametrize("sent", ["pings", "subscriptions", "documents"])
async def test_what_no_rate_counts_takes_a_strangers_share_of_the_processor_alone(
    sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_connection, "address_group", lambda a: None if a == HERE else a)
    monkeypatch.setattr(TimeShares, "spend", spent := Spent())
    async with running_api(rules=AccessRules(max_streams=STREAMS)) as api:
        for host in ("127.0.1.2", HERE):
            connector = aiohttp.TCPConnector(local_addr=(host, 0))
            async with aiohttp.ClientSession(connector=connector) as session:
                before, began = spent.seconds, time.monotonic()
                if sent == "documents":
                    for _ in range(5):
                        await (await session.get(api.url + "/openapi.json")).read()
                else:
                    async with session.ws_connect(api.url + "/v1/stream") as ws:
                        for _ in range(5):
                            if sent == "pings":
                                await ws.ping()
                            await ws.send_str('{"op":"subscribe","channel":"book","market":"X"}')
                            assert (await ws.receive_json())["code"] == "unknown_market"
                assert (spent.seconds > before) == (host != HERE)
                assert (time.monotonic() - began > 4 * REST) == (host != HERE)


REST = 0.1
HERE = "127.0.0.1"


class Spent:
    """Shares that are used up."""

    seconds = 0.0

    def __call__(self, now: float, address: str, seconds: float) -> float:
        assert address != HERE
        self.seconds += seconds
        return REST


def test_a_strangers_time_is_a_quarter_of_a_core_and_that_of_all_a_half() -> None:
    shares = TimeShares()
    assert shares.spend(0.0, "a", 1.9) == 0.0
    assert shares.spend(0.0, "a", 0.2) == pytest.approx(0.4)  # 0.1 s owed at a quarter
    assert shares.spend(0.0, "b", 0.1) == 0.0  # others' use does not hold up who has used little
    assert shares.spend(0.0, "b", 1.1) == 1.0
    assert shares.spend(0.0, "b", 9.0) == 1.0
    assert shares.spend(60.0, "b", 0.1) == 0.0


async def test_a_key_holder_gets_in_and_is_not_displaced(tmp_path: Path) -> None:
    rules = AccessRules(
        keys_required=True, plain_keys=True, max_streams=STREAMS, operator_token="t" * 32
    )
    async with running_api(tmp_path / "journal", rules=rules) as api:
        headers = {"Authorization": f"Bearer operator:{'t' * 32}"}
        async with lines(api, far(2 * LIMIT), GET):
            connector = aiohttp.TCPConnector(local_addr=("127.0.9.9", 0), limit=1)
            async with aiohttp.ClientSession(connector=connector, headers=headers) as caller:
                for _ in range(3):
                    async with asyncio.timeout(5), caller.get(api.url + "/v1/orders") as answer:
                        assert answer.status == 200
                    async with lines(api, far(2 * LIMIT), GET):
                        (kept,) = api_connections(connector)
                        assert not kept.transport.is_closing()


def api_connections(connector: aiohttp.TCPConnector) -> list[aiohttp.client_proto.ResponseHandler]:
    """Return the idle connections of a client."""
    return [each[0] for queue in connector._conns.values() for each in queue]


@pytest.mark.parametrize("path", ["/v1/stream", "/ws/2"])
async def test_the_operator_opens_a_stream_while_strangers_hold_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 2 * LIMIT)
    rules = AccessRules(max_streams=STREAMS)
    async with running_api(tmp_path / "journal", rules=rules) as api, AsyncExitStack() as stack:

        async def opened(host: str) -> aiohttp.ClientWebSocketResponse:
            session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(host, 0)))
            )
            return await stack.enter_async_context(session.ws_connect(api.url + path))

        crowd = [await opened(host) for host in far(STREAMS)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await opened("127.0.9.9")
        assert refused.value.status in (429, 503)
        own = await opened("127.0.0.1")
        await own.send_str(json.dumps({"op" if path == "/v1/stream" else "event": "ping"}))
        async with asyncio.timeout(5):
            assert "pong" in "".join([await own.receive_str() for _ in range(1 + ("ws" in path))])
            while (message := await crowd[0].receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.data == 1013
