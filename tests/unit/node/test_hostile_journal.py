"""A journal of an earlier version with hostile texts of other nodes: every reader goes on, with the honest rows around them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from memory_sink import MemoryDatabase

from config import Settings, load
from exchange.feeds.feed import Feed, Writer
from exchange.journal.journal import Journal
from exchange.journal.journal_reader import JournalReader
from exchange.journal.verification import verify
from exchange.model.events import BUY, SELL, Closed, Event, Filled, Opened, Snapshot
from exchange.model.instruments import instrument_of
from exchange.model.records import Decision, GiveUpFeed, Order, PutBatch, PutSnapshot, Record
from node.annexes.export.exporter import Exporter
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.nats_messages import copy_plan, market_plan
from node.annexes.export.rows import RowBuilder
from node.annexes.export.sink import Delivery, Position
from node.cli.main import cli
from node.daemon.library import open_node
from node.daemon.node_keys import Checking, NodeKeys
from node.streams.node_messages import NODE_CHANNELS
from p2p.base.identity import Identity

INSTRUMENT = instrument_of("BTC-USD@0.1/0.00001")
M = INSTRUMENT.key
NETWORK = "hostile"
TIME = 1_790_000_000_000_000
HOSTILE = ("a\0b", "a\rb", "a\nb", "\x1b[2J", "\x9b2J", "\u202ea", "<img src=x>", "*", "a b")
BEFORE, AFTER = "1111.1", "2222.2"  # prices of honest orders and trades around the hostile records


class Stranger:
    """An owner that signs anything."""

    def __init__(self, number: int) -> None:
        keys = NodeKeys(Identity.from_seed(bytes([number]) * 32))
        self.id = keys.node_id
        self._writer = Writer(Feed(self.id, M), keys, NETWORK)

    def put(self, *events: Event) -> PutBatch:
        for event in events:
            self._writer.append(event)
        (batch,) = self._writer.flush()
        return PutBatch(self.id, batch)


def opened(price: str, order: int = 1) -> Opened:
    return Opened(order, SELL, INSTRUMENT.to_ticks(price), 5, TIME)


def traded(price: str, take: int, *, taker: str = "taker", time: int = TIME) -> Filled:
    return Filled(1, SELL, 5, INSTRUMENT.to_ticks(price), 0, 0, taker, take, time)


def honest(number: int, price: str) -> list[Record]:
    """An own order, and a trade of others."""
    order = Order(number, M, BUY, INSTRUMENT.to_ticks(price), 10, TIME, cancelled=True, done=True)
    return [order, Stranger(number).put(opened(price), traded(price, number))]


def hostile() -> Iterator[Record]:
    for number, text in enumerate(HOSTILE):
        yield Decision(Stranger(1).id, number + 1, text, 1, 100, 0, TIME, 4, "gone")
        for event in (traded("30000", number + 100, taker=text), Closed(1, text)):
            owner = Stranger(20 + 2 * number + isinstance(event, Closed))
            yield owner.put(opened("30000"))
            yield owner.put(event)
            yield owner.put(opened("30001", 2))  # follows the batch that is set aside
    owner = Stranger(8)
    batch = owner.put(opened("30000"), Closed(1, HOSTILE[3])).batch
    yield GiveUpFeed(owner.id, M, "its owner is absent", batch)
    owner = Stranger(7)
    batch = owner.put(opened("30000"), Closed(1, HOSTILE[3])).batch
    yield PutSnapshot(owner.id, M, Snapshot(batch, b"h" * 32, [b"page"]))
    yield owner.put(opened("30001", 2))
    yield Stranger(9).put(opened("30000"), traded("30000", 7, time=2**62 - 1))


ASIDE = 3 * len(HOSTILE) + 2


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a data directory whose journal has hostile records between honest ones."""
    options = {"data_dir": tmp_path, "p2p_host": "127.0.0.1", "p2p_port": 0, "api_port": 0}
    options |= {"discovery_mdns": False, "p2p_network": NETWORK, "journal_sync": "normal"}
    found = load(options).settings
    identity = Identity.from_seed(b"n" * 32)
    identity.save(found.key_path)
    with closing(Journal(found.journal_path, owner=identity.node_id, background=False)) as journal:
        for records in (honest(2, BEFORE), *([record] for record in hostile()), honest(3, AFTER)):
            journal.commit(records)
    return found


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def check(reader: str, shown: str) -> None:
    """Check that a reader shows the honest prices and nothing of the hostile texts."""
    for line in shown.splitlines():
        assert line.isprintable(), (reader, line)
        if line[:1] in ("{", "["):
            for text in texts(json.loads(line)):
                assert text.isprintable(), (reader, text)
    assert "<img" not in shown, reader


def exported(settings: Settings) -> str:
    database = MemoryDatabase()
    source = JournalSource(settings.journal_path, settings.data_dir)
    export = Exporter(source, database.connect, settings.data_dir / "export.json")
    export.run(until_current=True)
    return "\n".join(json.dumps(row, default=str) for row in rows_of(database))


def rows_of(database: MemoryDatabase) -> list[Any]:
    return [row for table in database.tables.values() for row in table.values()]


def published(settings: Settings) -> str:
    """Messages of both streams of the bus."""
    source = JournalSource(settings.journal_path, settings.data_dir)
    lines = []
    for plan in (copy_plan(NETWORK), market_plan(NETWORK)):
        rows = RowBuilder(source.owner, {}, plan.tables, versions=True)
        with JournalReader(settings.journal_path) as reader:
            for frame in reader.frames(0, None):
                rows.add(frame.number, frame.records())
        delivery = Delivery(source.owner, None, Position(1), rows.take())
        messages, aside = plan.messages(delivery, frozenset())
        assert not aside
        assert rows.set_aside()
        lines += [
            f"{message.subject} {message.id}\n{message.data.decode()}" for message in messages
        ]
    return "\n".join(lines)


def command(*words: str) -> Callable[[Settings], str]:
    def run(settings: Settings) -> str:
        given = [*words, "--data-dir", str(settings.data_dir)]
        done = CliRunner().invoke(cli, given, env={"P2P_NETWORK": NETWORK})
        assert done.exit_code == 0, done.output
        return done.output

    return run


READERS: dict[str, Callable[[Settings], str]] = {
    "database": exported,
    "bus": published,
    "export": command("journal", "export"),
    "verify": command("journal", "verify"),
    "repair": command("journal", "repair"),
    "backup": command("backup", "copy"),
}
TRADES = ("database", "bus", "export")  # readers that show orders or trades


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_the_journal_has_the_honest_rows_and_nothing_else(
    settings: Settings, reader: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.chdir(settings.data_dir)
    shown = READERS[reader](settings)
    check(reader, shown)
    check("log", caplog.text)
    if reader in TRADES:
        assert BEFORE in shown
        assert AFTER in shown
    if reader == "verify":
        assert f"{ASIDE} records are set aside" in shown


PAGES = (
    *("/v1/trades?market=BTC-USD", "/v1/candles/BTC-USD?timeframe=1m", "/v1/orders?open=false"),
    *(
        "/v2/trades/tBTCUSD/hist",
        "/v2/candles/trade:1m:tBTCUSD/hist",
    ),  # these have the honest prices
    *("/v1/status", "/v1/feeds", "/v1/peers", "/v1/diagnostics", "/v1/topology", "/v1/markets"),
    *("/v1/book/BTC-USD", "/v1/router", "/v1/services", "/v1/fills", "/v1/postings", "/v1/halts"),
    *("/v1/positions", "/v1/obligations", "/v1/credit", "/metrics", "/"),
    *("/v2/book/tBTCUSD/P0", "/v2/tickers?symbols=ALL"),
)
SUBSCRIPTIONS = {
    "/v1/stream": [
        {"op": "subscribe", "channel": "trades", "market": "BTC-USD"},
        *({"op": "subscribe", "channel": name} for name in NODE_CHANNELS),
    ],
    "/ws/2": [{"event": "subscribe", "channel": "trades", "symbol": "tBTCUSD"}],
}
COMMANDS = (
    *(("status",), ("peers",), ("trades", "BTC-USD", "--public"), ("book", "BTC-USD"), ("orders",)),
    *(("markets",), ("candles", "BTC-USD"), ("services",), ("router",)),
)


async def streamed(session: aiohttp.ClientSession, url: str, messages: list[Any]) -> list[str]:
    """Answers to subscriptions, until nothing more comes."""
    found = []
    async with session.ws_connect(url) as socket:
        for message in messages:
            await socket.send_json(message)
        with suppress(TimeoutError):
            while True:
                found.append(str((await socket.receive(timeout=0.3)).data))
    return found


async def test_a_node_with_such_a_journal_shows_the_honest_rows_and_nothing_else(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(settings.data_dir)
    async with open_node(settings) as node, aiohttp.ClientSession() as session:
        assert f"{ASIDE} records of the journal are set aside" in node.warnings.own[0]
        for path in PAGES:
            async with session.get(node.api.url + path) as answer:
                shown = await answer.text()
                assert answer.status == 200, (path, shown)
            check(path, shown)
            if path in PAGES[:5]:
                assert BEFORE in shown, path
                assert AFTER in shown, path
        for path, messages in SUBSCRIPTIONS.items():
            shown = "\n".join(await streamed(session, node.api.url + path, messages))
            check(path, shown)
            assert BEFORE in shown, path
            assert AFTER in shown, path
        for words in COMMANDS:
            check(" ".join(words), await asyncio.to_thread(command(*words), settings))
    check("log", caplog.text)
    checks = verify(settings.journal_path, Checking(), NETWORK, node.node_id)
    assert [found.text for found in checks if not found.ok] == []
    with closing(Journal(settings.journal_path, owner=node.node_id, background=False)) as journal:
        assert len(journal.recover().decisions) == 0
