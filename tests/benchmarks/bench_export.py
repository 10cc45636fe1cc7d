"""The export of a journal to PostgreSQL: rows a second; ratios are to copying the same rows without a journal.

The operations are those of the engine's benchmark, 16 to a commit. The server is the system's, on this machine. The
notes are processor time of the exporting process.
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
from node.export.exporter import Exporter
from node.export.postgres_sink import PostgresSink
from node.export.tables import TABLES
from tests.benchmarks.bench_journal import drains
from tests.benchmarks.report import Row

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from postgres_server import PostgresServer, binaries

GROUP = 16
DELIVERY = 5000  # rows of one transaction


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


def run(quick: bool) -> list[Row]:
    if binaries() is None:
        return [Row("export", None, "rows/s", note="PostgreSQL is not installed")]
    server = PostgresServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch)
            with closing(
                Journal(path / "journal", sync="normal", owner="n", background=False)
            ) as book:
                for records in drains(20_000 if quick else 200_000, GROUP):
                    book.commit(records)
            exporter = Exporter(
                path / "journal", lambda: PostgresSink(server.url), path / "export.json"
            )
            wall, cpu = timed(lambda: exporter.run(until_current=True))
        stored = sum(server.ask(f"SELECT count(*) FROM exchange.{name}")[0][0] for name in TABLES)
        peer, peer_cpu = timed(copied(server))
    finally:
        server.close()
    rate, peer_rate = exporter.rows / wall, stored / peer
    return [
        Row(
            "export of a journal",
            rate,
            "rows/s",
            rate / peer_rate,
            f"{cpu / exporter.rows * 1e6:.1f} us of processor a row; {exporter.rows:,} rows, {stored:,} of them last ones",
        ),
        Row("copy of its rows", peer_rate, "rows/s", 1.0, f"{peer_cpu / stored * 1e6:.1f} us"),
    ]
