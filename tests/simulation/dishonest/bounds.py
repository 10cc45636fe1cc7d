"""Bounds of an attack's cost to a node: counted work and counted bytes, judged afterwards."""

from __future__ import annotations

from exchange.feeds import missing_feeds
from exchange.takes import take_protocol
from p2p.base import limits
from tests.simulation.dishonest.gangs import Gang
from tests.simulation.dishonest.processor import SLOWER
from tests.simulation.invariants import Violation
from tests.simulation.simulated_node import Node


def check_memory(node: Node, gang: Gang) -> None:
    """Whatever a peer can make a node remember is within its bound."""
    engine, router = node.engine, node.router
    figures = engine.feed_figures
    decisions = engine.orders.maker_side._decisions
    found = {
        "unconnected batches": (figures.unconnected_bytes, engine._ingest.unconnected._most),
        "missing feeds": (engine.feeds_behind, missing_feeds.MAX_MISSING),
        "broadcasts": (router.gossip.stored_bytes, limits.STORE_MAX_BYTES),
        "queued messages": (router.delivery.waiting.bytes, limits.QUEUE_MAX_BYTES),
        "feeds": (len(engine.feeds), node.feed_limits.max_feeds),
        "orders of others": (figures.orders, node.feed_limits.max_orders),
        "decisions": (
            decisions._kept,
            take_protocol.MAX_DECISIONS_ALL + take_protocol.MAX_DECISIONS,
        ),
    }
    for what, (held, most) in found.items():
        if held > most:
            raise Violation("honest_memory", f"node {node.number}: {held} {what} beside {gang}")


def check_work(node: Node, gang: Gang) -> None:
    """No message takes longer than a few turns of a link."""
    processor = node.processor
    assert processor is not None
    if processor.longest > MOST_WORK:
        raise Violation(
            "honest_work",
            f"node {node.number}: one {processor.longest_kind} took {processor.longest * 1e3:.1f} ms "
            f"beside {gang}",
        )


MOST_WORK = 0.02 * SLOWER  # seconds for one message
