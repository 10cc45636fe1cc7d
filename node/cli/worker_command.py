"""`worker`: a node that also serves a function of the user's."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from node.cli.client_session import CommandFailure, Exit
from node.cli.start_command import load_settings, no_collections, start_options

_UNITS: Final = {"": 0.001, "ms": 0.001, "s": 1.0}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """50ms, 1.5s, or a number of ms."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s)?", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no time such as 50ms or 1.5s")
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
    metavar="MODULE:FUNCTION",
    required=True,
    help="What answers: function(payload), async or not.",
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
    """Run a node that serves a function, until Ctrl-C.

    It is a node like that of 'start', with the same options; other nodes of the network find the
    service by its name. The module is looked for in the current directory first. The function takes
    the payload and returns the result, both of what JSON holds; it refuses by raising
    p2p.base.errors.HandlerError(code, message).

    \b
    Examples:
      exchange-node worker --service job_service --handler jobs:execute
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
    with no_collections():
        daemon = importlib.import_module("node.daemon.run_node")
    code: int = daemon.run_worker(loaded, function, workers=concurrency, faults=faults or None)
    return code


def load_handler(text: str) -> Any:
    """The function that MODULE:FUNCTION names; a wrong one ends the command with code 2."""
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise _wrong(text, "it is written MODULE:FUNCTION, such as jobs:execute")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (
            error.name == module_name or module_name.startswith(f"{error.name}.")
        ):
            raise _wrong(
                text, f"there is no module {error.name!r} in {here} or installed"
            ) from None
        raise _wrong(text, f"importing {module_name} failed: {_told(error)}") from error
    except Exception as error:
        raise _wrong(text, f"importing {module_name} failed: {_told(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            names = [
                n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))
            ]
            has = f"; it has {', '.join(sorted(names)[:10])}" if names else ""
            raise _wrong(text, f"{module_name} has no {name!r}{has}")
        found = getattr(found, name)
    if not callable(found):
        raise _wrong(text, f"{path} of {module_name} is a {type(found).__name__}, no function")
    return found


def _told(error: BaseException) -> str:
    """The error with the place in the user's file that it comes from."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<") and name != __file__ and "importlib" not in name:
            place = f" ({name}:{trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
        return f"SyntaxError: {error.msg}{place}"
    return f"{type(error).__name__}: {error}{place}"


def _wrong(text: str, why: str) -> CommandFailure:
    return CommandFailure(f"cannot use the handler {text!r}: {why}", Exit.USAGE)
