"""`exchange-node start`: one node in this process, from the data directory to the orderly stop."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from config import Loaded, Settings
from exchange.instruments import Instruments, InstrumentsFileError
from exchange.journal import Journal, JournalError
from node import VERSION
from node.node import Node
from node.offers import OFFERS
from p2p.faults import Faults
from p2p.hostport import format_host_port
from p2p.identity import Identity
from p2p.serving import Handler

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 4
PORT_FALLBACKS = 20  # consecutive ports tried when the default one is taken and none was asked for


class StartError(Exception):
    """The node cannot start. The text says what is wrong and what to do."""


def run(loaded: Loaded) -> int:
    """Run a node until SIGTERM or Ctrl-C; returns the exit code."""
    ports = _ports(loaded.settings.p2p_port, loaded.is_default("p2p_port"))
    return _run(loaded, ports, lambda node: None)


def run_worker(
    loaded: Loaded, handler: Handler, *, workers: int, faults: Faults | None = None
) -> int:
    """As `run`, for a node that also serves `handler` as WORKER_SERVICE_NAME."""
    settings: Settings = loaded.settings
    ports = _ports(settings.p2p_port, loaded.is_default("p2p_port"))
    if loaded.is_default("p2p_port"):
        ports = _ports(settings.worker_port, loaded.is_default("worker_port"))

    def prepare(node: Node) -> None:
        name = settings.worker_service_name
        try:
            node.serve(name, handler, workers=workers, faults=faults)
        except ValueError as error:
            raise StartError(f"cannot serve {name!r}: {error} (--service)") from error

    return _run(loaded, ports, prepare)


def _run(loaded: Loaded, p2p_ports: Sequence[int], prepare: Callable[[Node], None]) -> int:
    settings: Settings = loaded.settings
    configure_logging(settings)
    for warning in loaded.warnings:
        print(f"exchange-node: warning: {warning}", file=sys.stderr)
    try:
        with ExitStack() as stack, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(loaded, stack, p2p_ports, prepare))
    except StartError as error:
        print(f"exchange-node: {error}", file=sys.stderr)
        return EXIT_FAILED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    loaded: Loaded, stack: ExitStack, p2p_ports: Sequence[int], prepare: Callable[[Node], None]
) -> int:
    settings = loaded.settings
    node = await start_node(
        settings,
        stack,
        prepare=prepare,
        p2p_ports=p2p_ports,
        api_ports=_ports(settings.api_port, loaded.is_default("api_port")),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    # What was recovered lives as long as the node: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    print(banner(node, settings), flush=True)
    try:
        await node.run(stop)
    except BaseExceptionGroup as group:
        await node.abort()
        failed, _ = group.split(JournalError)
        if failed is None:
            raise
        print(f"exchange-node: {_first(failed)}; stopped", file=sys.stderr)
        return EXIT_FAILED
    print("stopped", flush=True)
    return EXIT_OK


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def start_node(
    settings: Settings,
    stack: ExitStack,
    *,
    p2p_ports: Sequence[int],
    api_ports: Sequence[int],
    prepare: Callable[[Node], None] = lambda node: None,
) -> Node:
    """Open the data directory and start a node on it. `stack` gives back what was taken; `prepare` is
    called before the node joins the network.

    Raises:
        StartError: with what is wrong and what to do.
    """
    data_dir = settings.data_dir
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _lock(settings.lock_path, stack)
        identity = Identity.load_or_create(settings.key_path)
        instruments = (
            Instruments.load(settings.instruments_file)
            if settings.instruments_file
            else Instruments.default()
        )
        journal = Journal(settings.journal_path, sync=settings.journal_sync, owner=identity.node_id)
        stack.callback(journal.close)
        node = Node(settings, identity, instruments, journal)
    except (OSError, ValueError, JournalError, InstrumentsFileError) as error:
        raise StartError(f"cannot use the data directory {data_dir}: {error}") from error
    prepare(node)
    await _bind(node, settings, p2p_ports, api_ports)
    _write_runtime(settings.runtime_path, node)
    stack.callback(settings.runtime_path.unlink, missing_ok=True)
    return node


async def _bind(
    node: Node, settings: Settings, p2p_ports: Sequence[int], api_ports: Sequence[int]
) -> None:
    try:
        await node.listen_to_peers(p2p_ports)
    except OSError as error:
        raise StartError(_bind_text("peers", "P2P", settings.p2p_host, p2p_ports, error)) from error
    try:
        await node.listen_to_clients(api_ports)
    except OSError as error:
        await node.abort()
        raise StartError(
            _bind_text("the API", "API", settings.api_host, api_ports, error)
        ) from error


def _bind_text(what: str, prefix: str, host: str, ports: Sequence[int], error: OSError) -> str:
    where = format_host_port(host, ports[0])
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen for {what} at {where}: another program does; choose another port with "
            f"--{prefix.lower()}-port, or leave it out for a free one"
        )
    return f"cannot listen for {what} at {where}: {error.strerror or error} ({prefix}_HOST, {prefix}_PORT)"


def _ports(port: int, is_default: bool) -> list[int]:
    """What to try: a port that was asked for is the only one."""
    return [port, *range(port + 1, port + PORT_FALLBACKS), 0] if is_default else [port]


def _lock(path: Path, stack: ExitStack) -> None:
    """One node to a data directory.

    Raises:
        StartError: another one has it.
    """
    file: IO[str] = stack.enter_context(path.open("a+", encoding="ascii"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read(20).strip()
        raise StartError(
            f"a node is already running on {path.parent} (process {pid or 'unknown'}); stop it, or "
            "start another one with --data-dir OTHER"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def _write_runtime(path: Path, node: Node) -> None:
    """Where client commands find this node."""
    host, port = node.overlay.address
    data = {
        "api_url": node.api.url,
        "node_id": node.node_id,
        "pid": os.getpid(),
        "p2p_address": format_host_port(host, port),
    }
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(data, file)
    draft.rename(path)


def banner(node: Node, settings: Settings) -> str:
    """What a person needs to know first."""
    status = node.status()
    security = "TLS 1.3" if settings.p2p_security == "tls" else "plain TCP, P2P_SECURITY=off"
    finding = [view for view in status.discovery if view.state != "off"]
    names = {
        "persisted": "remembered peers",
        "bootstrap": f"bootstrap ({len(settings.bootstrap_peers)})",
        "mdns": "mDNS on the local network",
        "exchange": "peer exchange",
    }
    discovery = ", ".join(
        names.get(view.name, view.name) + (" (failed)" if view.state == "failed" else "")
        for view in finding
    )
    extra = [name for name in status.services if name not in OFFERS]
    default_dir = Path("~/.exchange-node").expanduser()
    where = "" if settings.data_dir == default_dir else f" --data-dir {settings.data_dir}"
    lines = [
        f"exchange-node {VERSION}",
        f"  node       {node.node_id}",
        f"  peers      {status.p2p_address} ({security}, network {settings.p2p_network})",
        f"  clients    {status.api_url} (API documents at /docs)",
        f"  discovery  {discovery or 'none: only nodes that dial this one'}",
        *([f"  serves     {', '.join(extra)}"] if extra else []),
        f"  data       {settings.data_dir}",
        "Try, in another terminal:",
        f"  exchange-node status{where}",
        f"  exchange-node order sell BTC-USD 0.5 @ 30000{where}",
        f"  exchange-node book BTC-USD --watch{where}",
        "Ctrl-C stops the node.",
    ]
    return "\n".join(lines)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure_logging(settings: Settings) -> None:
    """Log to standard error, in the format and from the level of the settings."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_msec_format = "%s.%03dZ"
        formatter.default_time_format = "%H:%M:%S"
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    level = settings.log_level.upper()
    for room in ("node", "p2p", "exchange"):
        logging.getLogger(room).setLevel(level)
    if level == "ERROR":
        root.setLevel(level)
