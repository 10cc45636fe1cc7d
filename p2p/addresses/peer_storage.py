"""Storage of peers over restarts: `.peers.json`, readable and editable by hand.

Only addresses at which a peer was reached are kept. The file is replaced as a whole, so that a crash
leaves the old or the new one; one that cannot be read is set aside, never overwritten.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from p2p.base.host_port import normal_host
from p2p.base.identity import is_node_id
from p2p.base.reach import Reach, reach
from p2p.ground.durable_file import replace_file
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

VERSION: Final = 1
MAX_FILE: Final = 4 * 1024 * 1024  # bytes; a thousand peers take a tenth of this


class StoredPeer(msgspec.Struct, rename="camel", frozen=True):
    """A remembered address of a peer."""

    node_id: str
    address: str
    port: int
    last_success: datetime | None = None
    failures: int = 0
    source: str = "persisted"  # strategy that found it first
    carrier: Carrier = "tcp"  # carrier of the dial
    # True for an outbound link when the node stopped: dialled first in the next run. Unset is not written.
    anchor: bool | msgspec.UnsetType = msgspec.UNSET


class _File(msgspec.Struct):
    version: int
    peers: list[msgspec.Raw]


class Storage(Protocol):
    """Persistence of a `PeerManager`."""

    def load(self) -> list[StoredPeer]: ...

    def save(self, peers: Iterable[StoredPeer], serial: int | None = None) -> None: ...


class PeerStorage:
    """The peers file at `path`. `save` may be called from a worker thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._saved_serial = 0

    def load(self) -> list[StoredPeer]:
        """Read the remembered peers; an empty list without a file. A damaged file is renamed with a
        warning; an invalid entry is skipped with one.

        Raises:
            OSError: the file is there but cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return []
        try:
            return self._parse(data)
        except ValueError as error:
            aside = self._set_aside()
            log.warning(
                "%s is damaged (%s); it was set aside as %s and the node starts without "
                "remembered peers",
                self.path,
                error,
                aside,
            )
            return []

    def save(self, peers: Iterable[StoredPeer], serial: int | None = None) -> None:
        """Replace the file, with mode 0600. A call whose `serial` is not above that of an earlier
        one is dropped: newer data is already written.

        Raises:
            OSError: the directory or the disk refuses.
        """
        entries = [msgspec.Raw(msgspec.json.encode(peer)) for peer in peers]
        data = msgspec.json.format(msgspec.json.encode(_File(VERSION, entries)), indent=2)
        with self._lock:
            if serial is not None:
                if serial <= self._saved_serial:
                    return
                self._saved_serial = serial
            replace_file(self.path, data + b"\n")

    def _parse(self, data: bytes) -> list[StoredPeer]:
        if len(data) > MAX_FILE:
            raise ValueError(f"longer than {MAX_FILE} bytes")
        file = msgspec.json.decode(data, type=_File)  # its errors are ValueErrors
        if file.version != VERSION:
            raise ValueError(f"version {file.version}, this node reads version {VERSION}")
        peers: list[StoredPeer] = []
        for number, raw in enumerate(file.peers, start=1):
            try:
                peers.append(_checked(msgspec.json.decode(raw, type=StoredPeer)))
            except ValueError as error:
                log.warning("%s: entry %d is left out: %s", self.path, number, error)
        return peers

    def _set_aside(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        count = 1
        while aside.exists():
            count += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{count}")
        self.path.rename(aside)
        return aside


def epoch(moment: datetime | None) -> float | None:
    """Return seconds since the epoch, never in the future (clocks are set back)."""
    return None if moment is None else min(moment.timestamp(), time.time())


def moment(at: float | None) -> datetime | None:
    """Format seconds since the epoch as in the file."""
    return None if at is None else datetime.fromtimestamp(int(at), UTC)


def _checked(peer: StoredPeer) -> StoredPeer:
    if not is_node_id(peer.node_id):
        raise ValueError(f"nodeId {peer.node_id[:60]!r} is not a node id")
    if not 1 <= peer.port <= 65535:
        raise ValueError(f"port {peer.port} is not a number from 1 to 65535")
    if not peer.address or reach(peer.address) is Reach.NONE:
        raise ValueError(f"address {peer.address[:60]!r} is not the address of a host")
    return msgspec.structs.replace(
        peer, address=normal_host(peer.address), failures=max(peer.failures, 0)
    )
