"""Declaration of the standby."""

from node.parts.annex import Annex

ANNEX = Annex(
    "standby",
    commands={"standby": "standby_command:standby"},
    group="Copies of a node's data",
    settings="settings:StandbySettings",
    check="standby_setup:check_standby",
    lease="standby_setup:holds_lease",
    part="standby_setup:standby_part",
)
