"""Hosts of the API, which a web page cannot pretend to ask.

A page that resolves its own name to 127.0.0.1 (DNS rebinding) shows in the Host header. Names are compared without a
final dot, which says only that a name is complete.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from node.http.http_messages import Head
from node.http.limits import HEADS
from node.http.server_connection import Request
from node.views.views import ServiceError
from p2p.ground.bounded_map import BoundedMap

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
NODE_HEADER: Final = "X-Exchange-Node"  # a client's expectation: answer only as this node
_NODE_HEADER: Final = NODE_HEADER.lower()


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
    """Checks of where a request comes from. `hosts` are names of the API besides the loopback ones; `probes` are the
    operations that load balancers call."""

    def __init__(self, hosts: Iterable[str], node_id: str, probes: Collection[str] = ()) -> None:
        self._names = LOOPBACK_NAMES | {host.lower().strip("[]").rstrip(".") for host in hosts}
        self._node_id = node_id
        self._probes = probes
        self._passed = BoundedMap[Head, str](HEADS)  # with the address that its request came to

    def check(self, request: Request) -> None:
        """Refuse a request that a web page in a browser could send, or that is for another node.

        A page that resolves its own name to 127.0.0.1 (DNS rebinding) shows in the Host header; a
        cross-origin request or WebSocket shows in the Origin header. Neither can be set by the page.

        Raises:
            ServiceError: forbidden_host, forbidden_origin, wrong_node, expectation_failed.
        """
        head, local = request.head, request.connection.local
        if self._passed.get(head) == local:
            return
        headers = head.headers
        host = headers.get("host", "")
        if not self._serves(host, local) and not (
            head.target.route.name in self._probes and names_no_site(host)
        ):
            raise ServiceError(
                403,
                "forbidden_host",
                f"the Host header {host[:100]!r} is not an address of this node's API; "
                "use the URL that the node printed at its start",
            )
        origin = headers.get("origin")
        if origin is not None:
            if origin.lower() != f"{request.scheme}://{host}".lower():
                raise ServiceError(
                    403,
                    "forbidden_origin",
                    f"requests from pages of {origin[:100]!r} are refused; the API serves no other origins",
                )
        elif _from_another_site(headers):
            detail = "pages of other sites cannot load from this node; open its address in a tab"
            raise ServiceError(403, "forbidden_origin", detail)
        wanted = headers.get(_NODE_HEADER)
        if wanted is not None and wanted != self._node_id:
            detail = f"this is node {self._node_id}, not {wanted[:64]}"
            raise ServiceError(421, "wrong_node", detail, node_id=self._node_id)
        if head.expects not in ("", "100-continue"):
            detail = "the only expectation that is met is 100-continue"
            raise ServiceError(417, "expectation_failed", detail)
        if not head.target.route.signed:
            self._passed[head] = local

    def _serves(self, header: str, own: str) -> bool:
        """Report if a Host header names this API; `own` is the address that the connection came to."""
        host = host_of(header)
        return named(host, self._names) or (host is not None and host == own.lower())


def _from_another_site(headers: Mapping[str, str]) -> bool:
    """Return True if a browser says that another site's page makes this request, other than by a link.

    Pages load images, scripts and frames without an Origin header. They cannot read the answer, but
    need not get one. Following a link is fine: it opens a tab of this node's own origin.
    """
    site = headers.get("sec-fetch-site")
    if site is None or site in ("same-origin", "none"):
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != (
        "navigate",
        "document",
    )
