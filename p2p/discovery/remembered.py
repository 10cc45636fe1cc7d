"""Persisted peers: discovery of the peers of earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2p.addresses.address import PeerFound
from p2p.discovery.strategy import BaseStrategy


class PersistedStrategy(BaseStrategy):
    """Report the remembered addresses once, at the start.

    `load` is `PeerManager.load_persisted_peers`; an OSError of it makes the strategy fail.
    """

    name = "persisted"

    def __init__(self, load: Callable[[], Sequence[PeerFound]]) -> None:
        super().__init__()
        self._load = load

    async def _open(self) -> None:
        for peer in self._load():
            self._report(peer.host, peer.port, peer.node_id, carrier=peer.carrier)
        count = self.found_count
        self._detail = f"{count} remembered address{'' if count == 1 else 'es'}"
