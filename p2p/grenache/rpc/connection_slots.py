"""Connection slots of a full port: bounded in all and by host, with a rule of eviction.

A connection at work (with a complete request being answered, or a WebSocket) keeps its slot. The
others are idle, before their first request or the next. When a new connection finds no slot, the
one that has been idle for longest is evicted, of the same host if that host has too many: an honest
request arrives in milliseconds, while a partial request held to block others stays for ever.
Without idle connections the new one is closed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from socket import AF_INET6, inet_pton
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_MAPPED = bytes(10) + b"\xff\xff"  # IPv4 in IPv6, RFC 4291 section 2.5.5.2


class Places(Generic[T]):
    """See the module. Every call takes constant time, except `enter` when there is no place.

    Args:
        limit: places in all.
        per_host: places of one host.
    """

    def __init__(self, limit: int, per_host: int) -> None:
        self._limit = limit
        self._per_host = per_host
        self._hosts: dict[T, str] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: OrderedDict[T, None] = OrderedDict()  # since longest first

    def __len__(self) -> int:
        return len(self._hosts)

    def enter(self, who: T, host: str) -> T | None:
        """Add an idle connection. Returns the connection to evict, which may be `who` itself."""
        goes: T | None = None
        if self._counts[host] >= self._per_host:
            goes = next((each for each in self._waiting if self._hosts[each] == host), who)
        elif len(self._hosts) >= self._limit:
            goes = next(iter(self._waiting), who)
        if goes is not None:
            self.leave(goes)
        if goes is not who:
            self._hosts[who] = host
            self._counts[host] += 1
            self._waiting[who] = None
        elif not self._counts[host]:
            del self._counts[host]
        return goes

    def work(self, who: T) -> None:
        """Mark a connection as at work: it cannot be evicted."""
        self._waiting.pop(who, None)

    def wait(self, who: T) -> None:
        """Mark a connection as answered and idle from now on."""
        if who in self._hosts:
            self._waiting[who] = None
            self._waiting.move_to_end(who)

    def leave(self, who: T) -> None:
        """Remove a connection; unknown connections are ignored."""
        host = self._hosts.pop(who, None)
        if host is None:
            return
        self._waiting.pop(who, None)
        self._counts[host] -= 1
        if not self._counts[host]:
            del self._counts[host]


def host_of(peername: object) -> str:
    """Key of a host for the limits, from a socket's peername: an IPv4 address, or a /64 of IPv6, which is what one
    subscriber has at least (RFC 6177)."""
    host = str(peername[0]) if isinstance(peername, tuple) else ""
    if ":" not in host:
        return host
    packed = inet_pton(AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return ".".join(map(str, packed[12:]))
    return packed[:8].hex()
