"""Addresses of this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from p2p.base.host_port import normal_host

LOOKED: Final = 60.0  # seconds for which the addresses of the interfaces are remembered


def own_addresses() -> list[str]:
    """Return all addresses of this machine, IPv6 ones without a zone."""
    import ifaddr  # deferred: it brings ctypes along

    return [
        ip.ip if isinstance(ip.ip, str) else ip.ip[0]
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]


class OwnHosts:
    """Answers if a host is this machine, by its interfaces. `clock`: monotonic seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        interfaces: Callable[[], Collection[str]] = own_addresses,
    ) -> None:
        self._clock = clock
        self._interfaces = interfaces
        self._hosts: frozenset[str] = frozenset()
        self._until = float("-inf")

    def __contains__(self, host: str) -> bool:
        now = self._clock()
        if now >= self._until:
            self._until = now + LOOKED
            self._hosts = frozenset(map(normal_host, self._interfaces()))
        return normal_host(host) in self._hosts
