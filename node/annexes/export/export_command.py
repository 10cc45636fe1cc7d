"""`export`: copies of the journal in a database or on a bus outside."""

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
    from node.annexes.export.exporter import Exporter
    from node.annexes.export.settings import ExportSettings
    from node.annexes.export.verification import TableReport
    from node.views.node_views import SinkName


SINKS = ("postgres", "nats-copy", "nats-market")


@common_options
@click.group(cls=Group, short_help="Copy the journal into a database or onto a bus.")
def export() -> None:
    """Copy what the journal holds into PostgreSQL or onto NATS, and compare both.

    With EXPORT_POSTGRES or EXPORT_NATS a running node does this by itself. docs/export.md describes the tables,
    docs/bus.md the messages.

    \b
    Examples:
      EXPORT_POSTGRES=postgresql://desk@127.0.0.1/desk exchange-node start
      exchange-node export status
      exchange-node export verify
    """


_sink_option = click.option(
    "--sink",
    type=click.Choice(SINKS),
    help="One of several sinks: the database, the copy on the bus, the market data on the bus.",
)


def _exporter(
    settings: ExportSettings,
    sink: SinkName,
    advance: Callable[[float], None] = lambda part: None,
    traceparent: Callable[[int], str] = lambda order: "",
) -> Exporter:
    from node.annexes.export.exporter import Exporter
    from node.annexes.export.sinks import connect, journal_source, progress_path

    return Exporter(
        journal_source(settings),
        lambda: connect(settings, sink, traceparent),
        progress_path(settings, sink),
        advance=advance,
    )


def _chosen(settings: ExportSettings, sink: SinkName | None) -> SinkName:
    """Return the sink that a command is for."""
    from node.annexes.export.sinks import KINDS, configured

    found = configured(settings)
    if sink is None:
        return found[0]
    if sink not in found:
        text = f"{KINDS[sink].setting} is empty: --sink {sink} needs its address"
        raise CommandFailure(text, Exit.USAGE)
    return sink


@contextmanager
def _reported(settings: Settings, as_json: bool) -> Iterator[ExportSettings]:
    """End the command with a one-line message for errors of the export."""
    from node.annexes.export.settings import ExportSettings
    from node.annexes.export.sinks import configured, missing_package

    own = settings.of(ExportSettings)
    if not configured(own):
        text = (
            "EXPORT_POSTGRES and EXPORT_NATS are empty: set one to an address such as "
            "postgresql://user@host/database or nats://host:4222"
        )
        raise CommandFailure(text, Exit.USAGE)
    if missing := missing_package(own):
        raise CommandFailure(missing, Exit.USAGE)
    from node.annexes.export.exporter import Diverged
    from node.annexes.export.sink import SinkError

    with explained(as_json):
        try:
            yield own
        except (SinkError, Diverged) as error:
            document = {"code": "failed", "detail": str(error)} if as_json else None
            raise CommandFailure(str(error), Exit.REFUSED, document=document) from None


@export.command()
@click.option("--until-eof", is_flag=True, hidden=True, help="End with the standard input.")
@_sink_option
@data_options
def run(until_eof: bool, sink: SinkName | None, settings: Settings, as_json: bool) -> None:
    """Copy the journal until Ctrl-C; for a node that was started without this sink.

    A sink that does not answer is waited for. What it got before is not sent again.

    \b
    Examples:
      EXPORT_POSTGRES=postgresql://desk@127.0.0.1/desk exchange-node export run
      EXPORT_NATS=nats://127.0.0.1:4222 exchange-node export run --sink nats-market
    """
    from node.daemon.process import configure_logging

    configure_logging(settings)
    with _reported(settings, as_json) as own:
        from node.annexes.export.order_traces import OrderTraces

        name = _chosen(own, sink)
        traces = OrderTraces()
        exporter = _exporter(own, name, traceparent=traces.of)
        for number in (signal.SIGINT, signal.SIGTERM):
            # With the node's standard input open, its end decides: Ctrl-C goes to the whole terminal.
            signal.signal(number, (lambda *_: None) if until_eof else (lambda *_: exporter.stop()))
        if until_eof:
            market = name == "nats-market"
            take = _ticker_publisher(own, exporter) if market else traces.feed
            threading.Thread(target=_await_end, args=(exporter.stop, take), daemon=True).start()
        exporter.run()
    if not until_eof:
        click.echo(f"stopped; {exporter.rows:,} rows delivered")


def _ticker_publisher(settings: ExportSettings, exporter: Exporter) -> Callable[[bytes], None]:
    from node.annexes.export.nats_tickers import TickerPublisher

    return TickerPublisher(settings.export_nats, settings.p2p_network, exporter.source.owner).feed


def _await_end(stop: Callable[[], None], take: Callable[[bytes], None]) -> None:
    # Not through a buffer, whose lock would outlive the main thread.
    while data := os.read(sys.stdin.fileno(), 65536):
        take(data)
    stop()


@export.command()
@data_options
def status(settings: Settings, as_json: bool) -> None:
    """Show how far each sink is. The node may be running.

    \b
    Examples:
      exchange-node export status
      exchange-node export status --json
    """
    with _reported(settings, as_json) as own:
        from node.annexes.export.sinks import configured, connect, journal_source

        source = journal_source(own)
        positions = []
        for name in configured(own):
            sink = connect(own, name)
            try:
                positions.append((name, sink.position(source.owner)))
            finally:
                sink.close()
        last = source.last
    sinks = [
        {
            "sink": name,
            "position": 0 if position is None else position.frame,
            "behind": last - (0 if position is None else position.frame),
            "catching_up": position is not None and position.catch_up is not None,
        }
        for name, position in positions
    ]
    if as_json:
        print_json({"node_id": source.owner, "last": last, "sinks": sinks})
        return
    click.echo(f"node     {source.owner}")
    click.echo(f"journal  up to commit {last:,}")
    rows: list[list[Cell]] = [
        [str(found["sink"]), f"{found['position']:,}", f"{found['behind']:,}"] for found in sinks
    ]
    columns = [Column("sink"), Column("up to commit", number=True), Column("behind", number=True)]
    echo(table(columns, rows))


@export.command()
@click.option("--replace", is_flag=True, help="Delete what the sink has of this node first.")
@_sink_option
@data_options
def backfill(replace: bool, sink: SinkName | None, settings: Settings, as_json: bool) -> None:
    """Copy what a sink lacks, then end.

    The journal's archive has orders, fills and postings from the beginning; decisions and public trades begin with the
    oldest commit of the log. A node that exports by itself must not be running.

    \b
    Examples:
      exchange-node export backfill
      exchange-node export backfill --replace      after a restore or a repair of the journal
    """
    with _reported(settings, as_json) as own, Progress("export") as progress:
        from node.annexes.export.sinks import connect

        name = _chosen(own, sink)
        exporter = _exporter(own, name, progress.update)
        if replace:
            opened = connect(own, name)
            try:
                opened.forget(exporter.source.owner)
            finally:
                opened.close()
        exporter.run(until_current=True)
    if as_json:
        print_json({"node_id": exporter.source.owner, "rows": exporter.rows})
        return
    click.echo(f"{exporter.rows:,} rows delivered; {name} has everything")


@export.command()
@_sink_option
@data_options
def verify(sink: SinkName | None, settings: Settings, as_json: bool) -> int:
    """Compare journal and sink row by row. The node may be running.

    Compared is what the sink has at one moment with the journal up to the same commit. Exit code 1 if they differ. A
    stream of NATS that has dropped its oldest messages lacks their rows.

    \b
    Examples:
      exchange-node export verify
      exchange-node export verify --json
    """
    with _reported(settings, as_json) as own, Progress("verify") as progress:
        from node.annexes.export.sinks import connect, journal_source
        from node.annexes.export.verification import verify as compare

        opened = connect(own, _chosen(own, sink))
        try:
            report = compare(journal_source(own), opened, progress.update)
        finally:
            opened.close()
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
            ("not in the sink:", found.missing),
            ("only in the sink:", found.extra),
            ("different:", found.different),
        )
        if keys
    ]
    return "; ".join(parts)
