"""Confirmation of a punched connection, before TLS: both sides send a text that only the two of a punch can make.

A connection between two addresses that are being punched may be the punched one, in which the node ids fix the roles, or an
ordinary one that happens to come from there. Both sides of a punched connection send `confirmation` first, made of the
nonce of the punch. An accepting side looks at the first bytes without taking them: what is no confirmation is served as any other
connection, with this node as the server.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from hashlib import blake2b
from typing import Final

from p2p.base.errors import ConnectFailed

MAGIC: Final = b"exnpunch"  # neither a TLS record nor the length of a frame
LENGTH: Final = len(MAGIC) + 32
TIMEOUT: Final = 2.0  # seconds
POLL: Final = 0.01  # seconds between looks at an unfinished confirmation


def confirmation(nonce: bytes, sender: str) -> bytes:
    """Return the confirmation of a node for the punch with this nonce."""
    digest = blake2b(sender.encode(), digest_size=32, key=nonce, person=b"exnode punch")
    return MAGIC + digest.digest()


async def exchange(sock: socket.socket, own_id: str, peer: str, nonce: bytes) -> None:
    """Send the own confirmation over a connected socket, and take the peer's.

    Raises:
        ConnectFailed: another confirmation came, or none in time.
        OSError: the connection broke.
    """
    loop = asyncio.get_running_loop()
    received = b""
    try:
        async with asyncio.timeout(TIMEOUT):
            await loop.sock_sendall(sock, confirmation(nonce, own_id))
            while len(received) < LENGTH:
                data = await loop.sock_recv(sock, LENGTH - len(received))
                if not data:
                    raise ConnectFailed("the other side closed the connection")
                received += data
    except TimeoutError:
        raise ConnectFailed("the other side did not confirm the punch") from None
    if not hmac.compare_digest(received, confirmation(nonce, peer)):
        raise ConnectFailed("the other side confirmed another punch")


async def is_confirmed(sock: socket.socket) -> bool:
    """Return True if an accepted connection begins with a confirmation, which stays unread.

    Raises:
        OSError: the connection broke.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            while True:
                begin = await _peek(sock)
                if not begin or begin != MAGIC[: len(begin)]:
                    return False
                if len(begin) == len(MAGIC):
                    return True
                await asyncio.sleep(POLL)
    except TimeoutError:
        return False


async def _peek(sock: socket.socket) -> bytes:
    """Return the first bytes once there are some; empty at the end of the stream."""
    while True:
        try:
            return sock.recv(len(MAGIC), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, on_readable)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
