"""`peer-list`: a signed file of peers for others to start with."""

from __future__ import annotations

import time
from pathlib import Path

import click

from node.cli.client_session import CommandFailure, Exit, Session, client_options, print_json
from node.views.node_views import PeerView, StatusView


@click.command("peer-list", short_help="Write a signed list of peers for newcomers.")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option(
    "--add",
    "added",
    metavar="ID@HOST:PORT",
    multiple=True,
    help="A node to list besides; may be repeated.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=30,
    show_default=True,
    help="Days until the list ends.",
)
@client_options
def peer_list(session: Session, file: Path, added: tuple[str, ...], days: int) -> None:
    """Write a signed list of the peers that this node reaches, for newcomers.

    The file goes to any web server. Nodes with PEER_LISTS=URL#ID use it, where ID is this node's id, which
    `status` shows. Make it again before it ends. It has this node itself if its address is verified.

    \b
    Examples:
      exchange-node peer-list peers.json
      exchange-node peer-list peers.json --days 90 --add k3v7...@node.example.org:3000
    """
    from p2p.base.identity import Identity
    from p2p.discovery.peer_list import ListedPeer, PeerListError, sign_list

    status = session.ask(lambda client: client.status())
    peers = session.ask(lambda client: client.peers())
    key = Path(status.data_dir) / "node.key"
    try:
        identity = Identity.load(key)
    except (OSError, ValueError) as error:
        raise CommandFailure(
            f"the list cannot be signed: {error}; run this on the machine of the node, as its user",
            Exit.USAGE,
        ) from None
    if identity.node_id != status.node_id:
        raise CommandFailure(
            f"{key} is not the key of the running node {status.node_id}", Exit.REFUSED
        )
    found = dict.fromkeys([*_own(status), *_reached(peers)])
    for text in added:
        node, _, address = text.partition("@")
        found[(address, node)] = None
    if not found:
        raise CommandFailure(
            "this node has reached no peer, and its own address is not verified: name nodes with --add",
            Exit.REFUSED,
        )
    listed = [ListedPeer(address, node) for address, node in found]
    try:
        content = sign_list(identity, status.network, listed, time.time(), days)
    except PeerListError as error:
        raise CommandFailure(f"the list cannot be made: {error}", Exit.USAGE) from None
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandFailure(f"cannot write {file}: {error.strerror}", Exit.USAGE) from None
    if session.as_json:
        print_json({"file": str(file), "peers": len(listed), "signer": identity.node_id})
    else:
        click.echo(
            f"{file}: {len(listed)} peers, for {days} days. Others use it with "
            f"PEER_LISTS=https://SERVER/{file.name}#{identity.node_id}"
        )


def _own(status: StatusView) -> list[tuple[str, str]]:
    view = status.reachability
    return [] if view is None else [(address, status.node_id) for address in view.addresses]


def _reached(peers: list[PeerView]) -> list[tuple[str, str]]:
    """Return the addresses of connected peers that this node has dialled."""
    from p2p.base.host_port import format_host_port

    return [
        (format_host_port(peer.address, peer.port), peer.node_id)
        for peer in peers
        if peer.status == "connected"
        and peer.direction == "out"
        and peer.carrier == "tcp"
        and peer.node_id
    ]
