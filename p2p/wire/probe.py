"""Probe: a connection that tests an address instead of making a link.

It is a single exchange inside TLS, before any handshake: `probe`, answered by `probe_ack`. Two things are made of it:
- a dial-back (`p2p.reachability.dial_back`): the nonce proves to the node that was dialled that it can be reached there;
- a look into a mirror: sent from the port on which this node listens, the answer shows the port that a NAT maps it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from typing import Final

import msgspec

from p2p.base.errors import ConnectFailed, RemoteProtocolError
from p2p.base.host_port import format_host_port, is_ip, normal_host
from p2p.base.identity import node_id_of
from p2p.wire import tls
from p2p.wire.framing import HEADER, pack_length
from p2p.wire.messages import Codec, Envelope, Probe, ProbeAck, pack

PROBE_TIMEOUT: Final = 5.0  # seconds, connection and TLS included
MAX_ANSWER: Final = 2048  # bytes


class ProbeTarget(msgspec.Struct, frozen=True):
    """Node to probe. `expect`: its node id, checked where there is TLS. `source`: local address to bind; port 0: any."""

    host: str
    port: int
    expect: str
    source: tuple[str, int] | None = None


async def send_probe(
    target: ProbeTarget, own_id: str, nonce: bytes, context: ssl.SSLContext | None
) -> tuple[str, int]:
    """Probe a node and return where it sees this one. `context` is None without TLS.

    Raises:
        ConnectFailed: no answer in time, no valid answer, or another node is there.
    """
    where = format_host_port(target.host, target.port)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            return await _exchange(target, own_id, nonce, context)
    except TimeoutError:
        raise ConnectFailed(f"{where} did not answer in {PROBE_TIMEOUT:g} s") from None
    except (OSError, asyncio.IncompleteReadError, RemoteProtocolError) as error:
        raise ConnectFailed(f"{where}: {error}") from error


async def _exchange(
    target: ProbeTarget, own_id: str, nonce: bytes, context: ssl.SSLContext | None
) -> tuple[str, int]:
    sock = await open_connection(target)
    if target.source is not None:
        # Reset at the end instead of TIME_WAIT: the same pair of addresses may be needed again soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    name = None if context is None else ""
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=name, limit=2 * MAX_ANSWER
        )
    except BaseException:
        sock.close()
        raise
    try:
        security: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        if security is not None and node_id_of(tls.peer_public_key(security)) != target.expect:
            raise ConnectFailed(f"another node than {target.expect} is there")
        writer.write(_frame(own_id, target.expect, nonce))
        length = int.from_bytes(await reader.readexactly(HEADER), "big")
        if not 0 < length <= MAX_ANSWER:
            raise ConnectFailed(f"an answer of {length} bytes")
        return _observed(await reader.readexactly(length))
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _frame(own_id: str, to: str, nonce: bytes) -> bytes:
    envelope = Envelope(
        type="probe",
        from_=own_id,
        to=to,
        timestamp=int(time.time() * 1000),
        payload=msgspec.Raw(pack(Probe(nonce))),
    )
    payload = Codec().encode(envelope, as_json=True)
    return pack_length(len(payload)) + payload


def _observed(payload: bytes) -> tuple[str, int]:
    codec = Codec()
    envelope = codec.decode(payload)
    if envelope.type != "probe_ack":
        raise ConnectFailed(f"answered {envelope.type[:40]!r} to a probe")
    ack: ProbeAck = codec.payload("probe_ack", envelope.payload)
    if not is_ip(ack.observed_address) or not 0 < ack.observed_port <= 65535:
        raise ConnectFailed("answered no address to a probe")
    return normal_host(ack.observed_address), ack.observed_port


async def open_connection(target: ProbeTarget) -> socket.socket:
    """Open a TCP connection from the target's `source`, which other sockets may share.

    Raises:
        OSError: no connection.
    """
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if target.source is not None:
            share_port(sock)
            sock.bind(target.source)
        await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
    except BaseException:
        sock.close()
        raise
    return sock


def share_port(sock: socket.socket) -> None:
    """Allow further sockets of this user at the port of `sock`, each of which has to allow it as well.

    Set on a listener after its bind, so that the bind itself was exclusive and a second node is refused.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
