"""Declaration of the standby."""

from node.parts.annex import Annex

ANNEX = Annex(
    "standby",
    commands={"standby": "standby_command:standby"},
    group="Copies of a node's data",
    check="standby_setup:check_standby",
    part="standby_setup:standby_part",
)
