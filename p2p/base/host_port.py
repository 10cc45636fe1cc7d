"""Parsing and formatting of HOST:PORT."""

from __future__ import annotations

import ipaddress
import re

from p2p.base.reach import ip_of

_EXAMPLE = "expected HOST:PORT, for example 192.168.1.10:3000 or [::1]:3000"
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_MAX_NAME = 253  # RFC 1035, 2.3.4


def parse_host_port(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Parse the host and the port in `text`. An IPv6 address stands in brackets.

    Without a port, `default_port` is taken if there is one.

    Raises:
        ValueError: with a sentence that quotes `text` and names the expected form.
    """
    entry = text.strip()
    if "://" in entry:
        raise ValueError(f"{text!r} is a URL; {_EXAMPLE}")
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} has no closing bracket before the port; {_EXAMPLE}")
        port_text = rest[1:] if rest else None
        if not isinstance(ip_of(host), ipaddress.IPv6Address):
            raise ValueError(f"{text!r}: {host!r} in brackets is not an IPv6 address; {_EXAMPLE}")
    elif entry.count(":") > 1:
        raise ValueError(
            f"{text!r}: an IPv6 address needs brackets to tell it from the port; {_EXAMPLE}"
        )
    else:
        host, colon, tail = entry.partition(":")
        port_text = tail if colon else None
        if not host:
            raise ValueError(f"{text!r} has no host; {_EXAMPLE}")
        if ip_of(host) is None:
            if re.fullmatch(r"[0-9.]+", host):
                raise ValueError(f"{text!r}: {host!r} is not an IPv4 address; {_EXAMPLE}")
            if len(host) > _MAX_NAME or not _NAME.fullmatch(host):
                raise ValueError(f"{text!r}: {host!r} is not a host name; {_EXAMPLE}")
    if port_text is None:
        if default_port is None:
            raise ValueError(f"{text!r} has no port; {_EXAMPLE}")
        return normal_host(host), default_port
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= 65535):
        raise ValueError(f"{text!r}: port {port_text!r} is not a number from 1 to 65535")
    return normal_host(host), int(port_text)


def format_host_port(host: str, port: int) -> str:
    """Format as HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def normal_host(host: str) -> str:
    """Return the canonical spelling of a host: IP addresses compressed and unmapped (RFC 4291, 2.5.5.2),
    names in lower case without the trailing dot.
    """
    ip = ip_of(host)
    return str(ip) if ip is not None else host.lower().rstrip(".")


def is_ip(host: str) -> bool:
    """Return True if `host` is an IP address, not a name."""
    return ip_of(host) is not None
