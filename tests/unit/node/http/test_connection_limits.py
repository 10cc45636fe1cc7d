"""Connections of a server: how many, of whom, and how long without a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from trading_kit import Api, running_api

from node.api.access import AccessRules
from node.http import limits

# With a server


@asynccontextmanager
async def connections(
    api: Api, count: int, head: bytes
) -> AsyncIterator[list[asyncio.StreamReader]]:
    host, port = api.url.removeprefix("http://").split(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    try:
        for _, writer in opened:
            writer.write(head)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await reader.read(1) == b""
    return True


async def test_connections_with_unfinished_headers_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT", 0.3)
    head = b"GET /v1/markets HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    async with running_api(tmp_path / "journal") as api, connections(api, 40, head) as readers:
        assert (await api.get("/v1/markets")).status == 200
        async with asyncio.timeout(5):
            assert all([await ended(reader) for reader in readers])
        assert (await api.get("/v1/markets")).status == 200


async def test_a_full_server_serves_clients_that_send_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 18)
    async with (
        running_api(tmp_path / "journal", rules=AccessRules(max_streams=1)) as api,
        connections(api, 60, b"GET ") as readers,
    ):
        for _ in range(30):
            answer = await api.session.get(api.url + "/v1/markets", headers={"Connection": "close"})
            assert answer.status == 200
        cut = [reader for reader in readers if reader.at_eof() or reader.exception()]
        assert len(cut) >= 40
