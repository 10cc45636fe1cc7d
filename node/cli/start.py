"""`start` and `demo`: the commands that run nodes in this process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from node.cli.session import Exit, Failure


@click.command()
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Key, journal and peer list of this node.  [default: ~/.exchange-node]",
)
@click.option("--p2p-host", metavar="HOST", help="Listen for other nodes here.  [default: 0.0.0.0]")
@click.option(
    "--p2p-port",
    metavar="PORT",
    help="Port for other nodes; 0 takes a free one.  [default: 3000, or a free one]",
)
@click.option("--api-host", metavar="HOST", help="Listen for clients here.  [default: 127.0.0.1]")
@click.option(
    "--api-port",
    metavar="PORT",
    help="Port for clients; 0 takes a free one.  [default: 8300, or a free one]",
)
@click.option(
    "--bootstrap",
    "bootstrap_peers",
    metavar="HOST:PORT,...",
    multiple=True,
    help="Nodes to link to; may be repeated.",
)
@click.option(
    "--network",
    "--p2p-network",
    "p2p_network",
    metavar="NAME",
    help="Only nodes of the same network link.  [default: main]",
)
@click.option(
    "--security",
    "--p2p-security",
    "p2p_security",
    metavar="tls|off",
    help="Encrypt and authenticate links, or not.  [default: tls]",
)
@click.option(
    "--no-mdns", is_flag=True, help="Do not announce or look for nodes on the local network."
)
@click.option("--max-peers", metavar="N", help="Most links at once.  [default: 50]")
@click.option(
    "--instruments",
    "--instruments-file",
    "instruments_file",
    metavar="FILE",
    help="Define other markets than the default ones.",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="Read settings from this file.  [default: exchange-node.toml in the data directory]",
)
@click.option(
    "--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: warning]"
)
@click.option("--log-format", metavar="text|json", help="How log lines look.  [default: text]")
def start(
    bootstrap_peers: tuple[str, ...], no_mdns: bool, config_file: str | None, **values: str | None
) -> int:
    """Run a node until Ctrl-C.

    It finds other nodes on the local network by itself; --bootstrap names nodes elsewhere. Every
    option is also a setting (a variable, or a line in a file): see 'exchange-node config'.

    \b
    Examples:
      exchange-node start
      exchange-node start --data-dir /tmp/second        another node on the same machine
      exchange-node start --bootstrap 192.168.1.20:3000
      exchange-node start --p2p-port 4000 --api-port 8400 --no-mdns
    """
    loaded = load_settings(
        config_file,
        **values,
        bootstrap_peers=",".join(bootstrap_peers) if bootstrap_peers else None,
        discovery_mdns=False if no_mdns else None,
    )
    daemon = importlib.import_module("node.daemon")
    code: int = daemon.run(loaded)
    return code


def load_settings(config_file: str | None, **values: object) -> Any:
    """`config.load` with the command line's values; a wrong one ends the command with code 2."""
    from config import SettingError, load

    try:
        return load(values, config_file=Path(config_file) if config_file else None)
    except SettingError as error:
        for problem in error.problems[:-1]:
            click.echo(f"exchange-node: {problem}", err=True)
        raise Failure(error.problems[-1], Exit.USAGE) from None


@click.command()
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
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document.")
def demo(nodes: int, seconds: float, seed: int | None, as_json: bool) -> int:
    """Run a few nodes with simulated traders in this terminal.

    Real nodes on free loopback ports, in a temporary directory that is removed afterwards. The
    summary at the end shows orders, fills and whether all books agree.

    \b
    Examples:
      exchange-node demo
      exchange-node demo --nodes 5 --seconds 30
      exchange-node demo --seed 7 --json
    """
    module = importlib.import_module("node.demo")
    code: int = module.run(nodes=nodes, seconds=seconds, seed=seed, json=as_json)
    return code
