"""`start` and `demo`: the commands that run nodes in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from node.cli.client_session import CommandFailure, Exit, inherited
from node.cli.commands.open_command import open_in_browser
from node.cli.heavy_imports import heavy_imports

T = TypeVar("T")
UNTIL_STOPPED: Final = 1e9  # seconds


_START_OPTIONS: Final = (
    click.option(
        "--data-dir",
        metavar="DIR",
        help="Key, journal and peer list of this node.  [default: ~/.exchange-node]",
    ),
    click.option(
        "--p2p-host", metavar="HOST", help="Listen for other nodes here.  [default: 0.0.0.0]"
    ),
    click.option(
        "--p2p-port",
        metavar="PORT",
        help="Port for other nodes; 0 takes a free one.  [default: 3000, or a free one]",
    ),
    click.option(
        "--api-host", metavar="HOST", help="Listen for clients here.  [default: 127.0.0.1]"
    ),
    click.option(
        "--api-port",
        metavar="PORT",
        help="Port for clients; 0 takes a free one.  [default: 8300, or a free one]",
    ),
    click.option(
        "--bootstrap",
        "bootstrap_peers",
        metavar="HOST:PORT,...",
        multiple=True,
        help="Nodes to link to; may be repeated.",
    ),
    click.option(
        "--dns-seed",
        "dns_seeds",
        metavar="NAME,...",
        multiple=True,
        help="Names whose DNS records list nodes to link to; may be repeated.",
    ),
    click.option(
        "--network",
        "--p2p-network",
        "p2p_network",
        metavar="NAME",
        help="Only nodes of the same network link.  [default: main]",
    ),
    click.option(
        "--security",
        "--p2p-security",
        "p2p_security",
        metavar="tls|off",
        help="Encrypt and authenticate links, or not.  [default: tls]",
    ),
    click.option(
        "--no-mdns", is_flag=True, help="Do not announce or look for nodes on the local network."
    ),
    click.option(
        "--mode",
        type=click.Choice(["p2p", "hybrid", "grenache"]),
        help="p2p: direct links alone; hybrid: also Grenache, where a Grape answers; grenache: everything "
        "over Grenache, no direct links.  [default: hybrid]",
    ),
    click.option(
        "--grape",
        "grape_url",
        metavar="URL,...",
        multiple=True,
        help="Use these Grapes; may be repeated.  [default: http://127.0.0.1:30001]",
    ),
    click.option(
        "--embed-grape",
        is_flag=True,
        help="Run a Grape inside this node; no Grape server is needed then.",
    ),
    click.option(
        "--grape-bootstrap",
        metavar="HOST:PORT,...",
        multiple=True,
        help="DHT nodes that the Grape inside joins; implies --embed-grape; may be repeated.",
    ),
    click.option("--max-peers", metavar="N", help="Most links at once.  [default: 50]"),
    click.option(
        "--instruments",
        "--instruments-file",
        "instruments_file",
        metavar="FILE",
        help="Define other markets than the default ones.",
    ),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Read settings from this file.  [default: exchange-node.toml in the data directory]",
    ),
    click.option(
        "--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: warning]"
    ),
    click.option("--log-format", metavar="text|json", help="Form of log lines.  [default: text]"),
    click.option(
        "--log-file", metavar="FILE", help="Log to this file, rotated.  [default: standard error]"
    ),
)


def start_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds the options of a node; the command gets `config_file` and the values for `load_settings`."""

    @wraps(command)
    def with_values(
        *args: Any,
        bootstrap_peers: tuple[str, ...],
        dns_seeds: tuple[str, ...],
        no_mdns: bool,
        mode: str | None,
        grape_url: tuple[str, ...],
        embed_grape: bool,
        grape_bootstrap: tuple[str, ...],
        **values: Any,
    ) -> T:
        return command(
            *args,
            bootstrap_peers=",".join(bootstrap_peers) or None,
            dns_seeds=",".join(dns_seeds) or None,
            discovery_mdns=False if no_mdns else None,
            p2p_enabled=None if mode is None else mode != "grenache",
            discovery_grenache=None if mode is None else mode != "p2p",
            grape_url=",".join(grape_url) or None,
            grape_embedded=True if embed_grape or grape_bootstrap else None,
            grape_bootstrap=",".join(grape_bootstrap) or None,
            **values,
        )

    decorated: Callable[..., T] = with_values
    for option in reversed(_START_OPTIONS):
        decorated = option(decorated)
    return decorated


@click.command()
@start_options
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def start(config_file: str | None, as_json: bool, **values: object) -> int:
    """Run a node until Ctrl-C.

    It finds other nodes on the local network by itself; --bootstrap names nodes elsewhere. Every
    option is also a setting (a variable, or a line in a file): see 'exchange-node config'.

    \b
    Examples:
      exchange-node start
      exchange-node start --data-dir /tmp/second        another node on the same machine
      exchange-node start --bootstrap 192.168.1.20:3000
      exchange-node start --p2p-port 4000 --api-port 8400 --no-mdns
      exchange-node start --grape http://127.0.0.1:30001    use a Grape that runs here
      exchange-node start --grape-bootstrap 203.0.113.5:20001    be a Grape oneself
      exchange-node start --mode grenache               no direct links at all
      exchange-node start --json                        one line of JSON when ready, for scripts
    """
    if sys.stderr.isatty() and sys.stdout.isatty():
        sys.stderr.write("starting ...\r")  # overwritten by what comes
        sys.stderr.flush()
    loaded = load_settings(config_file, **values)
    with heavy_imports():
        daemon = importlib.import_module("node.daemon.run_node")
    code: int = daemon.run(loaded, as_json=as_json)
    return code


def load_settings(config_file: str | None, **values: object) -> Any:
    """`config.load` with the command line's values; a wrong one ends the command with code 2."""
    with heavy_imports():
        from config import SettingError, load

    if values.get("data_dir") is None:
        values["data_dir"] = inherited("data_dir")
    try:
        return load(values, config_file=Path(config_file) if config_file else None)
    except SettingError as error:
        for problem in error.problems[:-1]:
            click.echo(f"exchange-node: {problem}", err=True)
        raise CommandFailure(error.problems[-1], Exit.USAGE) from None


@click.group(
    invoke_without_command=True, short_help="Nodes that trade here; or see a part at work."
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
    module = importlib.import_module("node.demos.trading_demo")
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
    """The options that all demos of `node.demos` share."""
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


def play(name: str, seed: int, real: bool, as_json: bool, plot: Path | None) -> int:
    """Run `node.demos.<name>`. What is watched goes to stderr when stdout is for JSON."""
    from rich.console import Console

    out = Console(stderr=as_json)
    module = importlib.import_module(f"node.demos.{name}")
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
    return play("storm", seed, real, as_json, plot)


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
    return play("throttled", seed, real, as_json, plot)


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
    return play("components", seed, real, as_json, plot)


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
    return play("routing_demo", seed, real, as_json, plot)
