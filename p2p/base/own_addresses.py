"""Addresses of this machine."""

from __future__ import annotations


def own_addresses() -> list[str]:
    """Return all addresses of this machine, IPv6 ones without a zone."""
    import ifaddr  # deferred: it brings ctypes along

    return [
        ip.ip if isinstance(ip.ip, str) else ip.ip[0]
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]
