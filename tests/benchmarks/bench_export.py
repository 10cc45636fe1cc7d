"""The export of a journal: rows a second into each sink, and the cost of each sink to orders.

Rows: the operations are those of the engine's benchmark, 16 to a commit; ratios are to copying the same rows into
PostgreSQL without a journal, and the notes are processor time of the exporting process. Orders: a node without sinks
and one for each kind, in turns, with pairs of orders that fill each other over HTTP; ratios are to the node without.
The servers are the system's, on this machine, and use the same cores as node, exporter and client.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg

from exchange.journal.journal import Journal
from node.annexes.export.exporter import Exporter
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.nats_messages import copy_plan, market_plan
from node.annexes.export.nats_sink import NatsSink
from node.annexes.export.postgres_sink import PostgresSink
from node.annexes.export.sink import Sink
from node.annexes.export.tables import TABLES
from tests.benchmarks.bench_journal import drains
from tests.benchmarks.export_load import SETTINGS, Load
from tests.benchmarks.report import Row
from tests.integration.processes import Nodes

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from nats_server import NatsServer, program
from postgres_server import PostgresServer, binaries

GROUP = 16
DELIVERY = 5000  # rows of one transaction
CLIENTS = 16


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and those of them that this process had a processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def copied(server: PostgresServer) -> Callable[[], None]:
    """Copying the rows of the export into tables of the same keys, without a position and a comparison."""
    with psycopg.connect(server.url, autocommit=True) as db:
        rows = {
            name: db.execute(f"SELECT * FROM exchange.{name}".encode()).fetchall()
            for name in TABLES
        }
        for name in TABLES:
            db.execute(
                f"CREATE TABLE copy_{name} (LIKE exchange.{name} INCLUDING INDEXES)".encode()
            )

    def run() -> None:
        with psycopg.connect(server.url) as db:
            for name, found in rows.items():
                for start in range(0, len(found), DELIVERY):
                    with (
                        db.cursor() as cursor,
                        cursor.copy(f"COPY copy_{name} FROM STDIN".encode()) as copy,
                    ):
                        for row in found[start : start + DELIVERY]:
                            copy.write_row(row)
                    db.commit()

    return run


class Servers:
    """The servers that are installed here, started."""

    def __init__(self) -> None:
        self.postgres = PostgresServer() if binaries() is not None else None
        self.nats = NatsServer() if program() is not None else None
        for server in self.running:
            server.start()

    @property
    def running(self) -> list[PostgresServer | NatsServer]:
        return [server for server in (self.postgres, self.nats) if server is not None]

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """Settings of a node by the name of the sink."""
        found: dict[str, dict[str, str]] = {"no sink": {}}
        if self.postgres is not None:
            found["PostgreSQL"] = {"EXPORT_POSTGRES": self.postgres.url}
        if self.nats is not None:
            found["NATS"] = {"EXPORT_NATS": self.nats.url}
        return found

    def close(self) -> None:
        for server in self.running:
            server.close()


def run(quick: bool) -> list[Row]:
    servers = Servers()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return [
                *delivered(servers, Path(scratch), quick),
                *costs(servers, Path(scratch), quick),
            ]
    finally:
        servers.close()


def delivered(servers: Servers, path: Path, quick: bool) -> list[Row]:
    """Rows a second into each sink."""
    with closing(Journal(path / "journal", sync="normal", owner="n", background=False)) as book:
        for records in drains(20_000 if quick else 200_000, GROUP):
            book.commit(records)
    found: list[tuple[str, int, float, float]] = []

    def export(what: str, connect: Callable[[], Sink]) -> None:
        exporter = Exporter(JournalSource(path / "journal"), connect, path / "export.json")
        wall, cpu = timed(lambda: exporter.run(until_current=True))
        found.append((what, exporter.rows, wall, cpu))

    peer_rate: float | None = None
    server, bus = servers.postgres, servers.nats
    if server is not None:
        export("journal to PostgreSQL", lambda: PostgresSink(server.url))
        stored = sum(server.ask(f"SELECT count(*) FROM exchange.{name}")[0][0] for name in TABLES)
        wall, cpu = timed(copied(server))
        peer_rate = stored / wall
        found.append(("copy of its last rows", stored, wall, cpu))
    if bus is not None:
        export("journal to NATS", lambda: NatsSink(bus.url, copy_plan("main"), 1 << 30))
        export("market data to NATS", lambda: NatsSink(bus.url, market_plan("main"), 1 << 30))
    return [
        Row(
            what,
            rows / wall,
            "rows/s",
            None if peer_rate is None else rows / wall / peer_rate,
            f"{cpu / rows * 1e6:.1f} us of processor a row; {rows:,} rows",
        )
        for what, rows, wall, cpu in found
    ]


def costs(servers: Servers, path: Path, quick: bool) -> list[Row]:
    """Latency, rate and processor time of orders on nodes with and without sinks."""
    nodes = Nodes(path)
    try:
        single = {
            name: Load(nodes.start(f"{number}", **SETTINGS, **settings))
            for number, (name, settings) in enumerate(servers.settings.items())
        }
        many = {name: Load(load.node) for name, load in single.items()}
        for number in range(3 if quick else 15):
            names = list(single)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                warm = Load(single[name].node)  # a processor that slept is slower at first
                warm.run(50)
                single[name].run(200)
                many[name].run(25, CLIENTS)
                single[name].settle()
        return [
            row
            for name in single
            for row in _cost_rows(
                name, single[name], many[name], single["no sink"], many["no sink"]
            )
        ]
    finally:
        nodes.cleanup()


def _cost_rows(name: str, load: Load, many: Load, plain: Load, plain_many: Load) -> list[Row]:
    p50, p99 = load.milliseconds(50), load.milliseconds(99)
    return [
        Row(f"{name}: order p50", p50, "ms", p50 / plain.milliseconds(50)),
        Row(f"{name}: order p99", p99, "ms", p99 / plain.milliseconds(99)),
        Row(f"{name}: {CLIENTS} at a time", many.rate, "orders/s", many.rate / plain_many.rate),
        Row(f"{name}: processor", load.cpu_us, "us/order", load.cpu_us / plain.cpu_us),
    ]
