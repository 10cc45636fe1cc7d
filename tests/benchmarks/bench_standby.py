"""Cost of a standby to orders: a node alone, and one with `STANDBY_ACK` `first` and `both`, in turns.

Pairs of orders that fill each other over HTTP, with `JOURNAL_SYNC=full`; ratios are to the node alone. Both machines are this
one, so they share cores and disk, and there is no network between them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from node.daemon.role_file import machine_identity
from tests.benchmarks.export_load import SETTINGS, Load
from tests.benchmarks.report import Row
from tests.integration.processes import NodeProcess, Nodes, eventually
from tests.ports import free_port

CLIENTS = 16
ALONE = "alone"


def node_with_standby(nodes: Nodes, ack: str) -> NodeProcess:
    """Start a node and its standby, and wait until the standby follows."""
    port = free_port()
    standby = nodes.make(f"standby of {ack}", **SETTINGS | {"JOURNAL_SYNC": "full"})
    standby.data_dir.mkdir(mode=0o700)
    node = nodes.start(
        ack,
        **SETTINGS
        | {
            "JOURNAL_SYNC": "full",
            "LOG_LEVEL": "info",
            "STANDBY_ACK": ack,
            "STANDBY_LISTEN": f"127.0.0.1:{port}",
            "STANDBY_ALLOW": machine_identity(standby.data_dir).node_id,
        },
    )
    standby.command = ("standby", "--of", f"127.0.0.1:{port}")
    standby.launch()
    eventually(lambda: "is connected at frame" in node.log, what=lambda: node.log + standby.log)
    time.sleep(0.5)  # the first commits of the node
    return node


def run(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        nodes = Nodes(Path(scratch))
        try:
            single = {ALONE: Load(nodes.start(ALONE, **SETTINGS | {"JOURNAL_SYNC": "full"}))}
            for ack in ("first", "both"):
                single[ack] = Load(node_with_standby(nodes, ack))
            many = {name: Load(load.node) for name, load in single.items()}
            for number in range(3 if quick else 15):
                names = list(single)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    single[name].run(100)
                    many[name].run(25, CLIENTS)
            return [
                row
                for name in single
                for row in _rows(name, single[name], many[name], single, many)
            ]
        finally:
            nodes.cleanup()


def _rows(
    name: str, load: Load, many: Load, all_single: dict[str, Load], all_many: dict[str, Load]
) -> list[Row]:
    alone, many_alone = all_single[ALONE], all_many[ALONE]
    p50, p99 = load.milliseconds(50), load.milliseconds(99)
    return [
        Row(f"{name}: order p50", p50, "ms", p50 / alone.milliseconds(50)),
        Row(f"{name}: order p99", p99, "ms", p99 / alone.milliseconds(99)),
        Row(f"{name}: {CLIENTS} at a time", many.rate, "orders/s", many.rate / many_alone.rate),
        Row(f"{name}: processor", load.cpu_us, "us/order", load.cpu_us / alone.cpu_us),
    ]
