"""Metrics of the node's surroundings: event loop, journal, disk, clock, requests, streams, links, gates."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from exchange.journal.journal import Journal
from node.http.request_figures import LATENCY_BOUNDS, RequestFigures
from node.service.diagnostics import LAG_BOUNDS
from node.streams.stream_registry import StreamRegistry
from p2p.flow import GateStatus
from p2p.overlay import Overlay
from p2p.reachability.report import STATES, report

if TYPE_CHECKING:
    from node.daemon.node import Node

PREFIX: Final = "exchange_node_"
MAX_LINKS: Final = 64  # links with figures of their own, the oldest ones
MAX_GATES: Final = 64  # gates with figures of their own, the first ones
_GAUGES: Final[tuple[tuple[str, str, Callable[[GateStatus], float]], ...]] = (
    ("waiting", "Actions that wait in the gate's outbox.", lambda gate: gate.waiting),
    ("in_flight", "Attempts under way.", lambda gate: gate.in_flight),
    ("window", "Attempts that may be under way.", lambda gate: gate.window),
    ("attempts_per_second", "Pace of the gate.", lambda gate: gate.rate),
    ("round_trip_seconds", "Mean latency of an attempt.", lambda gate: gate.round_trip_s),
    ("breaker_open", "1 while the breaker is not CLOSED.", lambda gate: gate.breaker != "CLOSED"),
)


def buckets(bounds: Sequence[float], bins: Sequence[int]) -> list[tuple[str, float]]:
    """Return the cumulative buckets of a histogram."""
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(bins)), strict=True))


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def machine(node: Node) -> Iterator[Metric]:
    """Event loop, journal, disk, clock, and readiness with its checks."""
    found = node.reports.ready()
    yield gauge("ready", "1 if the node can take orders.", float(found.ready))
    checks = GaugeMetricFamily(
        PREFIX + "ready_check", "1 for each condition of readiness that holds.", labels=["check"]
    )
    for check in found.checks:
        checks.add_metric([check.name], float(check.ok))
    yield checks
    diagnostics = node.diagnostics
    lag = HistogramMetricFamily(
        PREFIX + "loop_lag_seconds", "How late the event loop ran its timer, of every 50 to 500 ms."
    )
    lag.add_metric([], buckets(LAG_BOUNDS, diagnostics.lag_bins), diagnostics.lag_seconds)
    yield lag
    yield from _journal(node.journal)
    disk = shutil.disk_usage(node.settings.data_dir)
    yield gauge("disk_free_bytes", "Free bytes on the disk of the data directory.", disk.free)
    yield gauge("disk_size_bytes", "Size of the disk of the data directory.", disk.total)
    yield gauge(
        "clock_drift_seconds",
        "How far the wall clock was moved since the start.",
        node.readiness.clock_drift,
    )
    offset, witnesses = node.readiness.clock_offset or (0.0, 0)
    yield gauge(
        "clock_offset_seconds",
        "Median of how far this clock is ahead of those of the neighbours' networks.",
        offset,
    )
    yield gauge("clock_witnesses", "Networks of neighbours whose clocks are compared.", witnesses)


def _journal(journal: Journal) -> Iterator[Metric]:
    yield counter(
        "journal_written_bytes", "Bytes of records written to the journal.", journal.written_bytes
    )
    sizes = GaugeMetricFamily(
        PREFIX + "journal_size_bytes", "Bytes of the journal's files.", labels=["kind"]
    )
    for kind, size in journal.file_sizes().items():
        sizes.add_metric([kind], size)
    yield sizes
    made = journal.snapshot_time()
    yield gauge(
        "journal_snapshot_age_seconds",
        "Age of the newest state snapshot; 0 before the first one is due.",
        0.0 if made is None else max(0.0, time.time() - made),
    )
    yield gauge(
        "archive_behind_records", "Committed records not in the archive.", journal.archive_behind
    )
    yield gauge(
        "journal_trouble",
        "1 while the archive or a snapshot cannot be written.",
        float(journal.trouble is not None),
    )


def requests(figures: RequestFigures) -> Iterator[Metric]:
    """HTTP and WebSocket requests by operation and code, refusals by problem code."""
    http = CounterMetricFamily(
        PREFIX + "http_requests", "HTTP requests.", labels=["operation", "code"]
    )
    for (operation, code), count in sorted(figures.requests.items()):
        http.add_metric([operation, code], count)
    yield http
    socket = CounterMetricFamily(
        PREFIX + "websocket_requests",
        "Requests over WebSockets.",
        labels=["operation", "code"],
    )
    for (operation, code), count in sorted(figures.socket_requests.items()):
        socket.add_metric([operation, code], count)
    yield socket
    seconds = HistogramMetricFamily(
        PREFIX + "request_seconds", "How long requests took.", labels=["operation"]
    )
    for operation, bins in sorted(figures.bins.items()):
        seconds.add_metric([operation], buckets(LATENCY_BOUNDS, bins), figures.seconds[operation])
    yield seconds
    refused = CounterMetricFamily(
        PREFIX + "refusals", "Requests refused, by problem code.", labels=["code"]
    )
    for code, count in sorted(figures.problems.items()):
        refused.add_metric([code], count)
    yield refused


def streams(registry: StreamRegistry) -> Iterator[Metric]:
    """Readers of streams, and messages that were combined for slow ones."""
    readers = GaugeMetricFamily(
        PREFIX + "stream_readers", "Subscriptions to streams.", labels=["channel"]
    )
    for channel, count in sorted(registry.readers().items()):
        readers.add_metric([channel], count)
    yield readers
    combined = CounterMetricFamily(
        PREFIX + "stream_conflated",
        "Messages not sent by themselves, because a later one stands for them.",
        labels=["channel"],
    )
    for channel, count in sorted(registry.figures.combined.items()):
        combined.add_metric([channel], count)
    yield combined


def links(overlay: Overlay) -> Iterator[Metric]:
    """Round trip and bytes of each link."""
    trips = GaugeMetricFamily(
        PREFIX + "link_round_trip_seconds", "Smoothed round trip of links.", labels=["node"]
    )
    traffic = CounterMetricFamily(
        PREFIX + "link_bytes",
        "Bytes of links since they came up.",
        labels=["node", "direction"],
    )
    for node, link in list(overlay.peers.links.items())[:MAX_LINKS]:
        stats = link.stats
        if stats.rtt is not None:
            trips.add_metric([node], stats.rtt)
        traffic.add_metric([node, "received"], stats.bytes_received)
        traffic.add_metric([node, "sent"], stats.bytes_sent)
    yield trips
    yield traffic


def reachability(overlay: Overlay, now: float) -> Iterator[Metric]:
    """Reachability from outside, and dial-backs."""
    service = overlay.reachability
    if service is None:
        return
    found = report(service.core, now)
    state = GaugeMetricFamily(
        PREFIX + "reachability",
        "1 for the state of this node's reachability from outside.",
        labels=["state"],
    )
    for each in STATES:
        state.add_metric([each], float(each == found.state))
    yield state
    yield gauge(
        "external_address_observers",
        "Networks that agree on the external address.",
        found.observers,
    )
    dials = CounterMetricFamily(
        PREFIX + "dial_backs", "Dial-backs served and requested, by outcome.", labels=["kind"]
    )
    for kind, count in sorted(service.counters.items()):
        dials.add_metric([kind], count)
    yield dials
    punches = CounterMetricFamily(
        PREFIX + "hole_punches", "Attempts at punched links, by outcome.", labels=["outcome"]
    )
    for outcome, count in sorted(service.punching.counters.items()):
        punches.add_metric([outcome], count)
    yield punches
    paths = GaugeMetricFamily(
        PREFIX + "nodes_by_path", "Nodes that are reached, by the path to them.", labels=["path"]
    )
    for path, number in overlay.paths().items():
        paths.add_metric([path], number)
    yield paths


def paths_and_relaying(overlay: Overlay, now: float) -> Iterator[Metric]:
    """Traffic and round trips by path, and what this node relays for others."""
    size = CounterMetricFamily(
        PREFIX + "path_bytes", "Bytes of each path to other nodes.", labels=["path", "direction"]
    )
    messages = CounterMetricFamily(
        PREFIX + "path_messages",
        "Messages of each path to other nodes.",
        labels=["path", "direction"],
    )
    for path, traffic in overlay.traffic().items():
        size.add_metric([path, "in"], traffic.bytes_received)
        size.add_metric([path, "out"], traffic.bytes_sent)
        messages.add_metric([path, "in"], traffic.messages_received)
        messages.add_metric([path, "out"], traffic.messages_sent)
    yield size
    yield messages
    trips = GaugeMetricFamily(
        PREFIX + "path_round_trip_seconds",
        "Median round trip of the nodes that are reached by each path now.",
        labels=["path"],
    )
    for path, seconds in overlay.round_trips().items():
        trips.add_metric([path], median(seconds))
    yield trips
    delivery = overlay.router.delivery
    if delivery.encrypted is not None:
        yield gauge(
            "encrypted_relay_sessions",
            "Nodes without a link with which relayed messages are encrypted end to end.",
            delivery.encrypted.sessions,
        )
    shares = delivery.relay.shares
    yield gauge(
        "relay_reservations",
        "Pairs of nodes for which this node relays.",
        len(shares.active(now)),
    )
    yield counter("relay_bytes", "Bytes relayed for others.", shares.bytes)
    yield gauge("relay_rate_limit", "Bytes a second that may be relayed for others.", shares.rate)
    refused = CounterMetricFamily(
        PREFIX + "relay_refusals", "Messages not relayed, by the limit.", labels=["limit"]
    )
    for kind, count in sorted(shares.refused.items()):
        refused.add_metric([kind], count)
    yield refused


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
