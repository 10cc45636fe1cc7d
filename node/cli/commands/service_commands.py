"""Commands about services: `call`, `services` and `router`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import click
import msgspec

from node.cli.client_session import Session, client_options, print_json, print_json_line
from node.cli.table_layout import Cell, Column, Line, clean, table
from node.cli.tables import clock, echo, is_terminal, short
from node.views.node_views import CallRequest, RouterView, ServiceView
from p2p.ground.text_file import decode_text

FRAME: Final = 1.0  # seconds between two looks of `router --watch`
GRACE: Final = 5.0  # seconds that the node may take longer than the call itself
DEFAULT_WAIT: Final = 600.0  # longest CLIENT_REQUEST_TIMEOUT
WIDE: Final = 30  # events shown below the table


@click.command()
@click.argument("service", metavar="SERVICE")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option(
    "--timeout",
    "timeout_ms",
    type=click.IntRange(1, 300_000),
    metavar="MS",
    help="Wait at most so long.  [default: the node's CLIENT_REQUEST_TIMEOUT]",
)
@click.option(
    "--idempotent",
    is_flag=True,
    default=None,
    help="It is safe to execute this twice: ask another node when one does not answer.",
)
@click.option(
    "--id",
    "idempotency_id",
    metavar="ID",
    default="",
    help="Let the service recognise a repetition by this id; implies --idempotent.",
)
@click.option("--node", metavar="NODE", help="Ask this node and no other.")
@client_options
def call(
    session: Session,
    service: str,
    payload: str | None,
    timeout_ms: int | None,
    idempotent: bool | None,
    idempotency_id: str,
    node: str | None,
) -> None:
    """Call a service, and print its answer as JSON. The running node calls the provider with the
    lowest expected cost. The payload is JSON; '-' reads it from standard input.

    \b
    Examples:
      exchange-node call job_service '{"action":"execute"}'
      exchange-node call book '{"market":"BTC-USD","depth":5}'
      exchange-node call job_service '{"n":1}' --idempotent --timeout 2000 --json
    """
    request = CallRequest(
        payload=_payload(payload),
        timeout_ms=timeout_ms,
        idempotent=idempotent,
        idempotency_id=idempotency_id,
        node=node,
    )
    wait = DEFAULT_WAIT if timeout_ms is None else timeout_ms / 1000
    view = session.ask(lambda client: client.call_service(service, request), timeout=wait + GRACE)
    if session.as_json:
        print_json(view)
        return
    print_json(view.result)
    times = "" if view.attempts == 1 else f", after {view.attempts} requests"
    click.echo(f"node {view.node} answered in {view.latency_ms:.1f} ms{times}", err=True)


def _payload(text: str | None) -> Any:
    if text is None:
        return None
    if text == "-":
        try:
            text = decode_text(sys.stdin.buffer.read())
        except ValueError as error:
            raise click.BadParameter(f"standard input {error}", param_hint="JSON") from None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        hint = ""
        if text[:1] not in "{[" and not text.startswith('"'):
            hint = f"; a text is written with quotes: {json.dumps(text)[:60]!r}"
        raise click.BadParameter(f"no valid JSON: {error}{hint}", param_hint="JSON") from None


@click.command()
@client_options
def services(session: Session) -> None:
    """List the services that nodes of the network offer.

    \b
    Examples:
      exchange-node services
      exchange-node services --json | jq -r '.[].name'
    """
    views = session.ask(lambda client: client.services())
    if session.as_json:
        print_json(views)
    else:
        echo(service_table(views, full=not is_terminal()))


def service_table(views: list[ServiceView], *, full: bool) -> list[Line]:
    """Services with their providers, and this node's part in them."""
    columns = [Column("service"), Column("here"), Column("calls", True), Column("nodes")]
    rows: list[list[Cell]] = []
    for view in views:
        here = "-"
        if view.serving is not None:
            here = f"{view.serving.served} served"
            if view.serving.busy:
                here += f", {view.serving.busy} refused as busy"
            if view.serving.faults:
                here += f", FAILS ON PURPOSE ({view.serving.faults})"
        calls = sum(view.calls.outcomes.values()) if view.calls else 0
        nodes = ", ".join(short(node, full) for node in view.nodes)
        rows.append([view.name, here, str(calls), nodes])
    return table(columns, rows)


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--events", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N")
@click.option(
    "--kind",
    type=click.Choice(["pick", "breaker", "hint", "panic", "rate"]),
    help="Only events of this kind.",
)
@click.option("--why", is_flag=True, help="Only the latest decisions, a line each with its reason.")
@client_options
def router(session: Session, watch: bool, events: int, kind: str | None, why: bool) -> None:
    """Show the load balancing: costs of nodes, and recent events.

    \b
    Examples:
      exchange-node router
      exchange-node router --watch
      exchange-node router --why
      exchange-node router --kind breaker --json
    """
    if why:
        kind = "pick"
    lines = why_lines if why else router_lines

    def look() -> RouterView:
        return session.ask(lambda client: client.router(events=events, kind=kind))

    if not watch:
        view = look()
        if session.as_json:
            print_json(view)
        else:
            echo(lines(view, full=not is_terminal()))
        return
    if session.as_json:
        while True:
            print_json_line(look())
            time.sleep(FRAME)
    _live(look, lines)


def _live(look: Any, lines: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    from node.cli.tables import to_rich

    console = Console()
    first = to_rich(lines(look(), full=False))
    with Live(first, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(FRAME)
            live.update(to_rich(lines(look(), full=False)), refresh=True)


def why_lines(view: RouterView, *, full: bool) -> list[Line]:
    """The latest decisions, a line each: when, which service and node, and the reason."""
    if not view.events:
        return [[("no service was called yet", "dim")]]
    return [
        [
            (clock(event.time), "dim"),
            (f"  {clean(event.service)} {short(event.node, full)}: ", ""),
            (clean(event.reason), ""),
        ]
        for event in view.events
    ]


_STATE_STYLES: Final = {"CLOSED": "buy", "HALF_OPEN": "warn", "OPEN": "sell"}


def router_lines(view: RouterView, *, full: bool) -> list[Line]:
    """The router's view as text."""
    lines: list[Line] = [[("policy ", "bold"), (clean(view.policy), "")]]
    if view.routes:
        columns = [
            Column("service"),
            Column("node"),
            Column("cost", True),
            Column("breaker"),
            Column("calls", True),
            Column("failed", True),
            Column("ms", True),
            Column("why"),
        ]
        rows: list[list[Cell]] = [
            [
                row.service,
                short(row.node, full),
                f"{row.cost:.4f}",
                (row.state, _STATE_STYLES[row.state]),
                str(row.total_calls),
                str(row.error_count + row.timeout_count),
                "-" if row.avg_latency_ms is None else f"{row.avg_latency_ms:.1f}",
                (row.why, "dim"),
            ]
            for row in view.routes
        ]
        lines += table(columns, rows)
    else:
        lines.append([("no service was called yet", "dim")])
    if view.hints:
        lines += [[], [("hints", "bold")]]
        lines += [
            [
                (f"{short(hint.node, full)} is {hint.signal}", ""),
                (f"  says {short(hint.origin, full)}, weight {hint.weight:.2f}", "dim"),
            ]
            for hint in view.hints
        ]
    if view.events:
        lines += [[], [("events", "bold")]]
        for event in view.events[-WIDE:] if not full else view.events:
            service = f" {clean(event.service)}" if event.service else ""
            lines.append(
                [
                    (clock(event.time), "dim"),
                    (f"  {event.kind}{service} {short(event.node, full)}: ", ""),
                    (clean(event.reason), ""),
                ]
            )
    return lines
