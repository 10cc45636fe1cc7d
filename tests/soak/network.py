"""The nodes of a soak and their ways to each other: started, introduced, taken down.

By mode, nodes have direct links alone (`p2p`); or direct ones and Grenache, and the last node Grenache alone
(`hybrid`); or all of them Grenache alone (`grenache`). Grenache is one Grape of this project in a process of
its own. The first node serves its API over TLS, with a certificate that it makes itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Literal, get_args

from p2p.wire.link import Carrier
from tests.integration.processes import GRENACHE, GrapeProcess, NodeProcess, Nodes, eventually
from tests.soak.grapes import Views
from tests.soak.links import Links, Ports

Mode = Literal["p2p", "hybrid", "grenache"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

SETTINGS: Final = {
    "DISCOVERY_EXCHANGE": "false",  # nodes know each other by the addresses of the links alone
    "PEER_RECONNECT_INTERVAL": "1000",
    "LOG_LEVEL": "warning",
    "API_RATE_LIMIT": "0",
}
TLS: Final = {"API_TLS_SELF_SIGNED": "true"}
ALONE: Final = {"P2P_ENABLED": "false"}


class Network:
    """Whoever starts it closes it, whatever became of the start."""

    def __init__(self, directory: Path, count: int, mode: Mode) -> None:
        self.mode = mode
        self._count = count
        self._nodes = Nodes(directory)
        self._links: Links | None = None
        self._views: Views | None = None
        self.grape: GrapeProcess | None = None

    @property
    def nodes(self) -> list[NodeProcess]:
        return self._nodes.all

    @property
    def links(self) -> Links:
        assert self._links is not None, "not started"
        return self._links

    async def start(self) -> None:
        """Returns when every node knows that all are present."""
        urls = [""] * self._count
        if self.mode != "p2p":
            self.grape = await asyncio.to_thread(self._nodes.grape)
            self._views = Views(self.grape)
            urls = await self._views.open(self._count)
        for number, url in enumerate(urls):
            self._nodes.make(f"n{number + 1}", **self._settings(number, url)).launch()
        ports = await asyncio.gather(*(asyncio.to_thread(_ports, node) for node in self.nodes))
        links = self._links = Links(ports)
        await links.open()
        if self._views is not None:
            self._views.know(ports)
        for viewer, node in enumerate(self.nodes):
            if addresses := links.addresses(viewer):
                node.options = ("--bootstrap", addresses)
        await asyncio.gather(*(asyncio.to_thread(self._connect, *pair) for pair in links.direct))
        await asyncio.gather(*(asyncio.to_thread(self._met, node) for node in self.nodes))

    def _settings(self, number: int, grape: str) -> dict[str, str]:
        own = SETTINGS | (TLS if number == 0 else {})
        if not grape:
            return own
        own |= {**GRENACHE, "GRAPE_URL": grape}
        last = number == self._count - 1
        return own | (ALONE if last or self.mode == "grenache" else {})

    def _connect(self, viewer: int, target: int) -> None:
        where = self.links.address(viewer, target)
        self.nodes[viewer].ask(lambda client: client.connect(where))

    def _met(self, node: NodeProcess) -> None:
        eventually(
            lambda: node.status().nodes_present == self._count,
            what=lambda: f"{node.name} to see {self._count} nodes: {node.status()}",
        )

    async def close(self) -> None:
        """No process is left when this returns."""
        if self._links is not None:
            await self._links.close()
        if self._views is not None:
            await self._views.close()
        self._nodes.cleanup()


def _ports(node: NodeProcess) -> Ports:
    """Addresses at which a launched node listens; a restart will find the same."""
    node.ready()
    found: dict[Carrier, int] = {}
    if node.p2p_address:
        found["tcp"] = node.p2p_port or 0
    if "GRAPE_URL" in node.settings:
        port = eventually(lambda: _grenache_port(node), what=f"{node.name} to use its Grape")
        found["grenache"] = port
        node.settings = {**node.settings, "GRENACHE_PORT": str(port)}
    return found


def _grenache_port(node: NodeProcess) -> int:
    """0 as long as no Grape has answered."""
    view = node.status().grenache
    if view is None or view.rpc_address is None:
        return 0
    return int(view.rpc_address.rpartition(":")[2])
