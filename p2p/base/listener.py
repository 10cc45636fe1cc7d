"""Listening so that a connection has its slot from its acceptance: before TLS, whose handshake costs this machine more than
the client.

The event loop's own TLS servers tell of a connection once its handshake is done: until then nothing counts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, cast

from p2p.base.places import Places, address_group
from p2p.ground.owned_tasks import OwnedTasks
from p2p.ground.tokens import Tokens, TokenTable

log = logging.getLogger(__name__)

HANDSHAKE: Final = 10.0  # seconds
HANDSHAKES_EACH: Final = 5.0  # a second, of an `address_group` ...
HANDSHAKES_EACH_BURST: Final = 50.0  # ... and at once
HANDSHAKES_MORE: Final = 100.0  # a second beyond that, of all
HANDSHAKES_MORE_BURST: Final = 500.0
_PAUSE: Final = 0.5  # seconds, when the process has no file descriptors left
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Handshakes:
    """Rates of the TLS handshakes that others may have of this machine. One costs it several times what it costs the client.

    Each address has a few a second in any case. What goes beyond that shares a bound.
    """

    def __init__(self) -> None:
        self._each = TokenTable(HANDSHAKES_EACH, HANDSHAKES_EACH_BURST)
        self._more = Tokens(HANDSHAKES_MORE_BURST)

    def admit(self, now: float, address: str) -> bool:
        """Count a connection whose handshake is due; False: it has to be closed at once."""
        group = address_group(address)
        return (
            group is None
            or self._each.take(now, group)
            or self._more.take(now, HANDSHAKES_MORE, HANDSHAKES_MORE_BURST)
        )


async def accepted(
    listening: socket.socket, handshakes: Handshakes | None
) -> AsyncIterator[tuple[socket.socket, str, int]]:
    """Iterate over new connections as (socket, IP address, port), IPv4 ones without the prefix of IPv6. Those beyond the rates of
    `handshakes` are closed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            made, peer = await loop.sock_accept(listening)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(_PAUSE)
            continue
        address = str(peer[0]).removeprefix("::ffff:")
        if handshakes is None or handshakes.admit(loop.time(), address):
            yield made, address, int(peer[1])
        else:
            made.close()


class Cuttable(Protocol):
    """A connection that can be ended at once."""

    def cut(self) -> None: ...

    def __hash__(self) -> int: ...


class _Handshake:
    """A connection until its protocol takes a slot."""

    def __init__(self, accepted: socket.socket) -> None:
        self.accepted = accepted
        self.task: asyncio.Task[None] | None = None
        self.began = False  # the transport closes the socket

    def cut(self) -> None:
        if self.task is not None:
            self.task.cancel()


class _Handover(asyncio.Protocol):
    """Hands a connection over to its protocol as soon as it is made."""

    def __init__(self, make: Callable[[], asyncio.Protocol], begins: Callable[[], None]) -> None:
        self._make = make
        self._begins = begins

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._begins()
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Listener:
    """Sockets that listen until `close`. Made by `listen`."""

    def __init__(
        self,
        listening: list[socket.socket],
        make: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        places: Places[Cuttable],
        tasks: OwnedTasks,
    ) -> None:
        self._make = make
        self._context = context
        self._places = places
        self._tasks = tasks
        self._handshakes = Handshakes()
        host, port, *_ = listening[0].getsockname()
        self.address: tuple[str, int] = (str(host), int(port))
        self._accepting = [tasks.start(self._accept(each)) for each in listening]
        for task, each in zip(self._accepting, listening, strict=True):
            task.add_done_callback(lambda _, each=each: each.close())  # type: ignore[misc]

    def close(self) -> None:
        """Accept no more, from the next turn of the event loop on. Idempotent."""
        for task in self._accepting:
            task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        rates = None if self._context is None else self._handshakes
        async for made, address, _ in accepted(listening, rates):
            slot = _Handshake(made)
            goes = self._places.enter(slot, address)
            if goes is slot:
                made.close()
                continue
            if goes is not None:
                goes.cut()
            slot.task = self._tasks.start(self._make_connection(slot))
            slot.task.add_done_callback(lambda _, slot=slot: self._ended(slot))  # type: ignore[misc]

    async def _make_connection(self, slot: _Handshake) -> None:
        slot.began = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Handover(self._make, lambda: self._places.leave(slot)),
                slot.accepted,
                ssl=self._context,
                ssl_handshake_timeout=None if self._context is None else HANDSHAKE,
            )
        except OSError as error:
            log.debug("no TLS: %s", error)

    def _ended(self, slot: _Handshake) -> None:
        self._places.leave(slot)
        if not slot.began:  # cut before it could
            slot.accepted.close()


async def listen(
    make: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    places: Places[Cuttable],
    tasks: OwnedTasks,
    backlog: int = 100,
) -> Listener:
    """Listen at `host` (a name or an address) and `port` (0: a free one) for connections whose protocols `make` makes. They
    take a slot of `places` when they are made; before, with TLS (`context`) until the end of the handshake, they have one as
    well. `tasks` run the handshakes.

    Raises:
        OSError: the address cannot be bound.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as undo:
        listening: list[socket.socket] = []
        for family, _, _, _, address in dict.fromkeys(infos):
            # Every address of a name listens on the port that the first one got.
            bound = (address[0], listening[0].getsockname()[1] if listening else port, *address[2:])
            try:
                made = socket.create_server(
                    cast(tuple[str, int], bound), family=family, backlog=backlog
                )
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(infos) > 1:
                    continue  # "localhost" on a machine without IPv6
                raise
            undo.callback(made.close)
            made.setblocking(False)
            listening.append(made)
        if not listening:
            raise OSError(errno.EADDRNOTAVAIL, f"this machine has no address of {host}")
        undo.pop_all()
    return Listener(listening, make, context, places, tasks)
