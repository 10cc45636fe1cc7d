"""Declaration of the bridge to Grenache."""

from node.parts.annex import Annex

ANNEX = Annex(
    "grenache",
    commands={"grape": "grape_command:grape"},
    group="Other nodes",
    wanted=lambda settings: settings.discovery_grenache,
    part="grenache_part:GrenachePart",
)
