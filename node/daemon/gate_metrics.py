"""Metrics of the gates that a program around a node has added to `Node.gates`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.daemon.machine_metrics import PREFIX
from p2p.flow import GateStatus

MAX_GATES: Final = 64  # gates with figures of their own, the first ones
_GAUGES: Final[tuple[tuple[str, str, Callable[[GateStatus], float]], ...]] = (
    ("waiting", "Actions that wait in the gate's outbox.", lambda gate: gate.waiting),
    ("in_flight", "Attempts under way.", lambda gate: gate.in_flight),
    ("window", "Attempts that may be under way.", lambda gate: gate.window),
    ("attempts_per_second", "Pace of the gate.", lambda gate: gate.rate),
    ("round_trip_seconds", "Mean latency of an attempt.", lambda gate: gate.round_trip_s),
    ("breaker_open", "1 while the breaker is not CLOSED.", lambda gate: gate.breaker != "CLOSED"),
)


def gates(found: Iterable[GateStatus]) -> Iterator[Metric]:
    """Figures of each gate, by its name; of gates with one name the first."""
    named: dict[str, GateStatus] = {}
    for status in found:
        if len(named) < MAX_GATES:
            named.setdefault(status.name, status)
    if not named:
        return
    for name, text, value in _GAUGES:
        family = GaugeMetricFamily(f"{PREFIX}gate_{name}", text, labels=["gate"])
        for status in named.values():
            family.add_metric([status.name], float(value(status)))
        yield family
    delivery = GaugeMetricFamily(
        PREFIX + "gate_delivery_seconds",
        "Time from the call until the answer, of the last minute, with waiting and retries.",
        labels=["gate", "quantile"],
    )
    results = CounterMetricFamily(
        PREFIX + "gate_actions", "Events of the gate's actions.", labels=["gate", "kind"]
    )
    for status in named.values():
        for quantile, seconds in (
            ("0.5", status.delivery.p50_s),
            ("0.95", status.delivery.p95_s),
            ("0.99", status.delivery.p99_s),
        ):
            delivery.add_metric([status.name, quantile], seconds)
        for kind, count in status.counters.items():
            results.add_metric([status.name, kind], count)
    yield delivery
    yield results
