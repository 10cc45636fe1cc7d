"""Declaration of the demos."""

from node.parts.annex import Annex

ANNEX = Annex(
    "demos",
    commands={"demo": "demo_command:demo"},
    group="Learn, and help",
)
