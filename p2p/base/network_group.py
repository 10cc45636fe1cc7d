"""Network groups: the part of an address that an attacker cannot multiply cheaply.

Addresses of one /16 (IPv4) or /32 (IPv6) usually belong to one operator, so limits and diversity count groups, not
addresses. Loopback, private and link-local addresses do not identify an operator: each of them is a
group of its own, and their limits have separate settings, because many nodes on one machine or LAN
are normal.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import lru_cache

from p2p.base.host_port import is_ip, normal_host
from p2p.base.reach import Reach, ip_of, reach

# Networks for documentation (RFC 5737, RFC 3849) have no operator either.
_DOCUMENTATION = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)


@lru_cache(maxsize=8192)
def is_local(host: str) -> bool:
    """Return True for addresses of this machine, of a private network or behind a carrier's NAT. A name is not local."""
    ip = ip_of(host)
    documents = ip is not None and any(ip in network for network in _DOCUMENTATION)
    return documents or reach(host) < Reach.PUBLIC


@lru_cache(maxsize=8192)
def network_group(host: str) -> str:
    """Return the group of an address: its /16 or /32, or the address itself if it is local or a name."""
    host = normal_host(host.partition("%")[0])
    if not is_ip(host) or is_local(host):
        return host
    prefix = 16 if ipaddress.ip_address(host).version == 4 else 32
    return str(ipaddress.ip_network(f"{host}/{prefix}", strict=False))


def keyed(key: bytes, *parts: str) -> int:
    """Return a 64-bit hash that cannot be predicted without `key`."""
    digest = hashlib.blake2b("\x00".join(parts).encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "big")
