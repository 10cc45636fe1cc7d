"""Declaration of the bridge to Grenache."""

from node.parts.annex import Annex

ANNEX = Annex(
    "grenache",
    commands={"grape": "grape_command:grape"},
    group="Other nodes",
    settings="settings:BridgeSettings",
    wanted=("discovery_grenache",),
    part="grenache_part:GrenachePart",
)
