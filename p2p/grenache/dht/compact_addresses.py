"""Compact addresses of the DHT (BEP 5): IPv4 only."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address
from socket import AF_INET, inet_ntop, inet_pton
from typing import Final

from p2p.base.reach import Reach, ip_of, reach
from p2p.grenache.directory import Address

LOOPBACK_NET: Final = 127  # first byte of a packed loopback address


def ipv4_reach(host: str) -> Reach:
    """Return the reach of an IPv4 address; NONE for anything else, which the DHT cannot record."""
    return reach(host) if isinstance(ip_of(host), IPv4Address) and ":" not in host else Reach.NONE


def usable(address: Address) -> bool:
    """Return True if a datagram can be sent to the address."""
    return 0 < address[1] < 65536 and ipv4_reach(address[0]) is not Reach.NONE


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
