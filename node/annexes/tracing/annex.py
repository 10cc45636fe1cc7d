"""Declaration of tracing."""

from node.parts.annex import Annex

ANNEX = Annex(
    "tracing",
    settings="settings:TracingSettings",
    wanted=("tracing",),
    check="settings:check_tracing",
    part="tracing_part:TracingPart",
)
