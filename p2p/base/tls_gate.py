"""Listening with TLS so that a connection has its slot before the handshake, which costs this machine more than the client.

The event loop's own TLS servers tell of a connection once its handshake is done: until then nothing counts it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from p2p.base.places import Places
from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger(__name__)

HANDSHAKE: Final = 10.0  # seconds


class Cuttable(Protocol):
    """A connection that can be ended at once."""

    def cut(self) -> None: ...

    def __hash__(self) -> int: ...


class TlsGate(asyncio.Protocol):
    """A connection from its acceptance to the end of its TLS handshake. Then `make` makes its protocol."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        places: Places[Cuttable],
        tasks: OwnedTasks,
    ) -> None:
        self._make = make
        self._context = context
        self._places = places
        self._tasks = tasks
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # behind the handshake, before there is a protocol
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._transport is not None:
            return  # once more, of the same connection with TLS
        self._transport = made = cast(asyncio.Transport, transport)
        made.pause_reading()
        peer = made.get_extra_info("peername")
        goes = self._places.enter(self, str(peer[0]) if isinstance(peer, tuple) else "")
        if goes is not None:
            goes.cut()
        if goes is not self:
            self._tasks.start(self._handshake(made))

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._places.leave(self)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _handshake(self, plain: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            made = await loop.start_tls(
                plain, self, self._context, server_side=True, ssl_handshake_timeout=HANDSHAKE
            )
        except (OSError, asyncio.CancelledError) as error:
            plain.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            log.debug("no TLS: %s", error)
            return
        finally:
            self._places.leave(self)
        if made is None or self._ended:
            return
        protocol = self._make()
        made.set_protocol(protocol)
        protocol.connection_made(made)
        for data in self._early:
            protocol.data_received(data)


async def listen(
    make: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    places: Places[Cuttable],
    tasks: OwnedTasks,
    backlog: int = 100,
) -> asyncio.Server:
    """Listen for connections whose protocols `make` makes. They take a slot of `places` when they are made, and with TLS
    (`context`) also before. `tasks` run the handshakes.

    Raises:
        OSError: the address cannot be bound.
    """

    def accept() -> asyncio.Protocol:
        return make() if context is None else TlsGate(make, context, places, tasks)

    return await asyncio.get_running_loop().create_server(accept, host, port, backlog=backlog)
