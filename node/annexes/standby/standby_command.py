"""`standby`: a second machine that holds a node's journal, and takes over."""

from __future__ import annotations

import importlib
import time
from typing import Any, Final

import click

from node.cli.client_session import CommandFailure, Exit, print_json
from node.cli.command_groups import Group
from node.cli.commands.data_options import data_options
from node.cli.commands.start_command import load_settings, start_options
from node.cli.heavy_imports import heavy_imports
from node.client.node_finder import data_dir_option

PATIENCE: Final = 15.0  # s that a promotion may take
LOOK_EVERY: Final = 0.1  # s
STALE: Final = 5.0  # s after which the status of a standby shows that it does not run


@click.group(
    cls=Group,
    invoke_without_command=True,
    short_help="Hold a node's journal on a second machine, and take over.",
)
@click.option("--of", metavar="HOST:PORT", help="STANDBY_LISTEN of the node to follow.")
@start_options
@click.pass_context
def standby(
    ctx: click.Context, /, of: str | None, config_file: str | None, **values: object
) -> int:
    """Hold a node's journal on a second machine, and take over from it.

    The first start prints the id of this machine, which the node needs as STANDBY_ALLOW. After a
    take-over the same command runs the node.

    \b
    Examples:
      exchange-node standby --of 192.168.1.10:3900 --data-dir /srv/standby
      exchange-node standby status --data-dir /srv/standby
      exchange-node standby promote --data-dir /srv/standby
    """
    if ctx.invoked_subcommand is not None:
        return Exit.OK
    if of is None:
        raise click.UsageError("name the node to follow: --of HOST:PORT")
    loaded = load_settings(config_file, **values)
    with heavy_imports():
        types = importlib.import_module("config.setting_types")
        daemon = importlib.import_module("node.annexes.standby.run_standby")
    try:
        (address,) = types.HostPorts().parse(of)
    except ValueError as error:
        raise click.UsageError(f"{of!r} is not one HOST:PORT ({error})") from None
    code: int = daemon.run_standby(loaded, address)
    return code


@standby.command(short_help="Show how far a standby is.")
@data_options
def status(settings: Any, as_json: bool) -> None:
    """Show how far the standby of a data directory is.

    \b
    Examples:
      exchange-node standby status
      exchange-node standby status --data-dir /srv/standby --json
    """
    found = _status(settings)
    if as_json:
        print_json(found)
        return
    in_sync = {True: "yes", False: "no", None: "unknown"}[found["in_sync"]]
    click.echo(f"machine    {found['machine']}")
    click.echo(f"primary    {found['primary'] or 'not known yet'}")
    click.echo(f"connected  {'yes' if found['connected'] else 'no'} {found['trouble']}".rstrip())
    click.echo(f"in sync    {in_sync}")
    click.echo(f"position   commit {found['position']:,} of epoch {found['epoch']}")


@standby.command(short_help="Make this machine the node.")
@click.option(
    "--lossy",
    is_flag=True,
    help="Also if this machine may lack the last events; it then has to recover from peers.",
)
@data_options
def promote(lossy: bool, settings: Any, as_json: bool) -> None:
    """Make the standby on this machine the node, by an operator's decision.

    The standby must be running. If it is in sync, the other machine may live: it stops, and nothing is lost.

    \b
    Examples:
      exchange-node standby promote --data-dir /srv/standby
      exchange-node standby promote --lossy --data-dir /srv/standby      the other machine is gone for good
    """
    daemon = importlib.import_module("node.annexes.standby.run_standby")
    roles = importlib.import_module("node.daemon.role_file")
    before = _status(settings)
    daemon.request_promotion(settings.data_dir, lossy=lossy)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        role = roles.read(settings.data_dir)
        if role is not None and role.role == "primary":
            if as_json:
                print_json({"promoted": True, "epoch": role.epoch, "lossy": lossy})
            else:
                click.echo(f"This machine is the node now, in epoch {role.epoch}.")
            return
        refused = daemon.refusal(settings.data_dir, before["time"])
        if refused:
            raise CommandFailure(
                f"not promoted: {refused}. --lossy promotes it all the same, and the node then has to recover from "
                "its peers",
                Exit.REFUSED,
            )
    raise CommandFailure(
        f"not promoted within {PATIENCE:g} s: the lease store does not answer. It goes on trying",
        Exit.REFUSED,
    )


def _status(settings: Any) -> dict[str, Any]:
    daemon = importlib.import_module("node.annexes.standby.run_standby")
    found: dict[str, Any] | None = daemon.read_status(settings.data_dir)
    if found is None or time.time() - found["time"] > STALE:
        raise CommandFailure(
            f"no standby runs on {settings.data_dir}: start it with: exchange-node standby --of HOST:PORT{data_dir_option(settings.data_dir)}",
            Exit.NO_NODE,
        )
    return found
