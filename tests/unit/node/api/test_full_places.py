"""The operator and the holders of keys get in while strangers hold every place that they can."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from trading_kit import Api, running_api

from node.api.access import AccessRules
from node.http import limits
from node.http.api_tls import self_signed
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
