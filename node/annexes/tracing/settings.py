"""Settings of tracing, and the check for OpenTelemetry, before a module that needs it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from config.section import field
from config.setting_types import Switch
from config.settings import Settings


class TracingSettings(Settings):
    title = "Node"
    rank = 1

    tracing: bool = field(
        Switch(),
        False,
        "Send traces of requests, orders, takes and service calls to an OpenTelemetry "
        "collector, which the standard `OTEL_*` variables name; needs the extra `[tracing]`.",
    )


def check_tracing(settings: Settings) -> None:
    """Check that OpenTelemetry is installed.

    Raises:
        StartError: it is not.
    """
    from node.daemon.process import StartError  # deferred: settings are read without a node

    if find_spec("opentelemetry") is None:
        raise StartError(
            "TRACING needs OpenTelemetry, which is not installed: install exchange-node[tracing], or set "
            "TRACING=false"
        )
