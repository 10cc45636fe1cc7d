"""Declaration of backups."""

from node.parts.annex import Annex

ANNEX = Annex(
    "backup",
    commands={"backup": "backup_command:backup", "restore": "backup_command:restore"},
    group="Copies of a node's data",
)
