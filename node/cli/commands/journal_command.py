"""`journal`: verification, export and repair of a node's journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.client_session import CommandFailure, Exit, common_options, print_json
from node.cli.command_groups import Group, span_options
from node.cli.commands.data_options import data_options, explained, unused
from node.cli.table_layout import Cell, Column, table
from node.cli.tables import echo
from node.client.node_finder import data_dir_option, program
from node.daemon.progress import ByteProgress

if TYPE_CHECKING:
    from config import Settings
    from exchange.journal.repair import Repair


@common_options
@click.group(cls=Group, short_help="Verify, export or repair the journal.")
def journal() -> None:
    """Verify, export or repair the journal: orders, fills and the ledger of a node.

    \b
    Examples:
      exchange-node journal verify
      exchange-node journal export > history.jsonl
      exchange-node journal repair
    """


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*") if file.is_file())


@journal.command()
@data_options
def verify(settings: Settings, as_json: bool) -> int:
    """Check all that can be checked, without a change. The node may be running.

    Frames and checksums, the snapshot, the anchor, the archive, the sums of the ledger, the key, and
    signature and hash chain of every feed. Exit code 1 if something is wrong.

    \b
    Examples:
      exchange-node journal verify
      exchange-node journal verify --json
    """
    from exchange.journal import verification
    from node.daemon.node_keys import Checking
    from node.daemon.service_manager import credential
    from p2p.base.identity import Identity

    path = settings.journal_path
    with explained(as_json), ByteProgress("verify", _size(path)) as progress:
        key = credential("node.key") or settings.key_path
        try:
            owner = Identity.load(key).node_id if key.exists() else None
        except ValueError as error:
            raise CommandFailure(str(error), Exit.REFUSED) from None
        checks = list(
            verification.verify(path, Checking(), settings.p2p_network, owner, progress.advance)
        )
    sound = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": sound, "checks": checks})
    else:
        rows: list[list[Cell]] = [
            [check.name, ("ok", "") if check.ok else ("WRONG", "warn"), check.detail]
            for check in checks
        ]
        echo(table([Column("check"), Column(""), Column("")], rows))
    return Exit.OK if sound else Exit.REFUSED


@journal.command()
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["order", "fill", "posting", "account", "key"]),
    help="Only this kind; may be repeated.",
)
@click.option("--account", metavar="NAME", help="Only of this account, by name or number.")
@span_options
@data_options
def export(
    kinds: tuple[str, ...],
    account: str | None,
    start: str | None,
    end: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Print orders, fills, ledger postings, accounts and keys as lines of JSON.

    Each line has its kind, and the fields that the API has. Secrets of keys are left out. The node
    may be running.

    \b
    Examples:
      exchange-node journal export > history.jsonl
      exchange-node journal export --kind fill --account alice --start 2026-11-01T00:00:00Z
    """
    from node.daemon.export_lines import KINDS, ExportFilter, lines
    from node.views.timestamps import time_of

    try:
        first = 0 if start is None else time_of(start)
        last = None if end is None else time_of(end)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--start, --end") from None
    chosen = ExportFilter(frozenset(kinds or KINDS), account, first, last)
    with explained(as_json), ByteProgress("export", _size(settings.journal_path)) as progress:
        try:
            for line in lines(settings, chosen, progress.advance):
                click.echo(line)
        except LookupError as error:
            raise CommandFailure(str(error.args[0]), Exit.REFUSED) from None


@journal.command()
@click.option("--yes", is_flag=True, help="Repair; without it, only report the losses.")
@data_options
def repair(yes: bool, settings: Settings, as_json: bool) -> None:
    """Keep the intact part of a damaged journal, and report the losses.

    The damaged journal stays beside the repaired one. The node must not be running. Afterwards
    'exchange-node recover' fetches from peers what they have of the lost part.

    \b
    Examples:
      exchange-node journal repair                 what would be kept and lost
      exchange-node journal repair --yes           do it
    """
    from exchange.journal import repair as repairing
    from node.daemon.restore import Restored, mark

    path = settings.journal_path
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with (
        explained(as_json),
        unused(settings.data_dir, as_json),
        ByteProgress("repair", _size(path)) as progress,
    ):
        report = repairing.examine(path)
        if yes and (report.damage or report.notes):
            aside = path.with_name(f"{path.name}.damaged-{now}")
            if report.lost or report.damage:
                reason = f"its journal was repaired at {now} and ends at commit {report.kept:,}"
                mark(settings.data_dir, Restored(reason, report.kept, now))
            report = repairing.repair(path, aside, owner="", advance=progress.advance)
    if as_json:
        print_json({"repaired": bool(report.original), "lost": report.lost, **_fields(report)})
        return
    _print_report(report, settings)


def _fields(report: Repair) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(report)
    return fields


def _print_report(report: Repair, settings: Settings) -> None:
    if not report.damage and not report.notes:
        click.echo(f"The journal is whole up to commit {report.kept:,}: nothing to repair.")
        return
    if report.damage:
        click.echo(f"damage    {report.damage}")
    click.echo(f"kept      commits up to {report.kept:,}")
    if report.lost:
        click.echo(f"lost      commits {report.kept + 1:,} to {report.known:,}")
    if report.readable:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(report.records.items()))
        click.echo(f"          {report.readable:,} of them can be read: {kinds}")
    if report.orders:
        click.echo(f"orders    {', '.join(map(str, report.orders))}")
    for fill in report.fills:
        click.echo(
            f"fill      order {fill.order} in {fill.market}: {fill.quantity} lots at {fill.price} ticks, account "
            f"{fill.account}, with {fill.counterparty}"
        )
    if report.rows_set_aside:
        click.echo(
            f"archive   {report.rows_set_aside:,} lines of lost commits, in its table 'lost'"
        )
    for note in report.notes:
        click.echo(f"note      {note}")
    if report.original:
        click.echo(f"The damaged journal is in {report.original}. Before the next start:")
        click.echo(f"  {program()} recover --from-peers{data_dir_option(settings.data_dir)}")
    else:
        click.echo("Nothing was changed. --yes repairs it.")
