"""`demo`: nodes that trade in this process, and parts of the router and flow control at work."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from node.cli.client_session import CommandFailure, Exit
from node.cli.command_groups import Group
from node.cli.commands.open_command import open_in_browser

UNTIL_STOPPED: Final = 1e9  # seconds


@click.group(
    cls=Group,
    invoke_without_command=True,
    short_help="Nodes that trade here; or see a part at work.",
)
@click.option(
    "--nodes", type=click.IntRange(2, 20), default=3, show_default=True, help="How many nodes."
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=10.0,
    show_default=True,
    help="How long they trade.",
)
@click.option("--seed", type=int, help="Repeat the traders' choices of an earlier run.")
@click.option(
    "--open",
    "open_page",
    is_flag=True,
    help="Open the first node's page; trading runs until Ctrl-C, or for --seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document.")
@click.pass_context
def demo(
    ctx: click.Context,
    nodes: int,
    seconds: float,
    seed: int | None,
    open_page: bool,
    as_json: bool,
) -> int:
    """Run a few nodes with simulated traders in this terminal, or show how a part works.

    Without a command: real nodes on free loopback ports, in a temporary directory that is removed
    afterwards. The summary at the end shows orders, fills and whether all books agree.

    \b
    Examples:
      exchange-node demo
      exchange-node demo --open                    and look at it in a browser
      exchange-node demo --nodes 5 --seconds 30
      exchange-node demo --seed 7 --json
      exchange-node demo storm                     what naive retries do to a server
      exchange-node demo throttled                 the same backlog through flow control
      exchange-node demo throttled --plot run.svg
    """
    if ctx.invoked_subcommand is not None:
        for name in ctx.params:
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                option = {"as_json": "--json", "open_page": "--open"}.get(name, f"--{name}")
                ctx.fail(f"{option} belongs behind {ctx.invoked_subcommand!r}, if it has one.")
        return 0
    click.echo(f"starting {nodes} nodes on free ports of this machine ...", err=as_json)
    module = importlib.import_module("node.annexes.demos.trading_demo")
    if open_page and ctx.get_parameter_source("seconds") is click.core.ParameterSource.DEFAULT:
        seconds = UNTIL_STOPPED
    process = importlib.import_module("node.daemon.process")
    try:
        code: int = module.run(
            nodes=nodes,
            seconds=seconds,
            seed=seed,
            json=as_json,
            open_page=open_in_browser if open_page else None,
        )
    except process.StartError as error:
        raise CommandFailure(str(error), Exit(error.code)) from None
    return code


def scene(command: Callable[..., int]) -> Callable[..., int]:
    """The options that all demos of `node.annexes.demos` share."""
    for option in reversed(
        (
            click.option(
                "--seed", type=int, default=1, show_default=True, help="Another seed, another run."
            ),
            click.option(
                "--real",
                is_flag=True,
                help="On loopback sockets and this machine's clock; without it in virtual time.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
            click.option(
                "--plot",
                type=click.Path(dir_okay=False, writable=True, path_type=Path),
                metavar="FILE.svg",
                help="Draw it.",
            ),
        )
    ):
        command = option(command)
    return command


def play(module_name: str, seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """Run the demo in a module. What is watched goes to stderr when stdout is for JSON."""
    from rich.console import Console

    out = Console(stderr=as_json)
    module = importlib.import_module(module_name)
    if not out.is_terminal:
        out = Console(stderr=as_json, width=110)  # nothing is cut where it is piped to
    try:
        code: int = module.run(seed, real, as_json, plot, out)
    except OSError as error:
        if plot is None or error.filename != str(plot):
            raise
        raise CommandFailure(f"{plot}: {error.strerror}", Exit.USAGE) from None
    return code


@demo.command(short_help="A retry storm: naive retries overload a server.")
@scene
def storm(seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """Twenty clients come back with 2,000 messages, retry at once, and take a server down.

    The server can do 500 requests a second, gets slower when many wait, and crashes in the end.

    \b
    Examples:
      exchange-node demo storm
      exchange-node demo storm --real
      exchange-node demo storm --plot storm.svg
    """
    return play("node.annexes.demos.storm", seed, real, as_json, plot)


@demo.command(short_help="The same backlog through flow control.")
@scene
def throttled(seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """The same 2,000 messages through flow control, past a slow phase and a restart.

    Shows the warm-up, the steps of the rate with their reasons, the breaker and the recovery, and
    how close to the optimum it was.

    \b
    Examples:
      exchange-node demo throttled
      exchange-node demo throttled --seed 7 --json
      exchange-node demo throttled --real --plot throttled.svg
    """
    return play("node.annexes.demos.throttled", seed, real, as_json, plot)


@demo.command(short_help="Each part of flow control alone.")
@scene
def components(seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """Each part of flow control alone: what goes in, and what it makes of it.

    With --real only those that have something to wait for.

    \b
    Examples:
      exchange-node demo components
      exchange-node demo components --plot parts.svg
    """
    return play("node.virtual.components", seed, real, as_json, plot)


@demo.command(short_help="Choosing among slow, flaky and crashing workers.")
@scene
def routing(seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """Calls to five workers, of which one gets slow, one fails now and then and one crashes.

    Shows the share of the requests that each gets, its cost and its breaker as they change, and what
    the same calls would have suffered if each worker were asked in turn.

    \b
    Examples:
      exchange-node demo routing
      exchange-node demo routing --real            nodes in processes, one is killed
      exchange-node demo routing --plot routing.svg
    """
    return play("node.annexes.demos.routing_demo", seed, real, as_json, plot)
