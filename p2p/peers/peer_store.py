"""Peer store: when peers are saved, and which are loaded at the start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from p2p.addresses.address import Address, PeerFound
from p2p.addresses.address_book import AddressBook
from p2p.addresses.peer_storage import Storage, StoredPeer, epoch, moment
from p2p.peers.duplicate_links import LinkTable
from p2p.peers.peer_admission import PeerAdmission
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

SAVE_DELAY: Final = 2.0  # seconds from news to the file, so that a burst is one write


class PeerStore:
    """Link between the address book and the file. `dials_over`: True for carriers that this node can dial
    over.
    """

    def __init__(
        self,
        own_id: str,
        storage: Storage,
        book: AddressBook,
        table: LinkTable,
        admission: PeerAdmission,
        *,
        dials_over: Callable[[Carrier], bool],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._own_id = own_id
        self._storage = storage
        self._book = book
        self._table = table
        self._admission = admission
        self._dials_over = dials_over
        self._now = clock
        self._wall = wall
        self._unsaved = asyncio.Event()
        self._serial = 0
        # To be kept for a run in another mode: nothing here can dial them.
        self._other_carriers: list[StoredPeer] = []

    def load(self) -> list[PeerFound]:
        """Add the peers of earlier runs. Those that no dialer can dial stay in the file.

        Raises:
            OSError: the file is there but cannot be read.
        """
        found, others = [], []
        for stored in self._storage.load():
            if stored.node_id == self._own_id:
                continue
            if not self._dials_over(stored.carrier):
                others.append(stored)
                continue
            where = (stored.address, stored.port, stored.node_id)
            address = Address(*where, stored.source, carrier=stored.carrier)
            address.last_success, address.failures = epoch(stored.last_success), stored.failures
            if stored.anchor:
                address.anchor = True
                self._admission.anchors.add(stored.node_id)
            self._book.restore(address, self._now())
            found.append(PeerFound(*where, "persisted", carrier=stored.carrier))
        self._other_carriers = others
        return found

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

    def _write(self, peers: list[StoredPeer], serial: int) -> None:
        try:
            self._storage.save(peers, serial)
        except OSError as error:
            log.warning("the peers cannot be saved: %s", error)

    def _to_write(self) -> tuple[list[StoredPeer], int]:
        anchors = self._admission.choose_anchors()
        proven = [
            StoredPeer(
                a.node_id,
                a.host,
                a.port,
                moment(self._wall() if self._linked_by(a) else a.last_success),
                a.failures,
                a.source,
                a.carrier,
                (a.node_id in anchors and self._linked_by(a)) or msgspec.UNSET,
            )
            for a in self._book
            if a.tried and a.node_id is not None
        ]
        self._serial += 1
        return proven + self._other_carriers, self._serial

    def _linked_by(self, address: Address) -> bool:
        link = self._table.used.get(address.node_id or "")
        return link is not None and link.peer.carrier == address.carrier
