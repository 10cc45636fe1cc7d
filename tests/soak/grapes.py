"""The Grape of a soak as each of its nodes sees it: what it names is behind the links of `tests.soak.links`.

Nodes announce themselves at one Grape, which records 127.0.0.1 and a port. Between it and each node is a
small HTTP server that passes requests on, and in the answers to lookups writes the address under which this
node sees that other one. A Grape that is down is down for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from tests.integration.processes import GrapeProcess
from tests.soak.links import HOST, Ports, host_of

TIMEOUT: Final = 5.0  # seconds
BROKEN: Final = (aiohttp.ClientError, TimeoutError)


class Views:
    """Whoever opens them closes them."""

    def __init__(self, grape: GrapeProcess) -> None:
        self.grape = grape
        self._viewers: dict[int, int] = {}  # by port of the server: the node that it is for
        self._nodes: dict[int, int] = {}  # by port that is announced: whose it is
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    async def open(self, count: int) -> list[str]:
        """The URL for each of `count` nodes."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        self._runner = web.ServerRunner(web.Server(self._pass_on))
        await self._runner.setup()
        for viewer in range(count):
            await web.TCPSite(self._runner, HOST, 0).start()
            self._viewers[self._runner.addresses[viewer][1]] = viewer
        return [f"http://{HOST}:{port}" for port in self._viewers]

    def know(self, ports: Sequence[Ports]) -> None:
        """The links of these nodes are open. What is found before is kept from everybody."""
        self._nodes = {port: node for node, own in enumerate(ports) for port in own.values()}

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _pass_on(self, request: web.BaseRequest) -> web.Response:
        assert self._session is not None
        assert request.transport is not None
        viewer = self._viewers[request.transport.get_extra_info("sockname")[1]]
        url, body = self.grape.url + request.path, await request.read()
        try:
            async with self._session.request(request.method, url, data=body) as answer:
                status, told = answer.status, await answer.read()
        except BROKEN:
            request.transport.abort()  # as if nobody were here
            return web.Response(status=503)
        if request.path == "/lookup":
            told = self._lookup(viewer, told)
        return web.Response(status=status, body=told, content_type="application/json")

    def _lookup(self, viewer: int, answer: bytes) -> bytes:
        found: Any = orjson.loads(answer)
        if not isinstance(found, list):  # an error's text
            return answer
        return orjson.dumps(list(as_seen(viewer, found, self._nodes)))


def as_seen(viewer: int, found: Iterable[str], nodes: Mapping[int, int]) -> Iterator[str]:
    """Results of a lookup, as node `viewer` reaches them. `nodes`: by port, those that can be reached."""
    for address in found:
        port = int(address.rpartition(":")[2])
        node = nodes.get(port)
        if node == viewer:
            yield address  # by which a node knows that it is its own
        elif node is not None:
            yield f"{host_of(viewer, node)}:{port}"
