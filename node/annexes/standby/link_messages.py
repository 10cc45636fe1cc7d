"""Messages between a primary and its standby.

The standby dials and says `Hello`. The primary answers with `Ship` messages, or with `CopyNeeded` if the standby
cannot go on from where it is, or with `Refused`. Each `Ship` gets one `Ack` when its frames are on the disk.
"""

from __future__ import annotations

import msgspec


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message of a standby: what it has. `checksum` is the CRC of the frame at `position`."""

    machine: str
    epoch: int
    position: int
    checksum: int


class Ship(msgspec.Struct, frozen=True, tag="ship"):
    """Frames after `after`, in order; none in a heartbeat. `unit` is the last thing that may leave the
    primary once these frames are flushed. `in_sync` is for people: what the primary last had from the store."""

    epoch: int
    after: int
    frames: tuple[bytes, ...]
    unit: int
    in_sync: bool = False


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """All frames up to `position` are on the standby's disk, which was reached by the `Ship` with `unit`."""

    epoch: int
    position: int
    unit: int


class CopyNeeded(msgspec.Struct, frozen=True, tag="copy"):
    """The standby needs a full copy: it is of another epoch, has another frame at its position, or the
    primary has no frames from there on."""


class CopyPart(msgspec.Struct, frozen=True, tag="part"):
    """Next bytes of a copy, which is a file as `exchange-node backup` makes it, with the node's key."""

    data: bytes


class CopyEnd(msgspec.Struct, frozen=True, tag="end"):
    """The copy is complete, and was made in this epoch. The standby says `Hello` over a new connection."""

    epoch: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The primary does not serve this machine."""

    reason: str


Message = Hello | Ship | Ack | CopyNeeded | CopyPart | CopyEnd | Refused
