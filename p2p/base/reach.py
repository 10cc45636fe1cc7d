"""Reach of addresses: how far away a host can be to use one, and which addresses and ports a stranger may name.

A source of addresses (a peer, a DNS seed, a Grape, a router) is at an address too. Only addresses of the same reach or
a wider one are taken from it: a peer on the internet has no say about the private networks that this machine is in.
What the operator configured is not restricted.

Ports below 1024 and those of well-known databases and consoles are never dialled because a stranger named them.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache
from typing import Final

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """Part of the network in which an address is valid, narrow to wide."""

    NONE = 0  # not a host: unspecified, multicast, broadcast, reserved
    LOOPBACK = 1  # this machine
    LINK = 2  # this network segment (RFC 3927, RFC 4291)
    PRIVATE = 3  # private networks (RFC 1918, RFC 4193)
    SHARED = 4  # behind a carrier's NAT (RFC 6598)
    PUBLIC = 5  # anything else, names included


# The first network that contains an address decides. Networks for documentation route like public ones.
_IPV4: Final = tuple(
    (ipaddress.IPv4Network(network), reach)
    for network, reach in (
        ("0.0.0.0/8", Reach.NONE),
        ("10.0.0.0/8", Reach.PRIVATE),
        ("100.64.0.0/10", Reach.SHARED),
        ("127.0.0.0/8", Reach.LOOPBACK),
        ("169.254.0.0/16", Reach.LINK),
        ("172.16.0.0/12", Reach.PRIVATE),
        ("192.0.0.0/24", Reach.LINK),  # RFC 6890, among them the ends of DS-Lite
        ("192.88.99.0/24", Reach.NONE),  # RFC 7526
        ("192.168.0.0/16", Reach.PRIVATE),
        ("198.18.0.0/15", Reach.PRIVATE),  # RFC 2544; proxies use it within machines and networks
        ("224.0.0.0/3", Reach.NONE),
    )
)
_IPV6: Final = tuple(
    (ipaddress.IPv6Network(network), reach)
    for network, reach in (
        ("::1/128", Reach.LOOPBACK),
        ("fe80::/10", Reach.LINK),
        ("fec0::/10", Reach.PRIVATE),
        ("fc00::/7", Reach.PRIVATE),
        ("64:ff9b:1::/48", Reach.PRIVATE),  # RFC 8215
        ("2001:2::/48", Reach.PRIVATE),  # RFC 5180
        ("2001:10::/28", Reach.NONE),  # RFC 4843
        ("2001:20::/28", Reach.NONE),  # RFC 7343
        ("2000::/3", Reach.PUBLIC),
    )
)
# Networks whose addresses contain IPv4 addresses: the position of their last bit each, and its inversion.
_EMBEDDING: Final = tuple(
    (ipaddress.IPv6Network(network), embedded)
    for network, embedded in (
        ("64:ff9b::/96", ((0, 0),)),  # RFC 6052
        ("64:ff9b:1::/48", ((0, 0),)),
        ("2002::/16", ((80, 0),)),  # 6to4: RFC 3056
        ("2001::/32", ((64, 0), (0, 0xFFFFFFFF))),  # Teredo: RFC 4380
        ("::ffff:0:0:0/96", ((0, 0),)),  # RFC 7915
        ("::/96", ((0, 0),)),  # RFC 4291, 2.5.5.1
    )
)
_ISATAP: Final = (0x00005EFE, 0x02005EFE)  # RFC 5214: before an IPv4 address
_MIN_PORT: Final = 1024
# Ports from 1024 on that browsers refuse (https://fetch.spec.whatwg.org/#port-blocking), and those of databases, brokers,
# file systems, remote desktops and consoles of administrators. None is in the range that systems give to any program.
_LISTED: Final = """
1080 1099 1352 1433 1434 1521 1526 1719 1720 1723 1883 1900 2049 2181 2222 2375 2376 2377 2379 2380 2483 2484 3050
3128 3260 3268 3269 3306 3351 3389 3632 3659 3690 4045 4190 4222 4369 4505 4506 4646 4848 4899 5038 5060 5061 5222
5269 5353 5432 5433 5555 5601 5666 5671 5672 5800 5900 5901 5902 5903 5938 5984 5985 5986 6000 6001 6002 6003 6082
6379 6380 6432 6443 6514 6566 6665 6666 6667 6668 6669 6679 6697 7077 7199 7473 7474 7687 8009 8086 8089 8091 8092
8123 8200 8300 8301 8302 8500 8501 8529 8649 8883 8983 9042 9091 9092 9093 9094 9100 9160 9200 9300 9418 10000 10050
10051 10080 10250 10255 11210 11211 11214 11215 11434 15672 16379 19530 25672 26257 26379 27017 27018 27019 28015
28017
"""
_OTHER_SERVICES: Final = frozenset(map(int, _LISTED.split()))


@lru_cache(maxsize=8192)
def reach(host: str) -> Reach:
    """Return the reach of `host`, as far as its text shows it. Of an IPv6 address that contains IPv4 addresses the
    narrowest reach counts.
    """
    ip = ip_of(host)
    if ip is None:
        name = host.lower().rstrip(".")
        return (
            Reach.LOOPBACK if name == "localhost" or name.endswith(".localhost") else Reach.PUBLIC
        )
    if isinstance(ip, ipaddress.IPv4Address):
        return next((found for network, found in _IPV4 if ip in network), Reach.PUBLIC)
    plain = ipaddress.IPv6Address(int(ip))  # without its zone
    if plain == ipaddress.IPv6Address(0):
        return Reach.NONE
    listed = next((found for network, found in _IPV6 if plain in network), None)
    if listed is Reach.LOOPBACK:
        return listed
    inside = [reach(str(each)) for each in _embedded(plain)]
    found = min([each for each in (listed, *inside) if each is not None], default=Reach.NONE)
    return Reach.NONE if Reach.NONE in inside else found


def _embedded(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    value = int(ip)
    found = [
        ipaddress.IPv4Address((value >> shift & 0xFFFFFFFF) ^ inverted)
        for network, places in _EMBEDDING
        if ip in network
        for shift, inverted in places
    ]
    if value >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(ipaddress.IPv4Address(value & 0xFFFFFFFF))
    return found


def ip_of(host: str) -> _IP | None:
    """Return `host` as an address, an IPv4-mapped one as the IPv4 address (RFC 4291, 2.5.5.2); None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def teller(address: str) -> Reach:
    """Return the reach of a source at `address`; PUBLIC where none is known."""
    return reach(address) or Reach.PUBLIC if ip_of(address) else Reach.PUBLIC


def may_name(by: Reach, host: str) -> bool:
    """Return True if addresses like `host` are taken from a teller of reach `by`."""
    return Reach.NONE is not reach(host) >= by


def is_other_service(port: int) -> bool:
    """Return True for a port at which no node is looked for, unless the operator named it."""
    return not _MIN_PORT <= port <= 65535 or port in _OTHER_SERVICES


def may_dial(by: Reach, host: str, port: int) -> bool:
    """Return True if an address that a stranger of reach `by` named may be dialled. Names are refused: they may mean
    any address by the time of the dial.
    """
    return ip_of(host) is not None and may_name(by, host) and not is_other_service(port)
