"""Peer store: when peers are saved, and which entries of the file nothing here can use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from p2p.addresses.peer_storage import Storage, StoredPeer
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

SAVE_DELAY: Final = 2.0  # seconds from news to the file, so that a burst is one write


class PeerStore:
    """Owner of the file of peers. `current` returns the peers to save; without a `storage` nothing is kept."""

    def __init__(
        self, own_id: str, storage: Storage | None, current: Callable[[], list[StoredPeer]]
    ) -> None:
        self._own_id = own_id
        self._storage = storage
        self._current = current
        self._unsaved = asyncio.Event()
        self._serial = 0
        # To be kept for a run in another mode: nothing here can dial them.
        self._other_carriers: list[StoredPeer] = []

    def load(self, dials_over: Callable[[Carrier], bool]) -> list[StoredPeer]:
        """Return the peers of earlier runs. Those that no dialer can dial stay in the file.

        Raises:
            OSError: the file is there but cannot be read.
        """
        stored = [] if self._storage is None else self._storage.load()
        stored = [peer for peer in stored if peer.node_id != self._own_id]
        self._other_carriers = [peer for peer in stored if not dials_over(peer.carrier)]
        return [peer for peer in stored if dials_over(peer.carrier)]

    def changed(self) -> None:
        """Save soon."""
        self._unsaved.set()

    def forget(self, node_id: str) -> None:
        """Drop a node from the entries that no dialer can dial."""
        self._other_carriers = [s for s in self._other_carriers if s.node_id != node_id]

    def save(self) -> None:
        """Write the peers to disk now. A failure is a warning: the node goes on without them."""
        self._write(*self._to_write())

    async def run(self) -> None:
        """Save changes until cancelled."""
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_DELAY)
            self._unsaved.clear()
            # In a thread: a slow disk must not stop the node. The save at the end, which does not
            # wait for this one, overtakes it by its serial.
            await asyncio.to_thread(self._write, *self._to_write())

    def _to_write(self) -> tuple[list[StoredPeer], int]:
        self._serial += 1
        return self._current() + self._other_carriers, self._serial

    def _write(self, peers: list[StoredPeer], serial: int) -> None:
        try:
            if self._storage is not None:
                self._storage.save(peers, serial)
        except OSError as error:
            log.warning("the peers cannot be saved: %s", error)
