"""Declaration of the exports to a database and a bus."""

from node.parts.annex import Annex

ANNEX = Annex(
    "export",
    commands={"export": "export_command:export"},
    group="Copies of a node's data",
    settings="settings:ExportSettings",
    wanted=("export_postgres", "export_nats"),
    check="export_part:check_export",
    retention="export_process:retention",
    part="export_part:export_part",
)
