"""Declaration of the desk."""

from node.parts.annex import Annex

ANNEX = Annex(
    "desk",
    commands={"desk": "desk_commands:desk"},
    group="Accounts and money",
    routes="desk_routes:DESK_ROUTES",
    settings="settings:DeskSettings",
    wanted=("desk_profile",),
    check="desk_part:check_desk",
    part="desk_part:desk_part",
)
