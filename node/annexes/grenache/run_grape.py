"""`exchange-node grape`: one Grape in this process, until it is stopped."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from config import Loaded, is_loopback
from node.annexes.grenache.settings import BridgeSettings
from node.daemon.process import (
    EXIT_OK,
    StartError,
    claim_descriptors,
    configure_logging,
    loop_factory,
    tell,
)
from node.version import VERSION
from p2p.base.host_port import format_host_port
from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_http import GrapeApi
from p2p.grenache.grape.grape_settings import GrapeSettings

log = logging.getLogger(__name__)

LOOK_EVERY = 0.1  # seconds between two looks at whether others are known
UNANSWERED = 10.0  # seconds without an answer from any bootstrap address, then a warning


def grape_settings(settings: BridgeSettings, **more: Any) -> GrapeSettings:
    """DHT node that the settings ask for, in a node or alone. `more`: fields that differ or are missing there."""
    given: dict[str, Any] = {
        "host": settings.grape_host,
        "port": settings.grape_dht_port,
        "bootstrap": tuple((host, port) for host, port in settings.grape_bootstrap),
        "peer_max_age": settings.grape_peer_max_age_s,
        "concurrency": settings.grape_concurrency,
        "public_host": settings.grape_public_host or None,
        "bep42": settings.grape_bep42,
    }
    return GrapeSettings(**{**given, **more})


def run(
    loaded: Loaded, *, node_liveness: float, max_values: int, max_payload: int, as_json: bool
) -> int:
    """Run a Grape until SIGTERM or Ctrl-C; returns the exit code. Times in seconds, sizes in bytes."""
    settings = loaded.settings.of(BridgeSettings)
    for warning in loaded.warnings:
        tell(f"exchange-node: warning: {warning}", sys.stderr)
    grape = Grape(grape_settings(settings, node_liveness=node_liveness, max_values=max_values))
    try:
        claim_descriptors()
        configure_logging(settings)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(settings, grape, max_payload, as_json))
    except StartError as error:
        tell(f"exchange-node: {error}", sys.stderr)
        return error.code


async def _serve(settings: BridgeSettings, grape: Grape, max_payload: int, as_json: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    api = GrapeApi(grape, max_payload=max_payload)
    try:
        await _listen(settings, grape, api)
        gc.collect()
        gc.freeze()
        tell(_ready_line(grape, api) if as_json else banner(grape, api, settings))
        if not is_loopback(settings.grape_api_host):
            log.warning("the API listens on %s without access control", api.address[0])

        def tell_change(line: str) -> None:
            tell(line, sys.stderr if as_json else sys.stdout)

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(grape, bool(settings.grape_bootstrap), tell_change))
            await stop.wait()
            watching.cancel()
    finally:
        await api.stop()
        await grape.stop()
    if not as_json:
        tell("stopped")
    return EXIT_OK


async def _listen(settings: BridgeSettings, grape: Grape, api: GrapeApi) -> None:
    try:
        await grape.start()
    except OSError as error:
        where = format_host_port(settings.grape_host, settings.grape_dht_port)
        raise StartError(_bind_text("the DHT", f"UDP {where}", "dp", "bind", error)) from error
    try:
        await api.start(settings.grape_api_host, settings.grape_api_port)
    except OSError as error:
        where = format_host_port(settings.grape_api_host, settings.grape_api_port)
        raise StartError(_bind_text("the API", where, "aph", "api-host", error)) from error


def _bind_text(what: str, where: str, port_flag: str, host_flag: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen for {what} at {where}: another program does, perhaps another Grape; choose "
            f"another port with --{port_flag}, or 0 for a free one"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"cannot listen for {what} at {where}: this machine has no such address; choose one that it "
            f"has with --{host_flag}, or 0.0.0.0 for all"
        )
    return f"cannot listen for {what} at {where}: {error.strerror or error} (--{host_flag}, --{port_flag})"


async def _watch(grape: Grape, has_bootstrap: bool, tell: Callable[[str], None]) -> None:
    """Tell when the first other Grape is found, when none is left, and when none can be found."""
    loop = asyncio.get_running_loop()
    began, known, warned = loop.time(), False, False
    while True:
        status = grape.status()
        if (status.nodes > 0) != known:
            known = status.nodes > 0
            if known:
                others = "1 other Grape" if status.nodes == 1 else f"{status.nodes} other Grapes"
                tell(f"joined the DHT: {others} known")
            else:
                tell("no other Grape answers any more; serving the local entries, and trying again")
        elif not known and has_bootstrap and not warned and loop.time() - began > UNANSWERED:
            warned = True
            silent = ", ".join(format_host_port(one.host, one.port) for one in status.bootstrap)
            tell(f"no answer yet from {silent} (--bn); serving the local entries, and trying again")
        await asyncio.sleep(LOOK_EVERY)


def _ready_line(grape: Grape, api: GrapeApi) -> str:
    return json.dumps(
        {
            "node_id": grape.node_id.hex(),
            "dht_address": format_host_port(*grape.address),
            "dht_port": grape.address[1],
            "api_url": api.url,
            "api_port": api.address[1],
            "pid": os.getpid(),
        }
    )


def banner(grape: Grape, api: GrapeApi, settings: BridgeSettings) -> str:
    """Return the lines printed when the Grape is ready."""
    host, port = grape.address
    near = "127.0.0.1" if host == "0.0.0.0" else host
    bootstrap = ", ".join(format_host_port(*address) for address in settings.grape_bootstrap)
    return "\n".join(
        [
            f"exchange-node {VERSION} grape",
            f"  node       {grape.node_id.hex()}",
            f"  DHT        {format_host_port(host, port)} (UDP)",
            f"  HTTP API   {api.url}",
            f"  bootstrap  {bootstrap or 'none: the first Grape, which others can join'}",
            "Try, in another terminal:",
            f"""  curl -d '{{"data":["my_service",1337]}}' {api.url}/announce""",
            f"""  curl -d '{{"data":"my_service"}}' {api.url}/lookup""",
            f"  curl {api.url}/status",
            f"  exchange-node grape --dp 0 --aph 0 --bn {format_host_port(near, port)}     a second Grape",
            "Ctrl-C stops the Grape.",
        ]
    )
