"""`backup` and `restore`: a data directory as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.client_session import CommandFailure, Exit, print_json
from node.cli.commands.data_options import data_options, explained, unused
from node.client.node_finder import data_dir_option, program
from node.daemon.progress import ByteProgress

if TYPE_CHECKING:
    from config import Settings


@click.command(short_help="Write a verified backup of a node to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--without-key", is_flag=True, help="Leave node.key out: you keep it elsewhere.")
@data_options
def backup(file: Path, without_key: bool, settings: Settings, as_json: bool) -> None:
    """Write a backup of a node to FILE, while it runs or not, and verify it.

    FILE is a tar file with journal, key, peers and market history as they were after one commit.
    It contains the node's key: keep it as safe as the key.

    \b
    Examples:
      exchange-node backup /var/backups/node-2026-11-23.tar
      exchange-node backup node.tar --without-key
    """
    from node.daemon.backup import back_up, size_of
    from node.daemon.service_manager import credential

    key: Path | None = credential("node.key") or settings.key_path
    if without_key:
        key = None
    elif key is not None and not key.exists():
        text = f"{key} is missing: --without-key makes a backup without it"
        raise CommandFailure(text, Exit.REFUSED)
    with explained(as_json), ByteProgress("backup", size_of(settings)) as progress:
        manifest = back_up(settings, file, key_path=key, advance=progress.advance)
    size = file.stat().st_size
    if as_json:
        document = {"file": str(file), "bytes": size, "node_id": manifest.node_id}
        print_json({**document, "position": manifest.position, "made": manifest.made})
        return
    click.echo(f"{file}: {size / 2**20:,.1f} MiB, node {manifest.node_id}")
    click.echo(f"up to commit {manifest.position:,} of {manifest.made}; verified")


@click.command(short_help="Restore a backup into an empty data directory.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_options
def restore(file: Path, settings: Settings, as_json: bool) -> None:
    """Restore a backup into an empty data directory, and verify it.

    The network has seen what the node did after the backup, so the node does not start before
    'exchange-node recover' has fetched that from its peers.

    \b
    Examples:
      exchange-node restore /var/backups/node-2026-11-23.tar
      exchange-node restore node.tar --data-dir /srv/node
      exchange-node recover --from-peers --data-dir /srv/node      the next step
    """
    from node.daemon.restore import restore as restore_backup

    with (
        explained(as_json),
        unused(settings.data_dir, as_json),
        ByteProgress("restore", file.stat().st_size) as progress,
    ):
        manifest = restore_backup(settings, file, advance=progress.advance)
    if as_json:
        document = {"data_dir": str(settings.data_dir), "node_id": manifest.node_id}
        print_json({**document, "position": manifest.position, "made": manifest.made})
        return
    click.echo(f"{settings.data_dir}: node {manifest.node_id}, commit {manifest.position:,}")
    if not manifest.has_key:
        click.echo(f"The backup has no key: put the node's key at {settings.key_path}.")
    click.echo(f"It is as of {manifest.made}. Bring it up to date before you start it:")
    click.echo(f"  {program()} recover --from-peers{data_dir_option(settings.data_dir)}")
