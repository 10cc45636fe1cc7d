"""`grape`: a Grape alone, in place of the Node.js program `grape`."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

import click

from node.cli.client_session import CommandFailure, Exit
from node.cli.commands.start_command import load_settings
from node.cli.heavy_imports import heavy_imports

_UNSHOWN: Final = re.compile(r"--grape-.*|.*_.*|--b")


class Flag(click.Option):
    """An option with more spellings than --help shows: those of the Node.js program, and those that
    messages about settings name."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every = self.opts
        self.opts = [name for name in every if not _UNSHOWN.fullmatch(name)]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def _host(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Check a --bind value for both settings that the option stands for."""
    if value is None:
        return None
    from config.setting_types import Host

    try:
        return str(Host().parse(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not {Host().expected}") from None


@click.command(short_help="Run a Grape: a DHT node of Grenache with its HTTP API.")
@click.option(
    "--dp",
    "--dht-port",
    "--dht_port",
    "--grape-dht-port",
    "grape_dht_port",
    cls=Flag,
    metavar="PORT",
    help="UDP port of the DHT; 0 takes a free one.  [default: 20001]",
)
@click.option(
    "--aph",
    "--api-port",
    "--api_port",
    "--grape-api-port",
    "grape_api_port",
    cls=Flag,
    metavar="PORT",
    help="TCP port of the HTTP API; 0 takes a free one.  [default: 30001]",
)
@click.option(
    "--bn",
    "--bootstrap",
    "--grape-bootstrap",
    "grape_bootstrap",
    cls=Flag,
    metavar="HOST:PORT,...",
    multiple=True,
    help="DHT ports of Grapes to join, ours or others; one that is up is enough. May be repeated, or "
    "left out for the first Grape.",
)
@click.option(
    "-b",
    "--bind",
    "--b",
    "bind",
    cls=Flag,
    metavar="HOST",
    callback=_host,
    help="Listen here, for the DHT and for the API.  [default: 0.0.0.0 for the DHT, 127.0.0.1 for the API]",
)
@click.option(
    "--dht-host",
    "--grape-host",
    "grape_host",
    cls=Flag,
    metavar="HOST",
    help="Listen here for the DHT.",
)
@click.option(
    "--api-host",
    "--grape-api-host",
    "grape_api_host",
    cls=Flag,
    metavar="HOST",
    help="Listening address of the API, which has no access control.",
)
@click.option(
    "--dpa",
    "--peer-max-age",
    "--dht_peer_maxAge",
    "--grape-peer-max-age",
    "grape_peer_max_age",
    cls=Flag,
    metavar="MS",
    help="Forget an announcement this long after it was last made; 0: never.  [default: 120000]",
)
@click.option(
    "--dnl",
    "--node-liveness",
    "--dht_nodeLiveness",
    "node_liveness",
    cls=Flag,
    type=click.IntRange(1000, 3_600_000),
    default=60_000,
    show_default=True,
    metavar="MS",
    help="Ping a Grape after this time without a message.",
)
@click.option(
    "--dc",
    "--concurrency",
    "--dht_concurrency",
    "--grape-concurrency",
    "grape_concurrency",
    cls=Flag,
    metavar="N",
    help="Queries that one search has under way.  [default: 32]",
)
@click.option(
    "--max-values",
    "--dht_maxValues",
    "max_values",
    cls=Flag,
    type=click.IntRange(1, 1_000_000),
    default=5000,
    show_default=True,
    metavar="N",
    help="Most values kept; the one unused for longest gives way.",
)
@click.option(
    "--max-payload",
    "--check_maxPayloadSize",
    "--check-max-payload-size",
    "max_payload",
    cls=Flag,
    type=click.IntRange(256, 1 << 20),
    default=8192,
    show_default=True,
    metavar="BYTES",
    help="Largest body of a request to the API.",
)
@click.option(
    "--public-host",
    "--grape-public-host",
    "grape_public_host",
    cls=Flag,
    metavar="IPV4",
    help="Record announcements made at this Grape under this address.  [default: as seen by other "
    "Grapes]",
)
@click.option(
    "--bep42",
    "--grape-bep42",
    "grape_bep42",
    cls=Flag,
    is_flag=True,
    help="Tie node ids to addresses (BEP 42). Not in one DHT with Node.js Grapes.",
)
@click.option("--dht_maxTables", "max_tables", hidden=True, help="Ignored.")
@click.option("--cache_maxAge", "cache_max_age", hidden=True, help="Ignored.")
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
@click.option(
    "--json", "as_json", is_flag=True, help="Print one line of JSON with the addresses when ready."
)
def grape(
    bind: str | None,
    grape_host: str | None,
    grape_api_host: str | None,
    grape_bootstrap: tuple[str, ...],
    grape_bep42: bool,
    node_liveness: int,
    max_values: int,
    max_payload: int,
    max_tables: str | None,
    cache_max_age: str | None,
    config_file: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Run a Grape until Ctrl-C: a Grenache DHT node with its HTTP API.

    It takes the place of the Node.js program 'grape', in one DHT with it and for the same clients, and
    works alone too. Every Grape of a DHT can be asked for what was announced at any other.

    \b
    Examples:
      exchange-node grape                                               the first, or the only one
      exchange-node grape --dp 20002 --aph 30002 --bn 127.0.0.1:20001   another one that joins it
      exchange-node grape --bn 192.0.2.7:20001,192.0.2.8:20001          one on another machine
      exchange-node grape --api-host 0.0.0.0                            for workers elsewhere, too
      exchange-node grape --dp 0 --aph 0 --json                         for scripts

    \b
    Try it:
      curl -d '{"data":["my_service",1337]}' http://127.0.0.1:30001/announce
      curl -d '{"data":"my_service"}' http://127.0.0.1:30001/lookup
      curl http://127.0.0.1:30001/status

    Options are settings too (GRAPE_DHT_PORT and so on): see 'exchange-node config'.
    """
    loaded = load_settings(
        config_file,
        grape_host=grape_host or bind,
        grape_api_host=grape_api_host or bind,
        grape_bootstrap=",".join(grape_bootstrap) or None,
        grape_bep42=True if grape_bep42 else None,
        **values,
    )
    for given, name in ((max_tables, "--dht_maxTables"), (cache_max_age, "--cache_maxAge")):
        if given is not None:
            click.echo(f"exchange-node: warning: {name} is ignored: not needed here", err=True)
    six = next((str(one) for one in loaded.settings.grape_bootstrap if ":" in one.host), None)
    if six is not None:
        raise CommandFailure(
            f"the DHT cannot join {six}: it supports IPv4 only; give the Grape's IPv4 address",
            Exit.USAGE,
        )
    if ":" in loaded.settings.grape_host:
        raise CommandFailure(
            f"the DHT cannot listen at {loaded.settings.grape_host}: it supports IPv4 only; "
            f"choose an IPv4 address with --bind or --dht-host (the API may have another with "
            f"--api-host)",
            Exit.USAGE,
        )
    with heavy_imports():
        daemon = importlib.import_module("node.annexes.grenache.run_grape")
    code: int = daemon.run(
        loaded,
        node_liveness=node_liveness / 1000,
        max_values=max_values,
        max_payload=max_payload,
        as_json=as_json,
    )
    return code
