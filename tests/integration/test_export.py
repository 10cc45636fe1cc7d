"""The export of journals to a real PostgreSQL: nothing lost, nothing twice, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from urllib.request import urlopen

import pytest
from postgres_server import PostgresServer
from processes import (
    ROOT,
    NodeProcess,
    Nodes,
    bootstrap_options,
    eventually,
    run_cli,
    steady_trading,
)
from sink_conformance import check_sink

from node.annexes.export import position_file, postgres_sink
from node.annexes.export.postgres_sink import PostgresSink
from node.annexes.export.sink import Delivery, Position, SinkError
from node.annexes.export.tables import Row
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


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresServer:
    postgres.execute("DROP SCHEMA IF EXISTS exchange CASCADE")
    return postgres


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
    names = {name for (name,) in found if not re.search(r"_\d{4}_\d\d$", name)} - {"migrations"}
    assert not [name for name in sorted(names) if f"`{name}`" not in DOCUMENT]


def test_postgres_conforms(database: PostgresServer) -> None:
    check_sink(lambda: PostgresSink(database.url))


def posting(number: int, month: int, balance: int, holder: str = "account:1") -> Row:
    """A line of the ledger of 2026."""
    moment = datetime(2026, month, 15, tzinfo=UTC)
    amounts = (Decimal(1), Decimal(balance))
    return ("n", number, 0, holder, "USD", *amounts, moment, "deposit", "", number)


def parts(database: PostgresServer) -> list[str]:
    found = database.ask(
        "SELECT relname FROM pg_class WHERE relname ~ '^postings_(2|rest)' AND relkind = 'r' ORDER BY 1"
    )
    return [name for (name,) in found]


def test_rows_of_an_earlier_version_are_split_by_month(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = (*posting(3, 1, 3)[:7], datetime(2999, 1, 1, tzinfo=UTC), *posting(3, 1, 3)[8:])
    rows = [posting(1, 1, 1), posting(2, 2, 2), far]
    with monkeypatch.context() as earlier:
        earlier.setattr(postgres_sink, "MIGRATIONS", postgres_sink.EARLIER)
        earlier.setattr(PostgresSink, "_prune", lambda self: None)
        earlier.setattr(PostgresSink, "_dated", lambda self, table, rows: rows)
        sink = PostgresSink(database.url)
        sink.deliver(Delivery("n", None, Position(1), {"postings": rows}))
        sink.close()
    sink = PostgresSink(database.url)
    with sink.moment("n") as position:
        assert position == Position(1)
        assert sorted(sink.rows("postings", "n"), key=str) == sorted(rows, key=str)
    sink.close()
    assert parts(database) == ["postings_2026_01", "postings_2026_02", "postings_rest"]


def test_old_months_are_dropped_and_balances_stay(database: PostgresServer) -> None:
    rows = [posting(n, n, n) for n in range(1, 7)]
    rows += [posting(7, 1, 70, "account:2"), posting(8, 2, 80, "account:2")]
    sink = PostgresSink(database.url)
    sink.deliver(Delivery("n", None, Position(1), {"postings": rows}))
    balances = database.ask("SELECT holder, balance FROM exchange.balances ORDER BY 1")
    sink.close()
    days = (datetime.now(UTC) - datetime(2026, 4, 2, tzinfo=UTC)).days
    sink = PostgresSink(database.url, keep_days=days)
    assert parts(database) == [f"postings_2026_0{n}" for n in (4, 5, 6)] + ["postings_rest"]
    assert sink.kept_from("postings") == datetime(2026, 4, 1, tzinfo=UTC)
    assert database.ask("SELECT holder, balance FROM exchange.balances ORDER BY 1") == balances
    # Rows of dropped months that come again are balances alone.
    sink.forget("n")
    sink.deliver(Delivery("n", None, Position(1), {"postings": rows}))
    assert database.ask("SELECT holder, balance FROM exchange.balances ORDER BY 1") == balances
    assert database.ask("SELECT count(*) FROM exchange.postings") == [(3,)]
    assert len(parts(database)) == 4
    sink.close()


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


def test_a_node_trades_while_its_database_is_away_and_reports_it(
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
    """Processor time an order is within a twentieth of that of a node without a database, in the same rounds."""
    exporting, plain = (
        nodes.make(name, **SETTINGS, **more).start()
        for name, more in (("a", {"EXPORT_POSTGRES": database.url}), ("b", {}))
    )

    def measure(seconds: float) -> tuple[Load, Load]:
        loads = Load(exporting), Load(plain)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            loads = loads[::-1]  # which one comes first after a pause
            for load in loads:
                load.run(50)
            time.sleep(0.7)
        return (loads[0], loads[1]) if loads[0].node is exporting else (loads[1], loads[0])

    measure(5)
    before = measure(60 * AWAY_MINUTES / 4)
    eventually(lambda: current(exporting), 60, what=lambda: exporting.log)
    rows = exporting.status().exports[0].rows
    database.stop()
    away = measure(60 * AWAY_MINUTES)
    assert exporting.status().exports[0].state == "away"
    database.start()
    eventually(lambda: exporting.status().exports[0].rows > rows, 60)
    rows, begun = exporting.status().exports[0].rows, time.monotonic()
    eventually(lambda: current(exporting), 300, what=lambda: exporting.log)
    took = time.monotonic() - begun
    for when, (load, other) in (("before", before), ("away", away)):
        print(
            f"{when}: {load.cpu_us:.0f} us an order, {load.cpu_us / other.cpu_us:.3f} of a node without; "
            f"p50 {load.milliseconds(50):.2f} ms, p99 {load.milliseconds(99):.2f} ms; without "
            f"{other.milliseconds(50):.2f} and {other.milliseconds(99):.2f}; {load.orders} orders"
        )
    rows = exporting.status().exports[0].rows - rows
    print(f"caught up: {rows:,} rows, in {took:.1f} s, {rows / took:,.0f} rows/s")
    ratio = [load.cpu_us / other.cpu_us for load, other in (before, away)]
    print(f"processor an order, away to before: {ratio[1] / ratio[0]:.3f}")
    # Not to the time before: with the exporter at work an order costs less than without, 0.92 of it.
    assert ratio[1] < 1.05
    assert export(exporting, "verify", url=database.url)["ok"] is True


@pytest.mark.timeout(600)
def test_rows_equal_the_journal_after_kills_of_node_database_and_export(
    nodes: Nodes, database: PostgresServer
) -> None:
    rng = random.Random(5)
    a = nodes.make("a", EXPORT_POSTGRES=database.url).start()
    with steady_trading(a):
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
    eventually(lambda: current(a), 60, what=lambda: a.log)
    report = export(a, "verify", url=database.url)
    assert report.get("ok") is True, report
    assert database.ask("SELECT count(*) FROM exchange.fills") == [(len(a.fills()),)]
    assert database.ask("SELECT count(*) FROM exchange.gaps") == [(0,)]
    assert a.fills()
