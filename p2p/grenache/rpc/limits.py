"""Limits of a port for Grenache requests, against misuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2p.grenache.rpc.rpc_wire import MAX_PAYLOAD

WORKERS: Final = 256  # handlers at once: they wait for others more than they compute
MAX_STREAMS: Final = 64  # of one worker at once


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one port. Bytes and seconds; see `p2p.grenache.rpc.rpc_server`. `workers`: requests served at once, over all
    services; `max_streams`: streams in addition; `time_limit`: seconds that a handler may take."""

    max_payload: int = MAX_PAYLOAD  # of one request, also after decompression
    workers: int = WORKERS
    max_streams: int = MAX_STREAMS
    time_limit: float | None = None
    max_connections: int = 512
    max_per_host: int = (
        128  # connections of one IPv4 address or /64 of IPv6 other than this machine
    )
    max_backlog: int = 16 * MAX_PAYLOAD
    heartbeat: float = 30.0
    first_head: float = 10.0  # after connecting, with TLS after its handshake
    idle: float = 75.0
    body_timeout: float = 30.0
    stall: float = 20.0
    linger: float = (
        2.0  # for the rest of a refused body, which is read so that its sender gets the error
    )
