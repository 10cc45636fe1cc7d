"""`start`: a node in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from node.cli.client_session import CommandFailure, Exit, inherited
from node.cli.heavy_imports import heavy_imports

T = TypeVar("T")


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
        from config import SettingError, load, schema

    if values.get("data_dir") is None:
        values["data_dir"] = inherited("data_dir")
    for key, value in values.items():
        if value is not None and key not in schema():  # of an annex that is not there
            option = key.replace("_", "-")
            raise CommandFailure(
                f"--{option}: this program has no part that it is a setting of", Exit.USAGE
            )
    try:
        return load(values, config_file=Path(config_file) if config_file else None)
    except SettingError as error:
        for problem in error.problems[:-1]:
            click.echo(f"exchange-node: {problem}", err=True)
        raise CommandFailure(error.problems[-1], Exit.USAGE) from None
