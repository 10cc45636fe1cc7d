"""Sinks of a node: which of them its settings ask for, and how each is opened."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, get_args

from node.annexes.export.journal_source import JournalSource
from node.annexes.export.settings import ExportSettings
from node.annexes.export.sink import Sink
from node.views.node_views import SinkName

NAMES: Final[tuple[SinkName, ...]] = get_args(SinkName)
Traceparent = Callable[[int], str]  # of an own order; "" for none


class SinkKind(NamedTuple):
    """`setting` has the address; `package`, of the extra `extra`, is needed."""

    setting: str
    package: str
    extra: str
    open: Callable[[ExportSettings, Traceparent], Sink]


def _postgres(settings: ExportSettings, _traceparent: Traceparent) -> Sink:
    from node.annexes.export.postgres_sink import PostgresSink

    return PostgresSink(settings.export_postgres, settings.export_keep)


def _nats_copy(settings: ExportSettings, traceparent: Traceparent) -> Sink:
    from node.annexes.export.nats_messages import copy_plan
    from node.annexes.export.nats_sink import NatsSink

    plan = copy_plan(settings.p2p_network)
    return NatsSink(settings.export_nats, plan, settings.export_nats_kept << 20, traceparent)


def _nats_market(settings: ExportSettings, _traceparent: Traceparent) -> Sink:
    from node.annexes.export.nats_messages import market_plan
    from node.annexes.export.nats_sink import NatsSink

    plan = market_plan(settings.p2p_network)
    return NatsSink(settings.export_nats, plan, settings.export_nats_kept << 20)


KINDS: Final[dict[SinkName, SinkKind]] = {
    "postgres": SinkKind("EXPORT_POSTGRES", "psycopg", "postgres", _postgres),
    "nats-copy": SinkKind("EXPORT_NATS", "nats", "nats", _nats_copy),
    "nats-market": SinkKind("EXPORT_NATS", "nats", "nats", _nats_market),
}
PACKAGES: Final = {"psycopg": "psycopg", "nats": "nats-py"}  # import name: name in the index


def address(settings: ExportSettings, name: SinkName) -> str:
    """Return a sink's address, with its password; "" without one."""
    found: str = getattr(settings, KINDS[name].setting.lower())
    return found


def configured(settings: ExportSettings) -> list[SinkName]:
    """List the sinks that the settings ask for."""
    return [name for name in NAMES if address(settings, name)]


def connect(
    settings: ExportSettings, name: SinkName, traceparent: Traceparent = lambda order: ""
) -> Sink:
    """Open a sink. `traceparent` returns the trace context of an own order, for the headers of a bus.

    Raises:
        SinkError: it cannot be used now.
    """
    return KINDS[name].open(settings, traceparent)


def journal_source(settings: ExportSettings) -> JournalSource:
    """Open the journal of a node for its export.

    Raises:
        JournalError: there is none, or its anchor is damaged.
    """
    return JournalSource(settings.journal_path, settings.data_dir)


def progress_path(settings: ExportSettings, name: SinkName) -> Path:
    """Return the file that shows how far a sink is."""
    return settings.data_dir / ("export.json" if name == "postgres" else f"export-{name}.json")


def missing_package(settings: ExportSettings) -> str | None:
    """Return an error message if a package that a configured sink needs is not installed."""
    for name in configured(settings):
        setting, package, extra, _ = KINDS[name]
        if find_spec(package) is None:
            return (
                f"{setting} needs {PACKAGES[package]}, which is not installed: install exchange-node[{extra}], or "
                f"leave {setting} empty"
            )
    return None
