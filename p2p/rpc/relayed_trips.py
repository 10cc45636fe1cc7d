"""Round trips to nodes that a neighbour relays to in clear, where neither a link nor a session measures them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from p2p.base.errors import P2PError, RpcError
from p2p.mesh.delivery import Delivery
from p2p.rpc.rpc import Rpc

METHOD: Final = "ping"  # a node that does not serve it answers that, which takes as long
CHECK: Final = 5.0  # seconds between looks for nodes to measure
INTERVAL: Final = 60.0  # seconds between measurements of a node
AT_ONCE: Final = 8  # measurements under way
TIMEOUT: Final = 5.0  # seconds


class RelayedTrips:
    """Measures each node with relayed messages once a minute, at most `AT_ONCE` every `CHECK` seconds."""

    def __init__(self, rpc: Rpc, delivery: Delivery, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._rpc = rpc
        self._delivery = delivery
        self._clock = clock
        self._measured: dict[str, float] = {}  # node -> when

    async def check(self) -> None:
        """Measure the nodes that are due. Call every `CHECK` seconds."""
        await asyncio.gather(*map(self._measure, self._due(self._clock())))

    def _due(self, now: float) -> list[str]:
        nodes = self._delivery.relayed_in_clear(now)
        self._measured = {n: at for n, at in self._measured.items() if n in nodes}
        due = [n for n in nodes if now - self._measured.get(n, -INTERVAL) >= INTERVAL]
        due.sort(key=lambda node: self._measured.get(node, -INTERVAL))
        return due[:AT_ONCE]

    async def _measure(self, node: str) -> None:
        begin = self._measured[node] = self._clock()
        with suppress(P2PError):
            try:
                await self._rpc.call(node, METHOD, timeout=TIMEOUT)
            except RpcError as error:
                if error.code != "unknown_method":
                    raise
            self._delivery.measured(node, self._clock() - begin)
