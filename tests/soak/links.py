"""The links between the nodes of a soak: TCP proxies that can be cut, stalled and slowed down.

Every node listens on 127.0.0.1, and nobody dials it there. For each two nodes and each direction there is
a proxy with a loopback address of its own: 127.77.x.y is how node x sees node y, with y's port. Whoever
accepts a connection from the proxy sees it come from the address under which it would dial the other node
itself, so what a node learns from those that dial it leads through the proxies too. Peer exchange has to be
off: it would tell a node of others' addresses. (Linux has all of 127.0.0.0/8; other systems have not.)
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

CHUNK: Final = 65_536  # bytes
HOST: Final = "127.0.0.1"


def host_of(viewer: int, target: int) -> str:
    """Where `viewer` finds `target`."""
    return f"127.77.{viewer + 1}.{target + 1}"


def can_be_used() -> bool:
    """Whether this system has the addresses."""
    with socket.socket() as probe:
        try:
            probe.bind((host_of(0, 1), 0))
        except OSError:
            return False
    return True


class Link:
    """Between two nodes, both ways."""

    def __init__(self, ends: tuple[int, int], ports: tuple[int, int]) -> None:
        self.ends = ends
        self.delay = 0.0  # seconds that each chunk is held, so about what a message takes longer
        self._ports = dict(zip(ends, ports, strict=True))
        self._up = True
        self._flowing: dict[int, asyncio.Event] = {}  # by the node that the bytes are for
        for end in ends:
            self._flowing[end] = asyncio.Event()
            self._flowing[end].set()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.carried = 0  # bytes

    async def open(self) -> None:
        for viewer, target in (self.ends, self.ends[::-1]):

            async def accept(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                viewer: int = viewer,
                target: int = target,
            ) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                with suppress(OSError, asyncio.CancelledError):
                    await self._serve(reader, writer, viewer, target)

            server = await asyncio.start_server(
                accept, host_of(viewer, target), self._ports[target], limit=CHUNK
            )
            self._servers.append(server)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Faults

    def cut(self) -> None:
        """Connections break, and new ones break at once."""
        self._up = False
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self, *targets: int) -> None:
        """What is for these ends (both when none is named) waits; nobody is told."""
        for target in targets or self.ends:
            self._flowing[target].clear()

    def heal(self) -> None:
        self._up = True
        self.delay = 0.0
        for flowing in self._flowing.values():
            flowing.set()

    # Bytes

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, viewer: int, target: int
    ) -> None:
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            if not self._up:
                return
            # From where the target would dial the viewer.
            source = (host_of(target, viewer), 0)
            back, other = await asyncio.open_connection(
                HOST, self._ports[target], local_addr=source, limit=CHUNK
            )
            self._writers.add(other)
            if not self._up:
                return
            ways = [
                asyncio.ensure_future(self._pump(reader, other, target)),
                asyncio.ensure_future(self._pump(back, writer, viewer)),
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
                    self._writers.discard(each)
                    each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int
    ) -> None:
        flowing = self._flowing[target]
        while data := await reader.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await flowing.wait()
            writer.write(data)
            self.carried += len(data)
            await writer.drain()
        await writer.drain()
        await asyncio.sleep(0.05)  # what was written last leaves before the connection is torn down


class Links:
    """All pairs of nodes. `ports` are those that the nodes listen on, on 127.0.0.1."""

    def __init__(self, ports: Sequence[int]) -> None:
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

    def address(self, viewer: int, target: int) -> str:
        return f"{host_of(viewer, target)}:{self._ports[target]}"

    def addresses(self, viewer: int) -> str:
        """Where a node finds all others."""
        others = (node for node in range(len(self._ports)) if node != viewer)
        return ",".join(self.address(viewer, other) for other in others)
