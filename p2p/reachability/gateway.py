"""Default gateway of this machine, and the local address towards it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Final

_ROUTES: Final = Path("/proc/net/route")  # Linux
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


def address_towards(host: str, port: int) -> str | None:
    """Return the local address from which packets to `host` are sent, None if there is no route. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, port))
            return str(sock.getsockname()[0])
        except OSError:
            return None
