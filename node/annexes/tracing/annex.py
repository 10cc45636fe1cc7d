"""Declaration of tracing."""

from node.parts.annex import Annex

ANNEX = Annex(
    "tracing",
    wanted=lambda settings: settings.tracing,
    check="tracing_check:check_tracing",
    part="tracing_part:TracingPart",
)
