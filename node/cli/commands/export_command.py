"""`export`: the journal's copy in a database outside."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from node.cli.client_session import CommandFailure, Exit, common_options, print_json
from node.cli.command_groups import Group
from node.cli.commands.data_options import data_options, explained
from node.cli.table_layout import Cell, Column, table
from node.cli.tables import echo
from node.daemon.progress import Progress

if TYPE_CHECKING:
    from config import Settings
    from node.export.sink import Sink
    from node.export.verification import TableReport


@common_options
@click.group(cls=Group, short_help="Copy the journal into a database, and compare them.")
def export() -> None:
    """Copy what the journal holds into PostgreSQL, and compare both.

    With EXPORT_POSTGRES a running node does this by itself. docs/export.md describes the tables.

    \b
    Examples:
      EXPORT_POSTGRES=postgresql://desk@127.0.0.1/desk exchange-node start
      exchange-node export status
      exchange-node export verify
    """


def _connect(settings: Settings) -> Sink:
    """Raises `SinkError`."""
    from node.export.postgres_sink import PostgresSink

    return PostgresSink(settings.export_postgres)


@contextmanager
def _reported(settings: Settings, as_json: bool) -> Iterator[None]:
    """End the command with a one-line message for errors of the export."""
    from importlib.util import find_spec

    if not settings.export_postgres:
        text = (
            "EXPORT_POSTGRES is empty: set it to an address such as postgresql://user@host/database"
        )
        raise CommandFailure(text, Exit.USAGE)
    if find_spec("psycopg") is None:
        text = "psycopg is not installed: install exchange-node[postgres]"
        raise CommandFailure(text, Exit.USAGE)
    from node.export.exporter import Diverged
    from node.export.sink import SinkError

    with explained(as_json):
        try:
            yield
        except (SinkError, Diverged) as error:
            document = {"code": "failed", "detail": str(error)} if as_json else None
            raise CommandFailure(str(error), Exit.REFUSED, document=document) from None


@export.command()
@click.option("--until-eof", is_flag=True, hidden=True, help="End with the standard input.")
@data_options
def run(until_eof: bool, settings: Settings, as_json: bool) -> None:
    """Copy the journal until Ctrl-C; for a node without EXPORT_POSTGRES, which does it by itself.

    A database that does not answer is waited for. What it got before is not sent again.

    \b
    Examples:
      EXPORT_POSTGRES=postgresql://desk@127.0.0.1/desk exchange-node export run
    """
    from node.daemon.process import configure_logging

    configure_logging(settings)
    with _reported(settings, as_json):
        from node.export.exporter import Exporter

        exporter = Exporter(settings.journal_path, lambda: _connect(settings), settings.export_path)
        for number in (signal.SIGINT, signal.SIGTERM):
            # With the node's standard input open, its end decides: Ctrl-C goes to the whole terminal.
            signal.signal(number, (lambda *_: None) if until_eof else (lambda *_: exporter.stop()))
        if until_eof:
            threading.Thread(target=_await_end, args=(exporter.stop,), daemon=True).start()
        exporter.run()
    if not until_eof:
        click.echo(f"stopped; {exporter.rows:,} rows delivered")


def _await_end(stop: Callable[[], None]) -> None:
    while os.read(
        sys.stdin.fileno(), 1024
    ):  # not through a buffer, whose lock would outlive the main thread
        pass
    stop()


@export.command()
@data_options
def status(settings: Settings, as_json: bool) -> None:
    """Show how far the database is. The node may be running.

    \b
    Examples:
      exchange-node export status
      exchange-node export status --json
    """
    with _reported(settings, as_json):
        from node.export.journal_source import JournalSource

        source = JournalSource(settings.journal_path)
        sink = _connect(settings)
        try:
            position = sink.position(source.owner)
        finally:
            sink.close()
        last, at = source.last, 0 if position is None else position.frame
    if as_json:
        catching_up = position is not None and position.catch_up is not None
        print_json(
            {
                "node_id": source.owner,
                "position": at,
                "last": last,
                "behind": last - at,
                "catching_up": catching_up,
            }
        )
        return
    click.echo(f"node      {source.owner}")
    click.echo(f"database  up to commit {at:,}")
    click.echo(f"journal   up to commit {last:,}")
    click.echo("behind    nothing" if at >= last else f"behind    {last - at:,} commits")


@export.command()
@click.option("--replace", is_flag=True, help="Delete this node's rows in the database first.")
@data_options
def backfill(replace: bool, settings: Settings, as_json: bool) -> None:
    """Copy what the database lacks, then end.

    The journal's archive has orders, fills and postings from the beginning; decisions and public trades begin with the
    oldest commit of the log. A node that exports by itself must not be running.

    \b
    Examples:
      exchange-node export backfill
      exchange-node export backfill --replace      after a restore or a repair of the journal
    """
    with _reported(settings, as_json), Progress("export") as progress:
        from node.export.exporter import Exporter

        exporter = Exporter(
            settings.journal_path,
            lambda: _connect(settings),
            settings.export_path,
            advance=progress.update,
        )
        if replace:
            sink = _connect(settings)
            try:
                sink.forget(exporter.source.owner)
            finally:
                sink.close()
        exporter.run(until_current=True)
    if as_json:
        print_json({"node_id": exporter.source.owner, "rows": exporter.rows})
        return
    click.echo(f"{exporter.rows:,} rows delivered; the database has everything")


@export.command()
@data_options
def verify(settings: Settings, as_json: bool) -> int:
    """Compare journal and database row by row. The node may be running.

    Compared is what the database has at one moment with the journal up to the same commit. Exit code 1 if they differ.

    \b
    Examples:
      exchange-node export verify
      exchange-node export verify --json
    """
    with _reported(settings, as_json), Progress("verify") as progress:
        from node.export.journal_source import JournalSource
        from node.export.verification import Verification

        sink = _connect(settings)
        try:
            report = Verification(JournalSource(settings.journal_path), sink, progress.update).run()
        finally:
            sink.close()
    if as_json:
        tables = [{"ok": table.ok, **_fields(table)} for table in report.tables]
        print_json(
            {"ok": report.ok, "node_id": report.node, "commit": report.frame, "tables": tables}
        )
    else:
        rows: list[list[Cell]] = [
            [
                found.table,
                f"{found.rows:,}",
                ("ok", "") if found.ok else ("DIFFERS", "warn"),
                _text(found),
            ]
            for found in report.tables
        ]
        echo(table([Column("table"), Column("rows", number=True), Column(""), Column("")], rows))
        click.echo(f"up to commit {report.frame:,}")
    return Exit.OK if report.ok else Exit.REFUSED


def _fields(found: TableReport) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(found)


def _text(found: TableReport) -> str:
    parts = [
        f"{word} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        for word, keys in (
            ("not in the database:", found.missing),
            ("only in the database:", found.extra),
            ("different:", found.different),
        )
        if keys
    ]
    return "; ".join(parts)
