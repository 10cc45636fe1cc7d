"""Grenache publisher: a WebSocket server that sends published messages to all connections.

    async with Link(["http://127.0.0.1:30001"]) as link:
        publisher = Publisher("prices", directory=link)
        await publisher.start("0.0.0.0", 1337)
        publisher.pub('{"BTCUSD": "65000"}')
        ...
        await publisher.stop()

A `PeerSub` of `grenache-nodejs-ws` (and `p2p.grenache.rpc.subscriber`) looks up the name and connects to one
publisher of it. Like that of the Node.js programs this has no topics, no replay and no
acknowledgements: messages published while a subscriber is not connected are lost to it. A
subscriber that reads too slowly is disconnected when `max_backlog` bytes wait for it; the others
are not affected.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

from p2p.grenache.announcer import INTERVAL, Announcer
from p2p.grenache.directory import Address, Directory
from p2p.grenache.input_checks import check_service
from p2p.grenache.rpc import rpc_server
from p2p.grenache.rpc.limits import Limits

MAX_HEARD: Final = 1 << 12  # bytes of a message from a subscriber, which need not send any
MAX_BACKLOG: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """`address`: None when not started. `backlog`: bytes that wait until subscribers read. Since the start,
    `cut`: subscribers that read too slowly."""

    address: Address | None
    subscribers: int
    backlog: int
    published: int
    cut: int


class Publisher:
    """See the module.

    Args:
        service: the name that subscribers look up.
        directory: where to announce it; None for a publisher that is not announced.
        tls: serves WSS only, which `PeerSub` cannot use.
        origins: web pages whose browsers may subscribe, such as "https://desk.example".
        limits: of connections.
    """

    def __init__(
        self,
        service: str,
        *,
        directory: Directory | None = None,
        tls: ssl.SSLContext | None = None,
        origins: Collection[str] = (),
        limits: Limits | None = None,
        announce_interval: float = INTERVAL,
    ) -> None:
        self._service = check_service(service)
        limits = limits or Limits(max_payload=MAX_HEARD, max_backlog=MAX_BACKLOG)
        self._server = rpc_server.RpcServer(
            _on_http, _on_socket, tls=tls, limits=limits, origins=origins
        )
        self._announcer: Announcer | None = None
        if directory is not None:
            self._announcer = Announcer(directory, interval=announce_interval)
        self._address: Address | None = None
        self._published = 0
        self._cut = 0

    async def start(self, host: str = "0.0.0.0", port: int = 0) -> Address:
        """Listen (port 0: a free one) and begin to announce. Does not wait for a Grape: `announced` does.

        Raises:
            OSError: the address cannot be bound.
        """
        self._address = await self._server.start(host, port)
        if self._announcer is not None:
            self._announcer.start(self._service, self._address[1])
        return self._address

    @property
    def address(self) -> Address:
        """Listening address, after `start`."""
        if self._address is None:
            raise RuntimeError("the publisher is not started")
        return self._address

    @property
    def subscribers(self) -> int:
        return len(self._server.sockets)

    async def announced(self) -> None:
        """Wait until the service has been announced once. Without limit while no Grape accepts
        it."""
        if self._announcer is not None:
            await self._announcer.announced()

    def pub(self, message: str | bytes) -> int:
        """Send a message to every subscriber, text as text, bytes as a binary message. Never waits.

        Returns:
            Number of subscribers it was sent to; some may disconnect before they read it.
        """
        if isinstance(message, str):
            frame = rpc_server.frame(message.encode())
        else:
            frame = rpc_server.frame(message, text=False)
        sockets = self._server.sockets
        sent = sum(socket.send(frame) for socket in sockets)
        self._published += 1
        return sent

    async def stop(self) -> None:
        """Stop announcing and close the connections."""
        if self._announcer is not None:
            await self._announcer.close()
        await self._server.stop()
        self._address = None

    def status(self) -> PublisherStatus:
        return PublisherStatus(
            address=self._address,
            subscribers=self.subscribers,
            backlog=self._server.backlog,
            published=self._published,
            cut=self._server.cut,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


async def _on_http(request: web.BaseRequest) -> web.StreamResponse:
    raise rpc_server.HttpRefusal(
        426, "ERR_WEBSOCKET: this is a publisher, connect with a WebSocket"
    )


async def _on_socket(socket: rpc_server.Socket) -> None:
    async for _ in socket:
        pass
