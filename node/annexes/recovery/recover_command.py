"""`recover`: bring a restored or repaired data directory up to date."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from node.cli.client_session import CommandFailure, Exit, print_json
from node.cli.commands.start_command import load_settings, start_options
from node.cli.heavy_imports import heavy_imports


@click.command(short_help="Bring a restored directory up to date from peers.")
@click.option("--from-peers", is_flag=True, help="Fetch this node's events from other nodes.")
@click.option(
    "--wait",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for nodes that this one traded with.",
)
@click.option("--force", is_flag=True, help="Continue without nodes that do not answer.")
@start_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def recover(
    from_peers: bool,
    wait: float,
    force: bool,
    config_file: str | None,
    as_json: bool,
    **values: object,
) -> int:
    """Bring a data directory that is older than its node up to date.

    After 'restore' or 'journal repair', or when 'start' says that the directory is an old copy. The
    node's signed events and its trades are fetched from all nodes that hold them. Open orders
    without a known account are closed; fills whose client is not known go to the account
    'suspense'. Deposits, withdrawals, accounts and keys that are newer than the directory are known
    to no peer.

    \b
    Examples:
      exchange-node recover --from-peers
      exchange-node recover --from-peers --data-dir /srv/node --bootstrap 192.168.1.20:3000
      exchange-node recover --from-peers --force       without nodes that are gone for good
    """
    if not from_peers:
        raise click.UsageError("there is one source: give --from-peers")
    loaded = load_settings(config_file, **values)
    with heavy_imports():
        daemon = importlib.import_module("node.annexes.recovery.run_recovery")
        process = importlib.import_module("node.daemon.process")

    def tell(text: str) -> None:
        process.tell(f"exchange-node: {text}", sys.stderr)

    try:
        found = daemon.run_recovery(loaded, force=force, wait=wait, tell=tell)
    except daemon.RecoveryRefused as error:
        document = {"code": "not_recovered", "detail": str(error)} if as_json else None
        raise CommandFailure(str(error), Exit.REFUSED, document=document) from None
    except process.StartError as error:
        raise CommandFailure(str(error), Exit(error.code)) from None
    document = daemon.document_of(found)
    if as_json:
        print_json(document)
    else:
        _print(document)
    return Exit.OK


def _print(found: dict[str, Any]) -> None:
    heard, unheard = len(found["heard"]), found["unheard"]
    click.echo(f"node {found['node_id']}: {counted(heard, 'peer')} heard")
    click.echo(f"{counted(found['events_fetched'], 'event')} of its feeds fetched")
    for gap in found["events_lost"]:
        click.echo(
            f"LOST: events {gap['first']} to {gap['last']} of {gap['market']}, which no peer holds any more. Trades "
            "with other nodes are in their statements; trades between two own orders are lost."
        )
    click.echo(f"{counted(len(found['fills']), 'fill')} booked to the accounts of their orders")
    if found["suspense"]:
        click.echo(
            f"{counted(len(found['suspense']), 'fill')} of unknown clients, in account 'suspense':"
        )
        for fill in found["suspense"]:
            click.echo(
                f"  {fill['side']} {fill['quantity']} {fill['market']} @ {fill['price']} {fill['time']} with "
                f"{fill['counterparty']}"
            )
    if found["closed_orders"]:
        click.echo(f"{counted(len(found['closed_orders']), 'open order')} closed:")
        for order in found["closed_orders"]:
            price = "market" if order["price"] is None else order["price"]
            whose = "unknown" if order["account"] is None else f"account {order['account']}"
            click.echo(
                f"  {order['order']}: {order['side']} {order['quantity']} {order['market']} @ {price}, {whose}"
            )
    click.echo(f"{counted(found['open_orders_kept'], 'open order')} kept")
    if found["takes_open"]:
        click.echo(f"{counted(found['takes_open'], 'take')} without an answer from the makers")
    for node in unheard:
        click.echo(f"POSSIBLY LOST: events that only node {node} has; it did not answer.")
    for node in found["without_statement"]:
        click.echo(f"POSSIBLY LOST: trades that node {node} alone has; it gave no full statement.")
    since = f" after {found['as_of']}" if found["as_of"] else ""
    click.echo(
        f"LOST: deposits, withdrawals, settlements, accounts and API keys{since}. No peer has them."
    )
    if not heard:
        click.echo("No peer answered: the node stops writing if one of them has later events.")
    click.echo("The node can be started.")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
