"""The export of journals to a real PostgreSQL: nothing lost, nothing twice, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from urllib.request import urlopen

import pytest
from postgres_server import PostgresServer, binaries
from processes import ROOT, NodeProcess, Nodes, bootstrap_options, eventually, run_cli
from sink_conformance import check_sink

from node.client.exchange_client import ClientError
from node.export import position_file
from node.export.postgres_sink import PostgresSink
from node.export.sink import SinkError
from tests.benchmarks.export_load import SETTINGS, Load

DOCUMENT = (ROOT / "docs" / "export.md").read_text("utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
AWAY_MINUTES = float(os.environ.get("AWAY_MINUTES", "10"))
KILLS = 50 if os.environ.get("LONG_TESTS") else 6


def panels() -> list[tuple[str, str]]:
    """Titles and statements of the board, with what Grafana puts in place of its words."""
    board = json.loads((ROOT / "deploy" / "grafana-desk.json").read_text("utf-8"))
    found = [
        (panel["title"], target["rawSql"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
    found += [(v["name"], v["query"]) for v in board["templating"]["list"] if v["type"] == "query"]
    words = {
        "$__timeFrom()": "now() - interval '1 day'",
        "$__timeTo()": "now()",
        "$market": "TEST-USD",
        "$length": "15 minutes",
    }
    for word, text in words.items():
        found = [(title, sql.replace(word, text)) for title, sql in found]
    between = r"\1 BETWEEN now() - interval '1 day' AND now()"
    return [(title, re.sub(r"\$__timeFilter\((\w+)\)", between, sql)) for title, sql in found]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    found = PostgresServer()
    found.start()
    yield found
    found.close()


@pytest.fixture
def database(server: PostgresServer) -> PostgresServer:
    server.execute("DROP SCHEMA IF EXISTS exchange CASCADE")
    return server


def export(node: NodeProcess, *arguments: str, url: str) -> dict[str, object]:
    done = run_cli(
        *("export", *arguments, "--data-dir", str(node.data_dir), "--json"), EXPORT_POSTGRES=url
    )
    assert done.stdout, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def current(node: NodeProcess) -> bool:
    views = node.status().exports
    return bool(views) and all(view.state == "running" and view.behind == 0 for view in views)


def test_the_document_has_queries_and_every_table_and_view(database: PostgresServer) -> None:
    assert len(QUERIES) > 5
    PostgresSink(database.url).close()
    found = database.ask(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'exchange'"
    )
    names = {name for (name,) in found} - {"migrations"}
    assert not [name for name in sorted(names) if f"`{name}`" not in DOCUMENT]


def test_postgres_conforms(database: PostgresServer) -> None:
    check_sink(lambda: PostgresSink(database.url))


def test_a_database_that_refuses_is_explained_without_the_password(
    database: PostgresServer,
) -> None:
    url = f"postgresql://desk:hidden-word@127.0.0.1:{database.port}/nowhere"
    with pytest.raises(SinkError, match='database "nowhere" does not exist') as refused:
        PostgresSink(url)
    assert "hidden-word" not in str(refused.value)


def test_two_nodes_in_one_database_and_their_trades_counted_once(
    nodes: Nodes, database: PostgresServer
) -> None:
    a = nodes.make("a", EXPORT_POSTGRES=database.url).start()
    b = nodes.make("b", EXPORT_POSTGRES=database.url).start(*bootstrap_options(a.p2p_address))
    eventually(lambda: b.node_id in a.linked())
    order = a.sell(10, 100)
    eventually(lambda: b.asks() == {"100": "10"})
    b.buy(4, 100)
    b.buy(5, 90)
    eventually(lambda: a.get_order(order.id).filled == "4")
    for node in (a, b):
        eventually(lambda node=node: current(node), what=lambda: a.log + b.log)
        assert export(node, "verify", url=database.url)["ok"] is True
    assert database.ask(
        "SELECT market, quantity, side, maker, internal FROM exchange.own_trades"
    ) == [("TEST-USD", Decimal(4), "buy", a.node_id, True)]
    assert database.ask("SELECT count(*) FROM exchange.fills") == [(2,)]
    assert database.ask("SELECT sum(quantity) FROM exchange.public_trades") == [(Decimal(4),)]
    owed = database.ask(
        "SELECT node, peer, asset, owed, own FROM exchange.peer_positions ORDER BY 1, 3"
    )
    assert sorted(owed) == sorted(
        [
            (a.node_id, b.node_id, "TEST", Decimal(4), True),
            (a.node_id, b.node_id, "USD", Decimal(-400), True),
            (b.node_id, a.node_id, "TEST", Decimal(-4), True),
            (b.node_id, a.node_id, "USD", Decimal(400), True),
        ]
    )
    assert database.ask("SELECT * FROM exchange.obligations") == []
    for query in QUERIES:
        database.ask(query)
    candles = database.ask("SELECT open, close, volume FROM exchange.candles('TEST-USD', '1 day')")
    assert candles == [(Decimal(100), Decimal(100), Decimal(4))]
    later = "SELECT * FROM exchange.candles('TEST-USD', '1 minute', now() + interval '1 hour')"
    assert database.ask(later) == []
    settled = run_cli(
        *("ledger", "settle", a.node_id, "paid", "400", "USD", "--data-dir", str(b.data_dir))
    )
    assert settled.returncode == 0, settled.stderr
    found = "SELECT node, peer, asset, amount, owed FROM exchange.settlements"
    paid = (b.node_id, a.node_id, "USD", Decimal(-400), Decimal(0))
    eventually(lambda: database.ask(found) == [paid], what=lambda: database.ask(found))
    for title, sql in panels():
        rows = database.ask(sql)
        if title in ("$market", "Volume by day", "Settlements", "Positions by node", "Copies"):
            assert rows, title


def test_a_node_trades_while_its_database_is_away_and_says_so(
    nodes: Nodes, database: PostgresServer
) -> None:
    database.stop()
    try:
        a = nodes.make("a", EXPORT_POSTGRES=database.url).start()
        a.sell(5, 100)
        assert a.buy(5, 100).status == "filled"
        away = eventually(lambda: [w for w in a.status().warnings if w.startswith("export: ")])
        assert "PostgreSQL" in away[0]
        with urlopen(f"{a.api_url}/metrics", timeout=10) as answer:
            assert 'exchange_node_export_up{sink="postgres"} 0.0' in answer.read().decode()
    finally:
        database.start()
    eventually(lambda: current(a), what=lambda: a.log)
    assert a.status().warnings == []
    assert export(a, "verify", url=database.url)["ok"] is True
    assert a.stop() == 0


def test_another_copy_of_the_journal_is_refused_until_it_replaces_the_rows(
    nodes: Nodes, database: PostgresServer
) -> None:
    a = nodes.make("a").start()
    a.sell(5, 100)
    a.buy(5, 100)
    document = export(a, "backfill", url=database.url)
    assert document["rows"] > 0
    a.stop()
    database.execute("UPDATE exchange.positions SET checksum = checksum + 1")
    done = run_cli(
        "export", "backfill", "--data-dir", str(a.data_dir), EXPORT_POSTGRES=database.url
    )
    assert done.returncode == 1
    assert "--replace" in done.stderr
    assert export(a, "backfill", "--replace", url=database.url)["rows"] == document["rows"]
    assert export(a, "verify", url=database.url)["ok"] is True


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_an_order_costs_the_same_while_the_database_is_away(
    nodes: Nodes, database: PostgresServer
) -> None:
    """Processor time an order, beside that of a node without a database in the same rounds."""
    exporting, plain = (
        nodes.make(name, **SETTINGS, **more).start()
        for name, more in (("a", {"EXPORT_POSTGRES": database.url}), ("b", {}))
    )

    def measure(seconds: float) -> tuple[Load, Load]:
        loads = Load(exporting), Load(plain)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for load in loads:
                load.run(50)
            time.sleep(1.0)
        return loads

    measure(5)
    before = measure(60 * AWAY_MINUTES / 10)
    eventually(lambda: current(exporting), 60, what=lambda: exporting.log)
    rows = exporting.status().exports[0].rows
    database.stop()
    away = measure(60 * AWAY_MINUTES)
    assert exporting.status().exports[0].state == "away"
    database.start()
    begun = time.monotonic()
    eventually(lambda: current(exporting), 300, what=lambda: exporting.log)
    took = time.monotonic() - begun
    for when, (load, other) in (("before", before), ("away", away)):
        print(
            f"{when}: {load.cpu_us:.0f} us an order, {load.cpu_us / other.cpu_us:.3f} of a node without; "
            f"p50 {load.milliseconds(50):.2f} ms, p99 {load.milliseconds(99):.2f} ms; without "
            f"{other.milliseconds(50):.2f} and {other.milliseconds(99):.2f}; {load.orders} orders"
        )
    rows = exporting.status().exports[0].rows - rows
    print(f"caught up: {rows:,} rows, {took:.1f} s after the start, {rows / took:,.0f} rows/s")
    ratio = [load.cpu_us / other.cpu_us for load, other in (before, away)]
    print(f"processor an order, away to before: {ratio[1] / ratio[0]:.3f}")
    assert ratio[1] / ratio[0] < 1.05
    assert export(exporting, "verify", url=database.url)["ok"] is True


@pytest.mark.timeout(600)
def test_rows_equal_the_journal_after_kills_of_node_database_and_export(
    nodes: Nodes, database: PostgresServer
) -> None:
    rng = random.Random(5)
    a = nodes.make("a", EXPORT_POSTGRES=database.url).start()
    over = threading.Event()

    def trade() -> None:
        number = 0
        while not over.is_set():
            with suppress(ClientError):
                price = 100 + number % 7
                a.sell(2, price, client_id=f"s{number}")
                a.buy(2, price, client_id=f"b{number}")
                number += 1

    trading = threading.Thread(target=trade)
    trading.start()
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.1, 1.5))
            target = rng.choice(["node", "database", "export"])
            if target == "node":
                a.kill9()
                a.restart()
            elif target == "database":
                database.kill()
                time.sleep(rng.uniform(0.0, 0.5))
                database.start()
            else:
                progress = position_file.read(a.data_dir / "export.json")
                if progress is not None:
                    with suppress(ProcessLookupError):
                        os.kill(progress.process, signal.SIGKILL)
    finally:
        over.set()
        trading.join()
    eventually(lambda: current(a), 60, what=lambda: a.log)
    report = export(a, "verify", url=database.url)
    assert report.get("ok") is True, report
    assert database.ask("SELECT count(*) FROM exchange.fills") == [(len(a.fills()),)]
    assert database.ask("SELECT count(*) FROM exchange.gaps") == [(0,)]
    assert a.fills()
