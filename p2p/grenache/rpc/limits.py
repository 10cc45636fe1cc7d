"""Limits of a port for Grenache requests, against misuse."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.grenache.rpc.rpc_wire import MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one port. Bytes and seconds; see `p2p.grenache.rpc.rpc_server`."""

    max_payload: int = MAX_PAYLOAD
    max_connections: int = 512
    max_per_host: int = 128  # connections of one IPv4 address, also loopback, or /64 of IPv6
    max_backlog: int = 16 * MAX_PAYLOAD
    heartbeat: float = 30.0
    first_head: float = 10.0  # after connecting, with TLS after its handshake
    idle: float = 75.0
    body_timeout: float = 30.0
    stall: float = 20.0
    linger: float = (
        2.0  # for the rest of a refused body, which is read so that its sender gets the error
    )
