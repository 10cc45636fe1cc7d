"""The desk of a running node."""

from __future__ import annotations

from config import Settings
from node.annexes.desk.desk import Desk
from node.annexes.desk.desk_profile import DeskNode, read_profile
from node.annexes.desk.desk_reader import DeskReader
from node.annexes.desk.settings import DeskSettings
from node.daemon.process import StartError
from node.parts.annex import NodeContext, NodePart


class DeskPart(NodePart):
    """Reads the own nodes that DESK_PROFILE names, for `/v1/desk`."""

    name = "desk"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk


def check_desk(settings: Settings) -> None:
    """Check the profile of the desk.

    Raises:
        StartError: it cannot be used.
    """
    try:
        _read(settings)
    except ValueError as error:
        raise StartError(f"{error} (DESK_PROFILE)") from None


def desk_part(context: NodeContext) -> DeskPart:
    """Return the desk of a node."""
    settings = context.settings
    return DeskPart(DeskReader(lambda: _read(settings)))


def _read(settings: Settings) -> list[DeskNode]:
    profile = settings.of(DeskSettings).desk_profile
    assert profile is not None  # noqa: S101 - the annex is not wanted without it
    return read_profile(profile)
