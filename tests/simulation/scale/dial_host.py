"""Host of a dial loop in a simulation: nothing is banned, and outcomes need no record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2p.addresses.address import Address


class SimulatedDials:
    """`p2p.peers.dial_loop.DialHost` over `links` by node id."""

    def __init__(
        self, links: dict[str, Any], is_outbound: Callable[[str], bool] = lambda node_id: True
    ) -> None:
        self.links = links
        self._is_outbound = is_outbound

    def is_outbound(self, node_id: str) -> bool:
        return self._is_outbound(node_id)

    def is_banned(self, address: Address) -> bool:
        return False

    def reached(self, node_id: str, address: Address) -> None:
        pass

    def forgotten(self, address: Address) -> None:
        pass
