"""Role of a machine: the file `standby.json` of its data directory, beside the key of the machine, `standby.key`.

Rules of this file: the file is written and flushed before anything is done in a new role.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from p2p.base.identity import Identity
from p2p.ground.durable_file import replace_file
from p2p.ground.own_file import read_own

NAME: Final = "standby.json"
KEY: Final = "standby.key"


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file. `epoch` is 0 in a standby without a copy; `primary` is the machine that a standby
    follows, "" before the first connection."""

    role: Literal["primary", "standby"]
    epoch: int
    had_lease: bool = False
    primary: str = ""


def read(data_dir: Path) -> Role | None:
    """Return the role; None for a node that never had a standby.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = data_dir / NAME
    try:
        return msgspec.json.decode(read_own(path, directory=data_dir), type=Role)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write(data_dir: Path, role: Role) -> None:
    """Write the role.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    replace_file(data_dir / NAME, msgspec.json.encode(role))


def machine_identity(data_dir: Path) -> Identity:
    """Return the identity of this machine, which is made at first use. It is not that of the node.

    Raises:
        ValueError: the file is no key, or others may read it.
        OSError: it cannot be read or written.
    """
    path = data_dir / KEY
    if path.exists():
        return Identity.load(path)
    identity = Identity.generate()
    identity.save(path)
    return identity
