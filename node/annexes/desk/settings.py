"""Settings of the desk."""

from __future__ import annotations

from pathlib import Path

from config.section import field
from config.setting_types import FilePath
from config.settings import Settings


class DeskSettings(Settings):
    title = "Node"
    rank = 3

    desk_profile: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        None,
        "File that names the own nodes of a desk, which this node's page and `/v1/desk` show together "
        "(docs/operations.md); empty for none.",
    )
