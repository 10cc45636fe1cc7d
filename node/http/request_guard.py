"""Hosts of the API, which a web page cannot pretend to ask.

A page that resolves its own name to 127.0.0.1 (DNS rebinding) shows in the Host header. Names are compared without a
final dot, which says only that a name is complete.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import urlsplit

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
NODE_HEADER: Final = "X-Exchange-Node"  # a client's expectation: answer only as this node
_NODE_HEADER: Final = NODE_HEADER.lower()


class LocalEnd(Protocol):
    """A connection that knows the address of this machine that it came to."""

    @property
    def sockname(self) -> object: ...


@lru_cache(maxsize=64)
def host_of(header: str) -> str | None:
    """The host name in a Host header, lower case without port and brackets; None if malformed."""
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises on a port that is no number
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or "@" in header or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def named(host: str | None, names: frozenset[str]) -> bool:
    """Return True if `names`, some of which may be wildcards of a certificate, have this host."""
    return host is not None and (host in names or f"*.{host.partition('.')[2]}" in names)


def names_no_site(header: str) -> bool:
    """Return True for a Host header without a name: an IP address, or absent as in HTTP/1.0. Load balancers send such
    ones. A browser's page has a name if that was resolved to this node."""
    if not header:
        return True
    try:
        ipaddress.ip_address(host_of(header) or "")
    except ValueError:
        return False
    return True


class RequestGuard:
    """Names of the API's hosts. `hosts` are names besides the loopback ones."""

    def __init__(self, hosts: Iterable[str], node_id: str) -> None:
        self._names = LOOPBACK_NAMES | {host.lower().strip("[]").rstrip(".") for host in hosts}
        self._node_id = node_id

    def serves(self, header: str, sockname: object) -> bool:
        """Report if a Host header names this API; `sockname` is the address that the connection came to."""
        host = host_of(header)
        if named(host, self._names):
            return True
        own = str(sockname[0]).lower() if isinstance(sockname, tuple) else None
        return host is not None and host == own

    def admits(self, connection: LocalEnd, headers: Mapping[str, str]) -> bool:
        """Report if a request without headers of a browser's page may pass."""
        wanted = headers.get(_NODE_HEADER)
        return (wanted is None or wanted == self._node_id) and self.serves(
            headers["host"], connection.sockname
        )
