"""Connection between primary and standby: messages over TLS 1.3 between two machines that know each other's ids.

A message is a 4-byte big-endian length and msgpack. Both show the identity of their machine, and each checks the other's
before it sends anything but a refusal.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Final

import msgspec

from node.annexes.standby.link_messages import Message
from p2p.base.errors import RemoteProtocolError
from p2p.base.identity import Identity, node_id_of
from p2p.wire.tls import client_context, peer_public_key

MAX_MESSAGE: Final = 2**31  # bytes; a single frame may have 2**30
CONNECT_TIMEOUT: Final = 5.0  # s, TLS included

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return the seconds of a clock that counts while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class LinkError(Exception):
    """The connection failed or is refused."""


class Link:
    """Open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Raises LinkError if the other machine has no key to show."""
        self._reader = reader
        self._writer = writer
        connection = writer.get_extra_info("ssl_object")
        try:
            self.peer = node_id_of(peer_public_key(connection))  # id of the other machine
        except RemoteProtocolError as error:
            writer.close()
            raise LinkError(str(error)) from error

    def send(self, message: Message) -> None:
        """Send a message, without waiting."""
        data = _encode(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)

    async def drain(self) -> None:
        """Wait while the other side is slow.

        Raises:
            LinkError: the connection is gone.
        """
        try:
            await self._writer.drain()
        except (OSError, ssl.SSLError) as error:
            raise LinkError(str(error) or "the connection is gone") from error

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            LinkError: the connection is gone, or this is no message.
        """
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > MAX_MESSAGE:
                raise LinkError(f"a message of {size:,} bytes is too long")
            message: Message = _decode(await self._reader.readexactly(size))
            return message
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
            raise LinkError(str(error) or "the connection is gone") from error

    def close(self) -> None:
        """Close the connection at once, after the bytes written so far."""
        with suppress(OSError):
            self._writer.close()


async def dial(host: str, port: int, identity: Identity) -> Link:
    """Connect to a primary.

    Raises:
        LinkError: nothing answers there, or it speaks another protocol.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=client_context(identity), server_hostname="", limit=2**20
            )
    except (OSError, ssl.SSLError, TimeoutError) as error:
        raise LinkError(str(error) or "no answer in time") from error
    return Link(reader, writer)
