"""Compact addresses of the DHT (BEP 5): IPv4 only, with the network from which each is reachable."""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache
from socket import AF_INET, inet_ntop, inet_pton
from typing import Final

from p2p.grenache.directory import Address

LOOPBACK_NET: Final = 127  # first byte of a packed loopback address


class Reach(IntEnum):
    """Network from which an address is reachable, narrow to wide."""

    NONE = 0  # not a host: 0.0.0.0/8, multicast, broadcast, reserved
    LOOPBACK = 1
    PRIVATE = 2  # private and link-local networks
    PUBLIC = 3


@lru_cache(maxsize=8192)
def reach(host: str) -> Reach:
    """Return the reach of an IPv4 address; NONE for anything else."""
    try:
        ip = ipaddress.IPv4Address(host)
    except ValueError:
        return Reach.NONE
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.is_multicast or ip.is_reserved or int(ip) >> 24 == 0:
        return Reach.NONE
    # Not `is_global`: carrier networks (100.64/10) and the documentation ranges route like public ones.
    return Reach.PRIVATE if ip.is_link_local or _is_private(int(ip)) else Reach.PUBLIC


def _is_private(ip: int) -> bool:
    return ip >> 24 == 10 or ip >> 20 == 0xAC1 or ip >> 16 == 0xC0A8  # RFC 1918


def usable(address: Address) -> bool:
    """Return True if a datagram can be sent to the address."""
    return 0 < address[1] < 65536 and reach(address[0]) != Reach.NONE


@lru_cache(maxsize=8192)
def pack(address: Address) -> bytes:
    """Pack an address into 4 bytes of the IPv4 address and 2 of the port."""
    return inet_pton(AF_INET, address[0]) + address[1].to_bytes(2, "big")


@lru_cache(maxsize=8192)
def unpack(compact: bytes) -> Address:
    """Unpack exactly 6 bytes, the inverse of `pack`."""
    return inet_ntop(AF_INET, compact[:4]), int.from_bytes(compact[4:], "big")


def pack_host(host: str) -> bytes:
    """Pack an IPv4 address into 4 bytes. Raises OSError for anything else."""
    return inet_pton(AF_INET, host)


def unpack_host(packed: bytes) -> str:
    return inet_ntop(AF_INET, packed)
