"""A short soak on every run, and what shows that the soak would notice."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from tests.soak.__main__ import soak
from tests.soak.grapes import as_seen
from tests.soak.links import HOST, Link, Ports, can_be_used, host_of
from tests.soak.told import Record, State, ToldFill, Wish
from tests.soak.world import Plan

pytestmark = pytest.mark.skipif(not can_be_used(), reason="there are no addresses 127.77.x.y")
STORM = 8.0  # seconds
SEED = 0  # its first fault of a process is a kill


async def test_acknowledgements_hold_through_kills_and_cuts(tmp_path: Path) -> None:
    plan = Plan(tmp_path, STORM, seed=SEED, intensity=3.0, mode="hybrid")
    report = await soak(plan, verbose=False, progress=False)
    text = "\n".join([*report.lines(), f"journals and logs: {tmp_path}"])
    assert report.ok, text
    assert report.faults["kill -9"], text
    assert report.faults.total() > 1, text
    assert report.checked["orders told"] > 100, text
    assert report.checked["fills told"] > 50, text
    assert report.checked["statements"] == 20, text
    assert report.checked["links over grenache"] == 8, text  # of the last node
    assert report.checked["certificates"] == 1, text
    assert all(counts["bots over TLS"] for counts in report.apis.values()), text


class Echo:
    """A server that says everything again, and who dialled it."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        while data := await reader.read(100):
            writer.write(data)
        writer.close()


async def test_a_link_carries_stalls_and_cuts() -> None:
    echo = Echo()
    server = await asyncio.start_server(echo, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    link = Link((0, 1), ({"tcp": port}, {"tcp": port}))
    await link.open()
    try:
        reader, writer = await asyncio.open_connection(host_of(0, 1), port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        assert echo.peers == [host_of(1, 0)]  # where node 1 would dial node 0
        link.stall(1)
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.2)
        link.heal()
        assert await reader.readexactly(3) == b"two"
        link.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await asyncio.open_connection(host_of(0, 1), port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
    finally:
        await link.close()
        server.close()


async def test_a_link_can_lose_one_of_its_ways() -> None:
    echo = Echo()
    servers = [await asyncio.start_server(echo, HOST, 0) for _ in range(2)]
    tcp, grenache = (server.sockets[0].getsockname()[1] for server in servers)
    ports: Ports = {"tcp": tcp, "grenache": grenache}
    link = Link((0, 1), (ports, ports))
    await link.open()
    ways = [await asyncio.open_connection(host_of(0, 1), port) for port in (tcp, grenache)]
    try:
        for reader, writer in ways:
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
        assert link.carried == {"tcp": 6, "grenache": 6}
        link.cut("tcp")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ways[0][0].readexactly(1)
        ways[1][1].write(b"two")
        assert await ways[1][0].readexactly(3) == b"two"
    finally:
        for _, writer in ways:
            writer.close()
        await link.close()
        for server in servers:
            server.close()


def test_addresses_named_by_a_grape_are_replaced_by_those_of_the_links() -> None:
    found = ["127.0.0.1:5001", "127.0.0.1:5002", "127.0.0.1:5003"]
    seen = list(as_seen(1, found, {5001: 0, 5002: 1}))
    assert seen == [f"{host_of(1, 0)}:5001", "127.0.0.1:5002"]


WISH = Wish(client=7, market="TEST-USD", side="buy", quantity=Decimal(5), price=Decimal(10))


def state(filled: int, ended: bool = False, **more: object) -> State:
    fields = {"number": 1, "client": 7, "market": "TEST-USD", "side": "buy", "how": ""}
    return State(quantity=Decimal(5), filled=Decimal(filled), ended=ended, **fields | more)  # type: ignore[arg-type]


def told(*states: State) -> list[str]:
    record = Record("bot")
    record.acknowledged(WISH, states[0])
    for each in states[1:]:
        record.told(each)
    return record.faults


def test_news_may_overtake_each_other() -> None:
    assert told(state(0), state(3), state(2), state(5, True), state(4)) == []


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((state(0), state(6)), "overfilled"),
        ((state(0), state(2, True), state(3)), "filled after its end"),
        ((state(0), state(2, True), state(1, True)), "ended twice"),
        ((state(0), state(0, market="BTC-USD")), "became another one"),
        ((state(0, side="sell"),), "asked for"),
    ],
)
def test_contradictions_are_noticed(states: tuple[State, ...], words: str) -> None:
    assert any(words in fault for fault in told(*states)), words


def test_two_reports_of_a_fill_that_differ_are_found() -> None:
    record = Record("bot")
    record.told_fill(ToldFill("t:1", 1, Decimal(2), Decimal(10)))
    record.told_fill(ToldFill("t:1", 1, Decimal(2), Decimal(10)))
    assert record.faults == []
    record.told_fill(ToldFill("t:1", 1, Decimal(3), Decimal(10)))
    assert record.faults
