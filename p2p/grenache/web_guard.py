"""Web guard: refuses requests of web pages to a local service without access control."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

MAX_KNOWN: Final = 256  # Host headers remembered as harmless
_SHOWN: Final = 100  # characters of a header that a refusal repeats
_LOCAL_NAME = re.compile(r"[a-z0-9_-]+|(?:[a-z0-9_-]+\.)*localhost")


class HostGuard:
    """Detection of requests that a web page may have sent. Browsers put `Origin` into every request
    that a script sends with a method other than GET, and `Sec-Fetch-Site` into all; a page cannot
    take either away. A page that has its own name point to 127.0.0.1 (DNS rebinding) still sends
    that name as `Host`. Programs send neither of the first two, and reach this machine by an
    address or a name without dots.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def refusal(self, headers: Mapping[str, str], own_host: str) -> str | None:
        """Reason to refuse a request with these headers (names in lower case), None to accept.
        `own_host`: the address of this machine that it came to."""
        site = headers.get("sec-fetch-site", "none")
        if "origin" in headers or site != "none":
            page = headers.get("origin", site)[:_SHOWN]
            return f"ERR_GRAPE_ORIGIN: requests from web pages are refused (this one: {page!r})"
        host = headers.get("host", "")
        if host in self._known or not _is_loopback(own_host):
            return None
        if not is_local_host(host):
            return (
                f"ERR_GRAPE_HOST: the Host {host[:_SHOWN]!r} is no name of this machine; use its address, "
                "such as 127.0.0.1"
            )
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)
        return None


def is_local_host(header: str) -> bool:
    """Return True if a Host header holds what no public DNS server can be asked for: an IP address, localhost,
    or a name without dots. An absent one (HTTP/1.0) is fine: browsers always send it."""
    if not header:
        return True
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises on a port that is no number
    except ValueError:
        return False
    if parts.netloc != header or "@" in header:
        return False
    host = (parts.hostname or "").rstrip(".")
    return _LOCAL_NAME.fullmatch(host) is not None or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return bool((mapped or address).is_loopback)
