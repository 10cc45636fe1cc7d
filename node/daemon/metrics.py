"""Figures for Prometheus, read from the node's state when they are asked for: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from exchange.model.events import BUY, SELL
from node.daemon.machine_metrics import (
    PREFIX,
    buckets,
    counter,
    gates,
    gauge,
    links,
    machine,
    paths_and_relaying,
    reachability,
    requests,
    streams,
)
from node.service.committer import COMMIT_BOUNDS, RECORD_BOUNDS
from node.service.routing_service import route_views
from node.views.order_mapping import side_word
from p2p.services.call_figures import LATENCY_BOUNDS

if TYPE_CHECKING:
    from node.daemon.node import Node

STATES = ("CLOSED", "HALF_OPEN", "OPEN")


def exposition(node: Node) -> bytes:
    """Everything in the Prometheus text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(NodeCollector(node))
    return generate_latest(registry)


class NodeCollector(Collector):
    """Reads a node in its own event loop; one scrape sees one moment."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        yield from self._network()
        yield from self._exchange()
        yield from self._calls()
        yield from self._router()
        yield from links(self._node.overlay)
        yield from reachability(self._node.overlay, self._node.now())
        yield from paths_and_relaying(self._node.overlay, self._node.now())
        yield from machine(self._node)
        yield from requests(self._node.api.figures)
        yield from streams(self._node.stream_registry)
        yield from gates(gate.status() for gate in self._node.gates)

    def _network(self) -> Iterator[Metric]:
        node = self._node
        overlay = node.overlay
        info = GaugeMetricFamily(
            PREFIX + "info", "Identity of this node.", labels=["node_id", "version", "network"]
        )
        status = node.reports.status()
        info.add_metric([status.node_id, status.version, status.network], 1)
        yield info
        yield gauge("uptime_seconds", "Time since the start.", status.uptime_s)
        yield gauge("peers", "Linked peers.", status.peers_connected)
        yield gauge("peers_known", "Addresses of peers that are remembered.", status.peers_known)
        yield gauge("nodes_present", "Nodes whose presence lease runs.", status.nodes_present)
        for part in node.parts:
            yield from part.metrics(status)
        messages = CounterMetricFamily(
            PREFIX + "messages", "Events of the message router.", labels=["kind"]
        )
        for kind, count in overlay.router.counters.items():
            messages.add_metric([kind], count)
        yield messages
        yield gauge(
            "messages_waiting",
            "Messages that wait for a way.",
            len(overlay.router.delivery.waiting),
        )
        yield gauge(
            "broadcasts_deferred_bytes",
            "Memory of broadcasts that wait for other messages.",
            overlay.router.budgets.deferred.bytes,
        )
        refused = CounterMetricFamily(
            PREFIX + "message_budget_refused",
            "Messages dropped because a budget was exceeded.",
            labels=["scope"],
        )
        for scope, count in overlay.router.budgets.counters.items():
            refused.add_metric([scope], count)
        yield refused
        cost = GaugeMetricFamily(
            PREFIX + "link_cost_seconds",
            "Processor time charged to each link since it came up.",
            labels=["node"],
        )
        for link, (spent, _) in overlay.router.budgets.figures().items():
            cost.add_metric([link], spent / 1e6)
        yield cost
        admission = CounterMetricFamily(
            PREFIX + "peer_admission",
            "Peers refused, by code, and links evicted for others.",
            labels=["kind"],
        )
        for kind, count in sorted(overlay.peers.admission.counters.items()):
            admission.add_metric([kind], count)
        yield admission
        handshakes = CounterMetricFamily(
            PREFIX + "handshakes_refused",
            "Handshakes that one side ended, by code and side.",
            labels=["code", "by"],
        )
        for (code, by), count in sorted(overlay.links.refusals.counts.items()):
            handshakes.add_metric([code, by], count)
        yield handshakes
        rpc = CounterMetricFamily(PREFIX + "rpc", "Requests between nodes.", labels=["kind"])
        for kind, count in overlay.rpc.counters.items():
            rpc.add_metric([kind], count)
        yield rpc

    def _exchange(self) -> Iterator[Metric]:
        node = self._node
        engine, trading = node.engine, node.trading
        yield counter("orders", "Orders submitted since the start.", trading.order_count)
        yield counter("fills", "Own fills since the start.", trading.fill_count)
        open_orders = len(engine.order_store.open)
        yield gauge("open_orders", "Own orders that are not done.", open_orders)
        pending = len(engine.orders.takes)
        yield gauge("pending_takes", "Takes whose outcome is unknown.", pending)
        feeds = sum(1 for feed in engine.feeds.values() if feed.number)
        yield gauge("feeds", "Feeds that are held.", feeds)
        yield gauge("feeds_behind", "Feeds of which others claim news.", engine.feeds_behind)
        loading = engine.feeds_loading(node.now())
        yield gauge("feeds_loading", "Feeds of which others are showing news.", loading)
        feed = engine.feed_figures
        yield gauge("feeds_given_up", "Feeds of others given up for a limit.", feed.given_up)
        yield gauge("others_open_orders", "Open orders of all other owners.", feed.orders)
        yield counter("batches_delayed", "Waits for an owner's event budget.", feed.delayed)
        yield counter("digests_dropped", "Digests beyond their budget.", feed.digests_dropped)
        yield gauge("unconnected_bytes", "Batches that wait, in bytes.", feed.unconnected_bytes)
        yield counter("unconnected_evicted", "Waiting batches evicted.", feed.unconnected_evicted)
        depth = GaugeMetricFamily(PREFIX + "book_levels", "Levels.", labels=["market", "side"])
        orders = GaugeMetricFamily(PREFIX + "book_orders", "Orders.", labels=["market", "side"])
        for key, instrument in node.texts.by_key.items():
            for side in (BUY, SELL):
                levels = engine.markets[key].book.levels(side)
                labels = [instrument.symbol, side_word(side)]
                depth.add_metric(labels, len(levels))
                orders.add_metric(labels, sum(count for _, _, count in levels))
        yield depth
        yield orders
        committer = node.committer
        commits = HistogramMetricFamily(
            PREFIX + "commit_seconds", "How long the journal's commits took."
        )
        commits.add_metric(
            [], buckets(COMMIT_BOUNDS, committer.commit_bins), committer.commit_seconds
        )
        yield commits
        records = HistogramMetricFamily(
            PREFIX + "commit_records", "Records in the journal's commits."
        )
        records.add_metric([], buckets(RECORD_BOUNDS, committer.record_bins), committer.records)
        yield records
        traded = CounterMetricFamily(
            PREFIX + "traded_quantity",
            "Quantity traded in the network, in the base asset.",
            labels=["market"],
        )
        for key, instrument in node.texts.by_key.items():
            quantity = float(instrument.lot * node.market_data.traded[key])
            traded.add_metric([instrument.symbol], quantity)
        yield traded

    def _calls(self) -> Iterator[Metric]:
        mesh = self._node.mesh
        calls = CounterMetricFamily(
            PREFIX + "calls", "Calls to services, by outcome.", labels=["service", "outcome"]
        )
        attempts = CounterMetricFamily(
            PREFIX + "call_attempts", "Requests sent for calls.", labels=["service"]
        )
        hedges = CounterMetricFamily(
            PREFIX + "call_hedges", "Second requests beside slow ones.", labels=["service"]
        )
        seconds = HistogramMetricFamily(
            PREFIX + "call_seconds", "How long answered calls took.", labels=["service"]
        )
        for service, figures in mesh.caller.figures().items():
            for outcome, count in sorted(figures.outcomes.items()):
                calls.add_metric([service, outcome], count)
            attempts.add_metric([service], figures.attempts)
            hedges.add_metric([service], figures.hedges)
            seconds.add_metric([service], buckets(LATENCY_BOUNDS, figures.bins), figures.seconds)
        yield from (calls, attempts, hedges, seconds)
        served = CounterMetricFamily(
            PREFIX + "served", "Requests to own services.", labels=["service", "outcome"]
        )
        inside = GaugeMetricFamily(
            PREFIX + "serving", "Requests inside own services.", labels=["service"]
        )
        for row in mesh.server.figures():
            for outcome in ("served", "busy", "expired"):
                served.add_metric([row.service, outcome], getattr(row, outcome))
            inside.add_metric([row.service], row.serving + row.waiting)
        yield from (served, inside)

    def _router(self) -> Iterator[Metric]:
        mesh = self._node.mesh
        labels = ["service", "node"]
        cost = GaugeMetricFamily(
            PREFIX + "router_cost",
            "Expected cost of a call; the lowest wins.",
            labels=labels,
        )
        states = GaugeMetricFamily(
            PREFIX + "breaker_state", "1 for the state it is in.", labels=[*labels, "state"]
        )
        for row in route_views(mesh, self._node.now()):
            cost.add_metric([row.service, row.node], row.cost)
            for state in STATES:
                states.add_metric([row.service, row.node, state], float(row.state == state))
        yield from (cost, states)
        changes = CounterMetricFamily(
            PREFIX + "breaker_changes", "Breaker changes, by new state.", labels=["state"]
        )
        for state in STATES:
            changes.add_metric([state], mesh.balancers.breaker_changes.get(state, 0))
        yield changes
        hints = CounterMetricFamily(PREFIX + "hints", "Hint messages and hints.", labels=["kind"])
        for kind, count in mesh.hints.counters.items():
            hints.add_metric([kind], count)
        yield hints
