"""Declaration of recovery from peers."""

from node.parts.annex import Annex

ANNEX = Annex(
    "recovery",
    commands={"recover": "recover_command:recover"},
    group="Copies of a node's data",
)
