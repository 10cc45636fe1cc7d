"""`exchange-node recover`: bring an old data directory up to date with what peers hold of its node.

A node without clients runs until every known node has answered and nothing new comes, compares
statements with all of them, settles (`exchange.engine.recovery_settlement`), commits, and stops.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final

import msgspec

from config import Loaded, Settings
from exchange.engine.lost_trades import RecoveredFill, RecoveryReport
from exchange.engine.recovery import Recovery
from exchange.journal.frames import JournalError
from exchange.ledger.statements import StatementTrade
from exchange.model.instruments import instrument_of
from node.annexes.recovery.patience import MOST_WAITS, Patience, traded_with
from node.daemon import process
from node.daemon.node import Node
from node.daemon.port_choice import PortTaken, wanted_ports
from node.daemon.process import StartError, configure_logging, loop_factory
from node.daemon.restore import Restored, marked, unmark
from node.daemon.run_node import open_node_parts
from node.views.timestamps import iso
from node.views.views import ServiceError

CHECK_EVERY: Final = 0.25  # seconds
LEAVE_AFTER: Final = 1.5  # seconds for the closing events to reach the neighbours
Tell = Callable[[str], None]  # gets a line for people


class RecoveryRefused(Exception):
    """The recovery was refused and the directory is unchanged. The message has the reason and the
    remedy."""


class RecoveryResult(msgspec.Struct):
    """Result for people and programs."""

    node_id: str
    heard: list[str]
    unheard: list[str]
    silent: list[str]  # answered without a full statement
    restored: Restored | None
    report: RecoveryReport


def run_recovery(loaded: Loaded, *, force: bool, wait: float, tell: Tell) -> RecoveryResult:
    """Recover the node of the settings' data directory.

    Args:
        force: continue without the known nodes that did not answer within `wait` seconds.

    Raises:
        StartError: the directory cannot be used.
        RecoveryRefused: a known node did not answer, or the feeds contradict the journal.
    """
    for warning in loaded.warnings:
        process.tell(f"exchange-node: warning: {warning}", sys.stderr)
    configure_logging(loaded.settings)
    ports = wanted_ports(loaded.settings.p2p_port, loaded.is_default("p2p_port"))
    with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_recover(loaded.settings, stack, ports, force, wait, tell))


async def _recover(
    settings: Settings, stack: ExitStack, ports: Any, force: bool, wait: float, tell: Tell
) -> RecoveryResult:
    if not any(settings.journal_path.glob("*")):
        raise StartError(
            f"{settings.data_dir} has no journal: restore a backup there first, or name another --data-dir"
        )
    restored = marked(settings.data_dir)
    node = open_node_parts(settings, stack, recover_from=traded_with)
    try:
        await node.listen_to_peers(ports)
    except (PortTaken, OSError) as error:
        await node.abort()
        raise StartError(f"cannot listen for peers: {error}") from error
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(node.run(stop), name="node")
    work = asyncio.create_task(_work(node, restored, force, wait, tell), name="recovery")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({running, work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            if running.done():
                await running  # raises what failed
            raise KeyboardInterrupt
        result = work.result()
    finally:
        stopped.cancel()
        stop.set()
        try:
            await running
        except* JournalError as group:
            await node.abort()
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise RecoveryRefused(str(first)) from None
    unmark(settings.data_dir)
    return result


async def _work(
    node: Node, restored: Restored | None, force: bool, wait: float, tell: Tell
) -> RecoveryResult:
    engine = node.engine
    recovery = engine.recovery
    if recovery is None:
        raise RuntimeError("this node does not recover")
    tell(
        f"node {node.node_id}: looking for {len(recovery.known)} nodes that it traded with and any other"
    )
    patience = Patience(node.now(), wait)
    while True:
        await asyncio.sleep(CHECK_EVERY)
        if recovery.failed is not None:
            raise RecoveryRefused(recovery.failed)
        missing = recovery.unheard(engine.present)
        complete = engine.recovered_feeds(node.now()) and bool(recovery.heard_from)
        loading = engine.feeds_loading(node.now())
        if line := patience.progress(node.now(), recovery.heard_from, missing, loading):
            tell(line)
        if patience.is_over(node.now(), complete=complete and not missing, loading=loading):
            if (missing or not recovery.heard_from) and not force:
                raise RecoveryRefused(_missing_text(missing, recovery.heard_from, wait))
            break
    statements, silent = await _statements(node, recovery, wait, tell)
    without = [peer for peer in silent if peer in recovery.known]
    if without and not force:
        raise RecoveryRefused(
            f"{len(without)} nodes gave no full statement of their trades with this node: {', '.join(without)}. Try "
            "again, or go on without them with --force"
        )
    if restored is None and not recovery.has_news and not any(statements.values()):
        # An up-to-date directory: its hidden orders and stops are as good as its feeds.
        report = RecoveryReport(kept=len(engine.order_store.open))
        unheard = recovery.unheard(engine.present)
        return RecoveryResult(node.node_id, recovery.heard_from, unheard, silent, restored, report)
    report = engine.settle_recovery(node.now(), statements, statements.keys() - set(silent))
    await node.trading.durable()
    await asyncio.sleep(LEAVE_AFTER)
    unheard = recovery.unheard(engine.present)
    return RecoveryResult(node.node_id, recovery.heard_from, unheard, silent, restored, report)


def _missing_text(unheard: list[str], heard: list[str], wait: float) -> str:
    if not unheard and not heard:
        return (
            f"no node answered within {wait:g} s, so events after the state of the directory "
            f"cannot be fetched. Name nodes with --bootstrap; --force continues with the state of "
            f"the directory"
        )
    return (
        f"{len(unheard)} nodes that this one traded with did not answer within {wait:g} s and may hold more of this node's feeds: "
        f"{', '.join(unheard)}. Start them, name their addresses with --bootstrap, or continue without them with "
        "--force: events that only they have are lost then, and if they return this node may have to stop writing"
    )


async def _statements(
    node: Node, recovery: Recovery, wait: float, tell: Tell
) -> tuple[dict[str, list[StatementTrade]], list[str]]:
    """Compare statements with every node that can be reached: those that this one traded with first, others for `wait`
    seconds in all."""
    found: dict[str, list[StatementTrade]] = {}
    silent: list[str] = []
    reached, began = {*node.engine.present, *recovery.heard_from}, node.now()
    peers = sorted(reached, key=lambda peer: (peer not in recovery.known, peer))
    for number, peer in enumerate(peers):
        waits = MOST_WAITS if peer in recovery.known else 1
        left = began + waits * wait - node.now()
        if left <= 0:
            silent.append(peer)
            continue
        tell(f"comparing trades with node {peer} ({number + 1} of {len(peers)})")
        try:
            async with asyncio.timeout(left):
                found[peer], complete = await node.statements.lacking(peer)
            if not complete:
                tell(f"node {peer}: more trades differ than one comparison finds")
                silent.append(peer)
        except ServiceError as error:
            tell(f"node {peer}: {error.detail}")
            silent.append(peer)
        except TimeoutError:
            tell(f"node {peer}: it took too long")
            silent.append(peer)
    return found, silent


def document_of(found: RecoveryResult) -> dict[str, Any]:
    """Return the result for a program."""
    report = found.report
    return {
        "node_id": found.node_id,
        "heard": found.heard,
        "unheard": found.unheard,
        "without_statement": found.silent,
        "as_of": None if found.restored is None else found.restored.made,
        "events_fetched": report.events,
        "events_lost": [
            {"market": instrument_of(gap.market).symbol, "first": gap.first, "last": gap.last}
            for gap in report.gaps
        ],
        "fills": [_fill(fill) for fill in report.fills],
        "suspense": [_fill(fill) for fill in report.suspense],
        "closed_orders": [
            {
                "market": (instrument := instrument_of(order.market)).symbol,
                "order": order.order,
                "side": "buy" if order.side > 0 else "sell",
                "price": None if order.price is None else instrument.price_text(order.price),
                "quantity": instrument.quantity_text(order.quantity),
                "account": order.account,
            }
            for order in report.closed
        ],
        "open_orders_kept": report.kept,
        "takes_resolved": report.takes_resolved,
        "takes_open": report.takes_open,
    }


def _fill(fill: RecoveredFill) -> dict[str, Any]:
    instrument = instrument_of(fill.market)
    return {
        "market": instrument.symbol,
        "side": "buy" if fill.side > 0 else "sell",
        "price": instrument.price_text(fill.price),
        "quantity": instrument.quantity_text(fill.quantity),
        "time": iso(fill.time),
        "role": fill.role,
        "order": fill.order or None,
        "account": fill.account,
        "counterparty": fill.counterparty,
    }
