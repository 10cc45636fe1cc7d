"""Position file: progress of an export, written by its process and read by the node."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from p2p.ground.durable_file import replace_file

NAME: Final = "export.json"


class ExportProgress(msgspec.Struct, frozen=True):
    """Progress of an export. Times in seconds since the epoch."""

    frame: int  # of the journal, the last one that the sink has
    rows: int  # delivered by this process
    written: float  # when this was written
    delivered: float  # when the sink last had everything
    error: str = ""  # why the sink cannot be used; "": it can
    process: int = 0  # its id
    aside: int = 0  # rows that this process has set aside


def write(path: Path, progress: ExportProgress) -> None:
    """Replace the file. A failure is ignored: the node then keeps more of its log than it has to."""
    with suppress(OSError):
        replace_file(path, msgspec.json.encode(progress), durable=False)


def read(path: Path) -> ExportProgress | None:
    """Return the progress; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ExportProgress)
    except (OSError, msgspec.DecodeError):
        return None
