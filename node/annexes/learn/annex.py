"""Declaration of the course."""

from node.parts.annex import Annex

ANNEX = Annex(
    "learn",
    commands={"learn": "learn_command:learn"},
    group="Learn, and help",
)
