"""Settings of tracing."""

from __future__ import annotations

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
