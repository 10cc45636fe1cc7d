"""Commands about the node itself and its peers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import click

from node.cli.client_session import (
    Session,
    client_options,
    node_options,
    print_json,
    shell_command,
)
from node.cli.table_layout import Line, clean, folded
from node.cli.tables import echo, is_terminal, peer_table, policy_table
from node.client.exchange_client import ExchangeClient
from node.daemon.progress import duration
from node.views.node_views import (
    ExportView,
    GrenacheView,
    PeerPolicyView,
    ReachabilityView,
    StandbyView,
    StatusView,
)

_MODES = {
    "p2p": "p2p: direct links only",
    "hybrid": "hybrid: direct links, and Grenache where a Grape answers",
    "grenache": "grenache: everything over Grenache requests",
}


@click.command()
@client_options
def status(session: Session) -> None:
    """Show the node's addresses, discovery, peers and orders.

    \b
    Examples:
      exchange-node status
      exchange-node status --json | jq .peers_connected
    """
    view = session.ask(lambda client: client.status())
    if session.as_json:
        print_json(view)
    else:
        echo(describe_status(view))


def describe_status(view: StatusView) -> list[Line]:
    """The status as lines of name and value."""
    behind = f", {view.feeds_behind} behind" if view.feeds_behind else ", all up to date"
    grape = next((found for found in view.discovery if found.name == "grape"), None)
    needed = grape is None or grape.state != "off"  # else: none is configured
    grenache = _grenache(view.grenache) if needed else []
    rows = [
        ("node", view.node_id),
        ("version", f"{view.version}, up {duration(view.uptime_s)}"),
        ("network", f"{view.network}, {'TLS' if view.security == 'tls' else 'NOT encrypted'}"),
        ("mode", _MODES[view.mode]),
        ("peer port", view.p2p_address or "none"),
        *_reachability(view.reachability),
        ("API", view.api_url),
        ("data", view.data_dir),
        (
            "peers",
            f"{view.peers_connected} connected, {view.peers_known} known, "
            f"{view.nodes_present} nodes present",
        ),
        *(
            ("discovery" if not number else "", f"{d.name} {d.state}: {d.detail}, found {d.found}")
            for number, d in enumerate(view.discovery)
        ),
        *(("grenache" if not n else "", text) for n, text in enumerate(grenache)),
        ("markets", ", ".join(view.markets)),
        ("orders", f"{view.open_orders} open, {view.pending_takes} takes pending"),
        ("feeds", f"{view.feeds}{behind}"),
        ("services", ", ".join(view.services) or "none"),
        *(_export(export) for export in view.exports),
        *_standby(view.standby),
    ]
    left = max(len(name) for name, _ in rows)
    lines: list[Line] = []
    for name, text in rows:
        for number, part in enumerate(folded(clean(text), left + 2)):
            title = "" if number else name
            lines.append([(title.ljust(left), "bold"), ("  ", ""), (part, "")])
    for text in view.warnings:
        lines += [[(part, "warn")] for part in folded(f"warning: {clean(text)}", 0)]
    return lines


def _export(view: ExportView) -> tuple[str, str]:
    behind = f"{view.behind:,} commits behind" if view.behind else "has every commit"
    return ("export", f"{view.sink} {view.state}, {behind}")


def _standby(view: StandbyView | None) -> list[tuple[str, str]]:
    if view is None:
        return []
    if not view.standby:
        return [("standby", f"none, epoch {view.epoch}")]
    parts = ["connected" if view.connected else "not connected"]
    if view.in_sync is not None:
        parts.append("in sync" if view.in_sync else "not in sync")
    if view.lag:
        parts.append(f"{view.lag:,} commits behind")
    return [("standby", f"{', '.join(parts)}, epoch {view.epoch}")]


def _reachability(view: ReachabilityView | None) -> list[tuple[str, str]]:
    if view is None:
        return []
    rows = [("outside", view.text)]
    if view.mapping and view.state != "mapped":
        rows.append(("", f"port mapping: {view.mapping}"))
    return [*rows, *([("", f"to change that: {view.advice}")] if view.advice else [])]


def _grenache(view: GrenacheView | None) -> list[str]:
    if view is None:
        return []
    lines = [f"{grape.url}: {grape.detail}" for grape in view.grapes]
    if view.own is not None:
        own = view.own
        lines.append(
            f"own Grape: DHT {own.dht_address}, API {own.api_url}, {own.nodes} others known, "
            f"{own.announcements} announcements held"
        )
    if view.rpc_address is not None:
        lines.append(f"requests at {view.rpc_address}, {view.links} peers linked this way")
    return lines


@click.command()
@click.option("--pin", metavar="NODE", help="Exempt a node from link slots and rates.")
@click.option("--unpin", metavar="NODE", help="Remove a pin.")
@click.option(
    "--ban", metavar="NODE|IP|NETWORK", help="Refuse a node, an IP address or a network for a time."
)
@click.option("--unban", metavar="NODE|IP|NETWORK", help="Remove a ban.")
@click.option(
    "--for",
    "duration",
    metavar="TIME",
    default="1d",
    help="Length of a ban, e.g. 30m, 12h, 7d.  [default: 1d]",
)
@click.option("--reason", metavar="TEXT", default="", help="Reason of a ban; the peer reads it.")
@click.option("--policy", is_flag=True, help="List pins, bans and PEER_ALLOW instead of peers.")
@client_options
def peers(
    session: Session,
    pin: str | None,
    unpin: str | None,
    ban: str | None,
    unban: str | None,
    duration: str,
    reason: str,
    policy: bool,
) -> None:
    """List known and connected peers, pin or ban them.

    \b
    Examples:
      exchange-node peers
      exchange-node peers --json | jq -r '.[] | select(.status == "connected").node_id'
      exchange-node peers --pin k3v7
      exchange-node peers --ban 203.0.113.0/24 --for 12h --reason "floods"
      exchange-node peers --policy
    """
    given = {"pin": pin, "unpin": unpin, "ban": ban, "unban": unban}
    changes = [(action, subject) for action, subject in given.items() if subject is not None]
    if changes or policy:
        seconds = ban_seconds(duration)
        for action, subject in changes:
            session.ask(_policy_change(action, subject, seconds, reason))
        view = session.ask(lambda client: client.peer_policy())
        if session.as_json:
            print_json(view)
        else:
            echo(policy_table(view, full=not is_terminal()))
        return
    views = session.ask(lambda client: client.peers())
    if session.as_json:
        print_json(views)
    elif views:
        echo(peer_table(views, full=not is_terminal()))
        for peer in views:
            for symbol, steps in peer.other_steps.items():
                click.echo(
                    f"{clean(peer.node_id or '?')[:12]} trades {clean(symbol)} in steps of {clean(steps)}, this node in "
                    f"others: their orders do not meet; see: {shell_command('market', 'steps')}",
                    err=True,
                )
    else:
        click.echo(
            f"no peers yet; name one with: exchange-node connect HOST:PORT{node_options()}",
            err=True,
        )


@click.command()
@click.argument("address", metavar="HOST:PORT")
@client_options
def connect(session: Session, address: str) -> None:
    """Link to another node now.

    The address is that of its peer port, as it prints it at its start.

    \b
    Examples:
      exchange-node connect 192.168.1.20:3000
      exchange-node connect [fe80::1]:3000
    """
    check_address(address)
    peer = session.ask(lambda client: client.connect(address))
    if session.as_json:
        print_json(peer)
        return
    link = {None: "", True: ", encrypted", False: ", NOT encrypted"}[peer.encrypted]
    host = f"[{peer.address}]" if ":" in peer.address else peer.address
    click.echo(f"{peer.status} to {peer.node_id or 'a node'} at {clean(host)}:{peer.port}{link}")


def _policy_change(
    action: str, subject: str, seconds: int, reason: str
) -> Callable[[ExchangeClient], Coroutine[Any, Any, PeerPolicyView]]:
    return lambda client: client.change_peer_policy(action, subject, seconds=seconds, reason=reason)


def ban_seconds(text: str) -> int:
    """Parse the length of a ban.

    Raises:
        click.BadParameter: not a number with s, m, h or d.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    if (
        unit not in units
        or not number.isdecimal()
        or not 1 <= int(number) * units[unit] <= 316_224_000
    ):
        raise click.BadParameter(
            f"invalid length {text!r}, e.g. 30m, 12h, 7d (at most 10 years)", param_hint="--for"
        )
    return int(number) * units[unit]


def check_address(text: str) -> None:
    """Check that `text` has the form HOST:PORT; the node resolves the name.

    Raises:
        click.BadParameter: with what to type instead.
    """
    from p2p.base.host_port import is_ip, parse_host_port

    hint = "HOST:PORT"
    host, colon, port = text.rpartition(":")
    if "://" in text:
        raise click.BadParameter(
            f"{text!r} is a URL; give the peer port's address, such as 192.168.1.20:3000",
            param_hint=hint,
        )
    meant = [f"[{text}]:3000"] if is_ip(text) and ":" in text else []
    meant += [f"[{host}]:{port}"] if is_ip(host) and ":" in host and port else []
    if meant:
        raise click.BadParameter(
            f"put an IPv6 address in brackets: {' or '.join(meant)}", param_hint=hint
        )
    if text and (not colon or text.endswith((":", "]"))):
        raise click.BadParameter(
            f"{text!r} has no port; peers listen on 3000 by default: {text.rstrip(':')}:3000",
            param_hint=hint,
        )
    try:
        parse_host_port(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None


@click.command()
@click.argument("node", metavar="NODE")
@client_options
def ping(session: Session, node: str) -> None:
    """Ask another node over the mesh, and time the answer.

    NODE is a node id or the beginning of one, as 'peers' shows them. It need not be a direct peer.

    \b
    Examples:
      exchange-node ping a2b3c4
    """
    view = session.ask(lambda client: client.ping(node))
    if session.as_json:
        print_json(view)
    else:
        click.echo(
            f"{view.node_id} answered in {view.rtt_ms:.1f} ms, {view.way}, version {clean(view.version)}"
        )
