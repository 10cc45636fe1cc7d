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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from config import Loaded, Settings
from exchange.journal.journal import JournalError
from exchange.journal.market_history import HistoryError, MarketHistory
from exchange.model.instruments import Instruments, InstrumentsFileError
from node.client.node_finder import data_dir_option, program, same_node
from node.daemon.data_directory import holds_journal, open_key_and_journal
from node.daemon.node import KnownNodes, Node, NodeData
from node.daemon.port_choice import PortTaken, wanted_ports
from node.daemon.process import (
    EXIT_FAILED,
    EXIT_OK,
    StartError,
    claim_descriptors,
    configure_logging,
    loop_factory,
    tell,
)
from node.daemon.progress import Progress
from node.daemon.restore import marked
from node.daemon.service_manager import ServiceManager, credential
from node.http.api_tls import Tls, TlsError, load_tls, self_signed
from node.parts.table import wanted
from node.service.market_steps import load_market_steps
from node.service.public_services import OFFERS
from node.version import VERSION
from node.views.node_views import DiscoveryView
from p2p.base.host_port import format_host_port
from p2p.ground.durable_file import replace_file
from p2p.services.fault_injection import Faults
from p2p.services.service_server import Handler

log = logging.getLogger(__name__)


def run(loaded: Loaded, *, as_json: bool = False) -> int:
    """Run a node until SIGTERM, SIGHUP or Ctrl-C; returns the exit code.

    `as_json` prints one line of JSON when the node is ready, instead of lines for people.
    """
    ports = wanted_ports(loaded.settings.p2p_port, loaded.is_default("p2p_port"))
    return _run(loaded, ports, lambda node: None, as_json)


def run_worker(
    loaded: Loaded, handler: Handler, *, workers: int, faults: Faults | None = None
) -> int:
    """As `run`, for a node that also serves `handler` as WORKER_SERVICE_NAME."""
    settings: Settings = loaded.settings
    ports = wanted_ports(settings.p2p_port, loaded.is_default("p2p_port"))
    if loaded.is_default("p2p_port"):
        ports = wanted_ports(settings.worker_port, loaded.is_default("worker_port"))

    def prepare(node: Node) -> None:
        name = settings.worker_service_name
        try:
            node.serve(name, handler, workers=workers, faults=faults)
        except ValueError as error:
            raise StartError(f"cannot serve {name!r}: {error} (--service)") from error

    return _run(loaded, ports, prepare)


def _run(
    loaded: Loaded,
    p2p_ports: Sequence[int],
    prepare: Callable[[Node], None],
    as_json: bool = False,
) -> int:
    for warning in loaded.warnings:
        tell(f"exchange-node: warning: {warning}", sys.stderr)
    collecting = gc.isenabled()
    gc.disable()  # until the node is ready
    try:
        claim_descriptors()  # the loop needs some already
        configure_logging(loaded.settings)
        with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(loaded, stack, p2p_ports, prepare, as_json))
    except StartError as error:
        where = data_dir_option(loaded.settings.data_dir)
        tell(f"exchange-node: {same_node(str(error), where)}", sys.stderr)
        return error.code
    finally:
        if collecting:
            gc.enable()


async def _serve(
    loaded: Loaded,
    stack: ExitStack,
    p2p_ports: Sequence[int],
    prepare: Callable[[Node], None],
    as_json: bool,
) -> int:
    settings = loaded.settings
    node = await start_node(
        settings,
        stack,
        prepare=prepare,
        p2p_ports=p2p_ports,
        api_ports=wanted_ports(settings.api_port, loaded.is_default("api_port")),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # SIGHUP: the terminal was closed. The node ends in order, like by Ctrl-C.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signal_number, stop.set)
    # What was imported and recovered lives as long as the node: the collector need not walk it again and
    # again. It was off until now; a pass over all of it finds nothing worth its 35 ms.
    gc.freeze()
    gc.enable()
    tell(_ready_line(node, settings) if as_json else banner(node, settings))
    manager = ServiceManager()
    manager.notify(READY="1", STATUS=_summary(node))
    supervision = asyncio.create_task(manager.run(lambda: _summary(node)), name="service manager")
    stop_watch = asyncio.create_task(_announce_stop(stop, manager), name="stop")
    try:
        await node.run(stop)
    except BaseExceptionGroup as group:
        await node.abort()
        failed, _ = group.split(JournalError)
        if failed is None:
            raise
        tell(f"exchange-node: {_first(failed)}; the node has stopped", sys.stderr)
        return EXIT_FAILED
    finally:
        supervision.cancel()
        stop_watch.cancel()
    if not as_json:
        tell("stopped")
    return EXIT_OK


async def _announce_stop(stop: asyncio.Event, manager: ServiceManager) -> None:
    await stop.wait()
    manager.notify(STOPPING="1", STATUS="stopping")


def _summary(node: Node) -> str:
    """Status text for the service manager: one line."""
    status = node.reports.status()
    return f"{status.peers_connected} peers, API at {status.api_url}"


def _ready_line(node: Node, settings: Settings) -> str:
    """Return a line of JSON with what a program needs to use the node."""
    status = node.reports.status()
    ready = {
        "event": "ready",
        "version": VERSION,
        "node_id": node.node_id,
        "pid": os.getpid(),
        "network": settings.p2p_network,
        "p2p_address": status.p2p_address,
        "api_url": status.api_url,
        "data_dir": str(settings.data_dir),
    }
    return json.dumps(ready)


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
    node = open_node_parts(settings, stack)
    try:
        await node.check_start()
    except StartError:
        await node.abort()
        raise
    prepare(node)
    await _bind(node, settings, p2p_ports, api_ports)
    _write_runtime(settings.runtime_path, node)
    stack.callback(settings.runtime_path.unlink, missing_ok=True)
    return node


def open_node_parts(
    settings: Settings, stack: ExitStack, *, recover_from: KnownNodes | None = None
) -> Node:
    """Open the data directory and make a node of it, which does nothing yet. With `recover_from` it only
    recovers, see `node.annexes.recovery.run_recovery`.

    Raises:
        StartError: with what is wrong and what to do.
    """
    claim_descriptors()
    data_dir = settings.data_dir
    for annex in wanted(settings):
        if annex.check:
            annex.load(annex.check)(settings)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_directory(settings.lock_path, stack)
        if recover_from is None:
            _check_recovered(data_dir)
        configured = (
            Instruments.load(settings.instruments_file)
            if settings.instruments_file
            else Instruments.default()
        )
        existing = holds_journal(settings.journal_path)
        identity, journal = open_key_and_journal(
            settings, credential("node.key") or settings.key_path
        )
        stack.callback(journal.close)
        steps = load_market_steps(
            settings.market_steps_path,
            configured,
            upgraded=settings.instruments_file is None and existing,
        )
        history = MarketHistory(
            settings.market_path,
            identity.node_id,
            trades_kept=settings.market_trades_kept,
            candles_kept=settings.market_candles_kept,
        )
        stack.callback(history.close)
        with Progress(f"reading the journal {settings.journal_path}", log=log.warning) as progress:
            recovered = journal.recover(progress.update)
            data = NodeData(identity, journal, recovered, steps, history)
            return Node(settings, data, _api_tls(settings), recover_from=recover_from)
    except TlsError as error:
        raise StartError(f"cannot serve the API over TLS: {error}") from error
    except InstrumentsFileError as error:
        raise StartError(f"{error} (INSTRUMENTS_FILE)") from error
    except JournalError as error:
        text = f"cannot use the data directory {data_dir}: {error}"
        if "exchange-node " not in text:
            text += ". 'exchange-node journal verify' checks it, 'exchange-node journal repair' keeps what is whole"
        raise StartError(text, EXIT_FAILED) from error
    except OSError as error:
        raise StartError(_directory_text(data_dir, error)) from error
    except (ValueError, HistoryError) as error:
        raise StartError(
            f"cannot use the data directory {data_dir}: {error}", EXIT_FAILED
        ) from error


def _directory_text(data_dir: Path, error: OSError) -> str:
    why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
    if error.filename is not None and str(error.filename) != str(data_dir):
        why += f" ({error.filename})"
    return f"cannot use the data directory {data_dir}: {why}; choose another with --data-dir DIR"


def _api_tls(settings: Settings) -> Tls | None:
    """Raises `TlsError` when the certificate cannot be used."""
    if settings.api_tls_cert is not None:
        return load_tls(settings.api_tls_cert, settings.api_tls_key)
    if settings.api_tls_self_signed:
        return self_signed(settings.data_dir, [settings.api_host.strip("[]")])
    return None


async def _bind(
    node: Node, settings: Settings, p2p_ports: Sequence[int], api_ports: Sequence[int]
) -> None:
    try:
        await node.listen_to_peers(p2p_ports)
    except PortTaken as error:
        await node.abort()
        raise StartError(str(error)) from error
    except OSError as error:
        await node.abort()
        raise StartError(_bind_text("peers", "P2P", settings.p2p_host, p2p_ports, error)) from error
    try:
        await node.listen_to_clients(api_ports)
    except StartError:
        await node.abort()
        raise
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


def lock_directory(path: Path, stack: ExitStack) -> None:
    """Lock the data directory against a second node.

    Raises:
        StartError: another one has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    file: IO[str] = stack.enter_context(os.fdopen(descriptor, "a+", encoding="ascii"))
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


def _check_recovered(data_dir: Path) -> None:
    """Raises `StartError` if the directory was restored or repaired and not recovered since."""
    restored = marked(data_dir)
    if restored is not None:
        raise StartError(
            f"{data_dir} is older than its node: {restored.reason}. Bring it up to date with 'exchange-node "
            "recover --from-peers'"
        )


def _write_runtime(path: Path, node: Node) -> None:
    """Write the runtime file: API address and operator's token for client commands of this user."""
    data = {
        "api_url": node.api.url,
        "api_fingerprint": node.api.fingerprint,
        "operator_token": node.operator_token,
        "node_id": node.node_id,
        "pid": os.getpid(),
        "p2p_address": node.peer_address,
    }
    replace_file(path, json.dumps(data).encode(), durable=False)


def banner(node: Node, settings: Settings) -> str:
    """Return the lines printed when the node is ready."""
    status = node.reports.status()
    security = "TLS 1.3" if settings.p2p_security == "tls" else "plain TCP, P2P_SECURITY=off"
    finding = [view for view in status.discovery if view.state != "off" and _can_find(view)]
    if all(view.name == "exchange" for view in finding):
        finding = []  # addresses are exchanged with nodes that were found otherwise
    names = {
        "persisted": "remembered peers",
        "bootstrap": f"bootstrap ({len(settings.bootstrap_peers)})",
        "mdns": "mDNS on the local network",
        "list": "lists of peers",
        "dns": f"DNS ({', '.join(settings.dns_seeds)})",
        "grape": "Grenache",
        "exchange": "peer exchange",
    }
    discovery = ", ".join(
        names.get(view.name, view.name) + (" (failed)" if view.state == "failed" else "")
        for view in finding
    )
    extra = [name for name in status.services if name not in OFFERS]
    where = data_dir_option(settings.data_dir)
    lines = [
        f"exchange-node {VERSION}",
        f"  node       {node.node_id}",
        f"  peers      {status.p2p_address or 'no direct links'} ({security}, network {settings.p2p_network})",
        f"  page       {status.api_url}/ ({program()} open{where} opens it)",
        f"  API        {status.api_url}/v1 (described at /docs)",
        f"  discovery  {discovery or 'none: nodes that dial this one, or --bootstrap HOST:PORT'}",
        *(line for part in node.parts for line in part.banner()),
        *([f"  serves     {', '.join(extra)}"] if extra else []),
        f"  data       {settings.data_dir}",
        "Try, in another terminal:",
        f"  {program()} status{where}",
        f"  {program()} order sell BTC-USD 0.5 @ 30000{where}",
        f"  {program()} book BTC-USD --watch{where}",
        "Ctrl-C stops the node.",
    ]
    return "\n".join(lines)


def _can_find(view: DiscoveryView) -> bool:
    return view.name != "persisted" or not view.detail.startswith("0 ")
