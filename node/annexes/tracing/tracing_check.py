"""Check for OpenTelemetry, before a module that needs it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from config import Settings
from node.daemon.process import StartError


def check_tracing(settings: Settings) -> None:
    """Check that OpenTelemetry is installed.

    Raises:
        StartError: it is not.
    """
    if find_spec("opentelemetry") is None:
        raise StartError(
            "TRACING needs OpenTelemetry, which is not installed: install exchange-node[tracing], or set "
            "TRACING=false"
        )
