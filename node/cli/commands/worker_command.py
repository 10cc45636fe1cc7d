"""`worker`: a node that also serves a function of the user's."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

import click

from node.cli.attach_worker import running_node, serve_attached
from node.cli.commands.start_command import load_settings, start_options
from node.cli.handler_loader import load_handler
from node.cli.heavy_imports import heavy_imports

_UNITS: Final = {"": 0.001, "ms": 0.001, "s": 1.0}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """50ms, 1.5s, or a number of ms."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s)?", value.strip())
    if match is None:
        raise click.BadParameter(f"invalid duration {value!r}, e.g. 50ms or 1.5s")
    return float(match[1]) * _UNITS[match[2] or ""]


RATE: Final = click.FloatRange(0.0, 1.0)


@click.command()
@click.option(
    "--service",
    metavar="NAME",
    help="Name of the service.  [default: WORKER_SERVICE_NAME, or job_service]",
)
@click.option(
    "--handler",
    "handler",
    metavar="MODULE:FUNCTION|FILE.py:FUNCTION",
    required=True,
    help="Handler: function(payload), async or not.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    metavar="N",
    help="Requests served at once; a few more wait, the rest is refused as busy.",
)
@click.option(
    "--latency",
    default="0",
    metavar="TIME",
    callback=_seconds,
    help="For tests: be slower by this.",
)
@click.option(
    "--jitter",
    default="0",
    metavar="TIME",
    callback=_seconds,
    help="For tests: and by up to this more.",
)
@click.option("--error-rate", type=RATE, default=0.0, metavar="P", help="For tests: fail so often.")
@click.option(
    "--hang-rate", type=RATE, default=0.0, metavar="P", help="For tests: never answer so often."
)
@click.option(
    "--crash-rate", type=RATE, default=0.0, metavar="P", help="For tests: crash so often."
)
@click.option(
    "--flap",
    default="0",
    metavar="TIME",
    callback=_seconds,
    help="For tests: fail for this long, work for this long.",
)
@start_options
def worker(
    service: str | None,
    handler: str,
    concurrency: int,
    latency: float,
    jitter: float,
    error_rate: float,
    hang_rate: float,
    crash_rate: float,
    flap: float,
    config_file: str | None,
    **values: Any,
) -> int:
    """Serve a function to the network, until Ctrl-C.

    Beside a node that runs on the data directory, that node offers the service and passes requests
    on to this process. Without one this command runs a node like that of 'start', with the same
    options. Other nodes find the service by its name. The module is looked for in the current
    directory first. The function takes the payload and returns the result, both of what JSON holds;
    it refuses by raising p2p.base.errors.HandlerError(code, message).

    \b
    Examples:
      exchange-node worker --service job_service --handler jobs:execute
      exchange-node worker --handler jobs.py:execute
      exchange-node worker --handler jobs:execute --data-dir /tmp/second --concurrency 4
      exchange-node worker --handler jobs:execute --latency 50ms --error-rate 0.1     for tests
      exchange-node call job_service '{"action":"execute"}'                           elsewhere
    """
    loaded = load_settings(config_file, worker_service_name=service, **values)
    function = load_handler(handler)
    from p2p.services.fault_injection import Faults

    faults = Faults(
        latency_s=latency,
        jitter_s=jitter,
        error_rate=error_rate,
        hang_rate=hang_rate,
        crash_rate=crash_rate,
        flap_s=flap,
    )
    found = running_node(loaded.settings.data_dir)
    if found is not None:
        _warn_unused(values)
        name = loaded.settings.worker_service_name
        return serve_attached(found, name, function, workers=concurrency, faults=faults or None)
    with heavy_imports():
        daemon = importlib.import_module("node.daemon.run_node")
    code: int = daemon.run_worker(loaded, function, workers=concurrency, faults=faults or None)
    return code


def _warn_unused(values: dict[str, Any]) -> None:
    """Name the options that only a node of its own would have used."""
    unused = sorted(
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if value is not None and name != "data_dir"
    )
    if unused:
        click.echo(
            f"exchange-node: warning: {', '.join(unused)} not used: the running node has its own "
            "settings",
            err=True,
        )
