"""Connections of a server: how many, of whom, and how long without a request."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from trading_kit import Api, running_api

from node.api.access import AccessRules
from node.http import limits
from node.http.connection_limits import ConnectionLimits, address_group, connections_allowed

FAR = "192.0.2.1"


class Line:
    """A connection that only knows when it was cut."""

    def __init__(self) -> None:
        self.ended = False

    def cut(self) -> None:
        self.ended = True


def table(most: int = 10, per_address: int = 3, header_timeout: float = 30.0) -> ConnectionLimits:
    return ConnectionLimits(
        asyncio.get_running_loop(),
        most=most,
        per_address=per_address,
        header_timeout=header_timeout,
    )


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_addresses_of_one_client_are_one_group(address: str, group: str | None) -> None:
    assert address_group(address) == group


def test_half_of_the_files_of_the_process_are_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, allowed in ((100, 50), (10_000, 1024), (1, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections_allowed(1024) == allowed


async def test_an_address_has_so_many_connections_and_this_machine_as_many_as_there_are() -> None:
    held = table()
    lines = [Line() for _ in range(8)]
    assert [held.add(line, FAR) for line in lines[:4]] == [True] * 3 + [False]
    assert held.add(lines[4], "192.0.2.2")
    assert all(held.add(line, "127.0.0.1") for line in lines[5:])
    held.remove(lines[0])
    held.remove(lines[0])  # twice is once
    held.remove(lines[3])  # never counted
    assert [held.add(Line(), FAR) for _ in range(2)] == [True, False]
    assert (len(held), held.refused) == (7, 2)
    held.close()


async def test_a_full_server_parts_with_the_oldest_that_sent_nothing() -> None:
    held = table(most=3)
    first, second, third, fourth, fifth = (Line() for _ in range(5))
    for number, line in enumerate((first, second, third)):
        assert held.add(line, f"192.0.2.{number}")
    held.requested(first)
    assert held.add(fourth, FAR)
    assert (first.ended, second.ended, third.ended) == (False, True, False)
    held.requested(third)
    held.requested(fourth)
    assert not held.add(fifth, FAR)  # nobody to part with
    assert (len(held), held.refused) == (3, 2)
    held.remove(first)
    assert held.add(fifth, FAR)
    held.close()


@pytest.mark.looptime
async def test_connections_without_headers_are_cut_in_time() -> None:
    held = table(header_timeout=0.05)
    silent, late, served = Line(), Line(), Line()
    held.add(silent, FAR)
    held.add(served, FAR)
    held.requested(served)
    await asyncio.sleep(0.03)
    held.add(late, FAR)
    await asyncio.sleep(0.035)
    assert (silent.ended, late.ended, served.ended) == (True, False, False)
    await asyncio.sleep(0.06)
    assert (late.ended, served.ended, held.timed_out, len(held)) == (True, False, 2, 1)
    again = Line()
    held.add(again, FAR)
    await asyncio.sleep(0.1)
    assert again.ended
    held.close()


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
