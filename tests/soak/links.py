"""The links between the nodes of a soak: TCP proxies that can be cut, stalled and slowed down.

Every node listens on 127.0.0.1, and nobody dials it there. For each two nodes and each direction there is
a proxy with a loopback address of its own: 127.77.x.y is how node x sees node y, with y's port. Whoever
accepts a connection from the proxy sees it come from the address under which it would dial the other node
itself, so what a node learns from those that dial it leads through the proxies too. Peer exchange has to be
off: it would tell a node of others' addresses. (Linux has all of 127.0.0.0/8; other systems have not.)
Where nodes take Grenache requests there is such a proxy too, which `tests.soak.grapes` leads them to.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from p2p.wire.link import Carrier

CHUNK: Final = 65_536  # bytes
HOST: Final = "127.0.0.1"
Ports = Mapping[Carrier, int]
"""Ports of a node on `HOST`, by carrier."""


def host_of(viewer: int, target: int) -> str:
    """Host under which `viewer` finds `target`."""
    return f"127.77.{viewer + 1}.{target + 1}"


def can_be_used() -> bool:
    """True if this system has the addresses."""
    with socket.socket() as probe:
        try:
            probe.bind((host_of(0, 1), 0))
        except OSError:
            return False
    return True


class Link:
    """Between two nodes, in both directions, by all the ways that they have to each other."""

    def __init__(self, ends: tuple[int, int], ports: tuple[Ports, Ports]) -> None:
        self.ends = ends
        self.delay = 0.0  # seconds that each chunk is held, so about what a message takes longer
        self._ports = dict(zip(ends, ports, strict=True))
        self._cut: set[Carrier] = set()
        self._flowing: dict[int, asyncio.Event] = {}  # by the node that the bytes are for
        for end in ends:
            self._flowing[end] = asyncio.Event()
            self._flowing[end].set()
        self._servers: list[asyncio.Server] = []
        self._writers: dict[asyncio.StreamWriter, Carrier] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.carried: Counter[Carrier] = Counter()  # bytes

    async def open(self) -> None:
        for viewer, target in (self.ends, self.ends[::-1]):
            for carrier, port in self._ports[target].items():
                await self._open(viewer, target, carrier, port)

    async def _open(self, viewer: int, target: int, carrier: Carrier, port: int) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer, viewer, target, carrier)

        where = host_of(viewer, target)
        self._servers.append(await asyncio.start_server(accept, where, port, limit=CHUNK))

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Faults

    def cut(self, *carriers: Carrier) -> None:
        """Connections of these ways (of all when none is named) break, and new ones break at once."""
        self._cut.update(carriers or ("tcp", "grenache"))
        for writer, carrier in list(self._writers.items()):
            if carrier in self._cut:
                writer.transport.abort()

    def stall(self, *targets: int) -> None:
        """Hold back bytes for these ends (both when none is named), without a sign to anybody."""
        for target in targets or self.ends:
            self._flowing[target].clear()

    def heal(self) -> None:
        self._cut.clear()
        self.delay = 0.0
        for flowing in self._flowing.values():
            flowing.set()

    # Bytes

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        viewer: int,
        target: int,
        carrier: Carrier,
    ) -> None:
        self._writers[writer] = carrier
        other: asyncio.StreamWriter | None = None
        try:
            if carrier in self._cut:
                return
            # From where the target would dial the viewer.
            source = (host_of(target, viewer), 0)
            back, other = await asyncio.open_connection(
                HOST, self._ports[target][carrier], local_addr=source, limit=CHUNK
            )
            self._writers[other] = carrier
            if carrier in self._cut:
                return
            ways = [
                asyncio.ensure_future(self._pump(reader, other, target, carrier)),
                asyncio.ensure_future(self._pump(back, writer, viewer, carrier)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for each in (writer, other):
                if each is not None:
                    self._writers.pop(each, None)
                    each.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: int,
        carrier: Carrier,
    ) -> None:
        flowing = self._flowing[target]
        while data := await reader.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await flowing.wait()
            writer.write(data)
            self.carried[carrier] += len(data)
            await writer.drain()
        await writer.drain()
        await asyncio.sleep(0.05)  # what was written last leaves before the connection is torn down


class Links:
    """All pairs of nodes. `ports`: by node, where they listen."""

    def __init__(self, ports: Sequence[Ports]) -> None:
        self._ports = ports
        self.all = {
            (a, b): Link((a, b), (ports[a], ports[b]))
            for a, b in itertools.combinations(range(len(ports)), 2)
        }

    async def open(self) -> None:
        for link in self.all.values():
            await link.open()

    async def close(self) -> None:
        for link in self.all.values():
            await link.close()

    def of(self, node: int) -> list[Link]:
        return [link for ends, link in self.all.items() if node in ends]

    def between(self, group: Sequence[int]) -> list[Link]:
        """Links that lead out of a group."""
        return [link for (a, b), link in self.all.items() if (a in group) != (b in group)]

    def heal(self) -> None:
        for link in self.all.values():
            link.heal()

    @property
    def carried(self) -> Counter[Carrier]:
        """Bytes over all links."""
        total: Counter[Carrier] = Counter()
        for link in self.all.values():
            total += link.carried
        return total

    @property
    def direct(self) -> list[tuple[int, int]]:
        """Pairs of nodes that can both be reached over TCP."""
        return [(a, b) for a, b in self.all if "tcp" in self._ports[a] and "tcp" in self._ports[b]]

    def address(self, viewer: int, target: int) -> str:
        """TCP address under which `viewer` finds `target`."""
        return f"{host_of(viewer, target)}:{self._ports[target]['tcp']}"

    def addresses(self, viewer: int) -> str:
        """TCP addresses of all other nodes that can be reached."""
        others = (sum(pair) - viewer for pair in self.direct if viewer in pair)
        return ",".join(self.address(viewer, other) for other in others)
