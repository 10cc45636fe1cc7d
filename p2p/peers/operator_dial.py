"""Dials of addresses that the operator names, now and with the reason of a failure.

Two nodes that dial each other at once have two links for a moment, and one side refuses its own dial as a duplicate. The
dial has succeeded then if the other link shows that the peer listens at this address.
"""

from __future__ import annotations

import asyncio
from typing import Final

from p2p.addresses.address import MANUAL, Address, PeerFound
from p2p.addresses.address_book import AddressBook
from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.base.host_port import normal_host
from p2p.discovery.strategy import describe
from p2p.peers.dial_loop import DialLoop, Surroundings
from p2p.peers.duplicate_links import LinkTable
from p2p.peers.peer_admission import PeerAdmission
from p2p.peers.peer_records import Peer, PeerRecords
from p2p.wire.link import Carrier

CROSSED_WAIT: Final = 1.0  # seconds for the other link, when two nodes dial each other at once


class OperatorDial:
    """See the module's docstring."""

    def __init__(
        self,
        book: AddressBook,
        table: LinkTable,
        dials: DialLoop,
        admission: PeerAdmission,
        records: PeerRecords,
        surroundings: Surroundings,
    ) -> None:
        self._book = book
        self._table = table
        self._dials = dials
        self._admission = admission
        self._records = records
        self._resolver = surroundings.resolver
        self._now = surroundings.clock

    async def connect(self, host: str, port: int) -> Peer:
        """Dial HOST:PORT now, on behalf of the operator; the address is kept for good once a peer has
        answered there. Several addresses of a name are tried in turn. Over TCP, if that is used.

        Raises:
            ConnectFailed: the name does not resolve, or there was no answer.
            HandshakeRefused: the peer or this node ended the handshake; says why.
        """
        try:
            hosts = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"{host} cannot be resolved: {describe(error)}") from error
        failure: ConnectFailed | HandshakeRefused = ConnectFailed(f"{host} has no address")
        carrier: Carrier = "grenache" if self._dials.dialers.keys() == {"grenache"} else "tcp"
        for each in hosts:
            address = self._book.get(each, port, carrier) or Address(
                normal_host(each), port, None, MANUAL, carrier=carrier
            )
            dialled = (address.host, address.port)
            self._admission.operator_dials.add(dialled)
            try:
                node_id = self._connected_at(address) or await self._dials.attempt(address)
            except (ConnectFailed, HandshakeRefused) as error:
                crossed = await self._crossed(address, error)
                if crossed is None:
                    failure = error
                    continue
                node_id = crossed
            finally:
                self._admission.operator_dials.discard(dialled)
            found = PeerFound(each, port, node_id, MANUAL, carrier=carrier)
            self._book.add(found, self._now())
            peer = self._records.get(node_id)
            if peer is not None and node_id in self._table.used:
                return peer
            failure = ConnectFailed(f"the link to {address} closed again at once")
        raise failure

    async def _crossed(self, dialled: Address, error: Exception) -> str | None:
        """Wait for the other link after a refusal as duplicate, when both nodes dialled at once; returns
        the node id whose link shows that it listens at this address.
        """
        if not isinstance(error, HandshakeRefused) or error.code is not Code.DUPLICATE:
            return None
        deadline = self._now() + CROSSED_WAIT
        while self._now() < deadline:
            address = self._book.get(dialled.host, dialled.port, dialled.carrier)
            if address is not None and address.node_id in self._table.used:
                return address.node_id
            await asyncio.sleep(0.02)
        return None

    def _connected_at(self, address: Address) -> str | None:
        if address.tried and address.node_id in self._table.used:
            return address.node_id
        return None
