"""Default gateway of this machine, and its address towards it: where a port mapping is requested."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Final

from p2p.base.network_group import is_local
from p2p.reachability.mapping_messages import PORT

_ROUTES: Final = Path("/proc/net/route")  # Linux
_IPV6_ROUTES: Final = Path("/proc/net/ipv6_route")
_ANYWHERE: Final = "2001:db8::1"  # in no network (RFC 3849): only the default route leads there
_USES_GATEWAY: Final = 0x3  # RTF_UP | RTF_GATEWAY
_MAX_LINES: Final = 10_000


def default_gateway(routes: Path = _ROUTES) -> str | None:
    """Return the IPv4 address of the default route with the lowest metric, None if there is none or the system does not say."""
    try:
        lines = routes.read_text("ascii").splitlines()[1:_MAX_LINES]
    except (OSError, ValueError):
        return None
    found: list[tuple[int, str]] = []
    for line in lines:
        fields = line.split()
        try:
            destination, gateway, mask = (int(fields[i], 16) for i in (1, 2, 7))
            flags, metric = int(fields[3], 16), int(fields[6])
        except (ValueError, IndexError):
            continue
        if not destination and not mask and flags & _USES_GATEWAY == _USES_GATEWAY:
            # The kernel prints the bytes of the address as one number of this machine.
            host = ipaddress.IPv4Address(socket.ntohl(gateway) & 0xFFFFFFFF)
            found.append((metric, str(host)))
    return min(found)[1] if found else None


def default_ipv6_gateway(routes: Path = _IPV6_ROUTES) -> str | None:
    """Return the IPv6 address of the default route with the lowest metric as `default_gateway`; with the interface,
    `fe80::1%eth0`, if it is link-local.
    """
    try:
        lines = routes.read_text("ascii").splitlines()[:_MAX_LINES]
    except (OSError, ValueError):
        return None
    found: list[tuple[int, str]] = []
    for line in lines:
        fields = line.split()
        try:
            destination, length, gateway = int(fields[0], 16), int(fields[1], 16), fields[4]
            metric, flags, interface = int(fields[5], 16), int(fields[8], 16), fields[9]
            host = ipaddress.IPv6Address(bytes.fromhex(gateway))
        except (ValueError, IndexError):
            continue
        if not destination and not length and flags & _USES_GATEWAY == _USES_GATEWAY:
            found.append((metric, f"{host}%{interface}" if host.is_link_local else str(host)))
    return min(found)[1] if found else None


def outside_ipv6_address() -> str | None:
    """Return the local address of packets to the internet over IPv6, None without one that is routed there."""
    host = address_towards(_ANYWHERE, 9)
    return host if host is not None and not is_local(host) else None


def address_towards(host: str, port: int) -> str | None:
    """Return the local address from which packets to `host` are sent, None if there is no route. Sends nothing."""
    try:
        with socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        ) as sock:
            sock.connect((host, port))
            return str(sock.getsockname()[0])
    except OSError:
        return None


def ipv6_route() -> tuple[str, str] | str:
    """Return the IPv6 gateway and this machine's address outside, or why there is no port to open."""
    gateway = default_ipv6_gateway()
    if gateway is None:
        return "no default route"
    client = outside_ipv6_address()
    return "no public address" if client is None else (gateway, client)


def ipv4_route() -> tuple[str, str] | str:
    """Return the gateway and the local address towards it, or why there is nothing to map."""
    gateway = default_gateway()
    if gateway is None:
        return "no default route"
    client = address_towards(gateway, PORT)
    if client is None:
        return f"the router {gateway} cannot be reached"
    if not is_local(client):
        return "not needed: this machine has a public address"
    return gateway, client
