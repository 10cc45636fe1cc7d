"""Exports of a running node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from config import Settings
from node.annexes.export.export_process import Exports
from node.annexes.export.settings import ExportSettings
from node.annexes.export.sinks import missing_package
from node.daemon.machine_metrics import PREFIX
from node.daemon.node import Node
from node.daemon.process import StartError
from node.parts.annex import NodeContext, NodePart
from node.streams.market_streams import ticker_view
from node.views.node_views import ExportView, StatusView
from node.views.timestamps import iso


class ExportPart(NodePart):
    """A process for each sink, as long as the node runs."""

    name = "export"

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._settings = context.settings.of(ExportSettings)

    def attach(self, node: Node) -> None:
        market_data = node.market_data
        self._exports = Exports(
            self._settings,
            self._context.journal,
            lambda: [
                ticker_view(market_data, instrument, iso(market_data.now()))
                for instrument in market_data.instruments
            ],
        )

    def start(self) -> None:
        self._exports.start()

    async def leave(self) -> None:
        await self._exports.close()

    def traced(self, order: int, traceparent: str) -> None:
        if self._settings.export_nats:
            self._exports.trace_order(order, traceparent)

    def warnings(self) -> Iterable[str]:
        for view in self._exports.views():
            if view.error:
                yield f"export: {view.error}"
            if view.aside:
                yield f"export: {view.aside} rows that {view.sink} cannot take are set aside"

    def report(self, view: StatusView) -> None:
        view.exports = self._exports.views()

    def metrics(self, view: StatusView) -> Iterable[Metric]:
        return _figures(view.exports)


def _figures(views: Sequence[ExportView]) -> Iterator[Metric]:
    up = _by_sink("export_up", "1 if the sink takes what is exported.")
    behind = _by_sink("export_behind_commits", "Commits that the sink lacks.")
    lag = _by_sink("export_lag_seconds", "Time since the sink last had every commit.")
    rows = CounterMetricFamily(
        PREFIX + "export_rows", "Rows delivered since the start of the export.", labels=["sink"]
    )
    aside = CounterMetricFamily(
        PREFIX + "export_rows_aside",
        "Rows set aside since the start of the export: the sink cannot take them.",
        labels=["sink"],
    )
    for view in views:
        up.add_metric([view.sink], float(not view.error))
        behind.add_metric([view.sink], view.behind)
        lag.add_metric([view.sink], float("nan") if view.lag_s is None else view.lag_s)
        rows.add_metric([view.sink], view.rows)
        aside.add_metric([view.sink], view.aside)
    yield from (up, behind, lag, rows, aside)


def _by_sink(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=["sink"])


def check_export(settings: Settings) -> None:
    """Check that the packages for the sinks are installed.

    Raises:
        StartError: one is missing.
    """
    if missing := missing_package(settings.of(ExportSettings)):
        raise StartError(missing)


def export_part(context: NodeContext) -> ExportPart | None:
    """Return the exports of a node; None while it only recovers."""
    return None if context.recovering else ExportPart(context)
