"""Limits on the connections of an HTTP server: in all, for each address, and without a request.

A connection that has not sent the headers of its first request is new. New connections are in the order
of their arrival, so one timer, for the oldest, serves all of them. When the server is full, the oldest new
connection makes room: a client that opens connections and sends nothing takes no slots from others. A client that
has made a request keeps its connection until it has been idle for too long, which the connection sees to.

Rules of this file: no connection is looked at when another one makes a request, and nothing here waits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from functools import lru_cache
from typing import Generic, Protocol, TypeVar


class Cuttable(Protocol):
    """A connection that can be ended at once."""

    def cut(self) -> None: ...


@lru_cache(maxsize=4096)
def address_group(address: str) -> str | None:
    """The addresses that one client has: an IPv4 address or an IPv6 /64. None for this machine."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        if mapped is None:
            if found.is_loopback:
                return None
            return str(ipaddress.ip_network((found, 64), strict=False))
        found = mapped
    return None if found.is_loopback else str(found)


def connections_allowed(most: int) -> int:
    """`most`, or half of the files that this process may open: the journal and the peers need some."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // 2))


C = TypeVar("C", bound=Cuttable)


class ConnectionLimits(Generic[C]):
    """The open connections of one server.

    At most `most` in all and `per_address` of an `address_group`, other than this machine; a connection
    that has sent no request after `header_timeout` seconds is cut.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        most: int,
        per_address: int,
        header_timeout: float,
    ) -> None:
        self._loop = loop
        self._most = most
        self._per_address = per_address
        self._header_timeout = header_timeout
        self._open: dict[C, str | None] = {}
        self._groups: dict[str, int] = {}
        self._new: dict[C, float] = {}  # by arrival: when each is cut
        self._timer: asyncio.TimerHandle | None = None
        self.refused = 0  # connections that were cut on arrival, or later to make room
        self.timed_out = 0

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> list[C]:
        """The open connections."""
        return list(self._open)

    def add(self, connection: C, address: str) -> bool:
        """Count a connection that has just been made. False: it is over a limit and must be cut."""
        group = address_group(address)
        if group is not None and self._groups.get(group, 0) >= self._per_address:
            self.refused += 1
            return False
        if len(self._open) >= self._most and not self._make_room():
            self.refused += 1
            return False
        self._open[connection] = group
        if group is not None:
            self._groups[group] = self._groups.get(group, 0) + 1
        self._new[connection] = self._loop.time() + self._header_timeout
        if self._timer is None:
            self._timer = self._loop.call_later(self._header_timeout, self._expire)
        return True

    def requested(self, connection: C) -> None:
        """The connection has sent the headers of a request."""
        self._new.pop(connection, None)

    def remove(self, connection: C) -> None:
        """The connection has ended. Not counted connections are fine too."""
        self._new.pop(connection, None)
        if connection not in self._open:
            return
        group = self._open.pop(connection)
        if group is not None:
            left = self._groups[group] - 1
            if left:
                self._groups[group] = left
            else:
                del self._groups[group]

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> bool:
        oldest = next(iter(self._new), None)
        if oldest is None:
            return False
        self.refused += 1
        self._cut(oldest)
        return True

    def _cut(self, connection: C) -> None:
        self.remove(connection)
        connection.cut()

    def _expire(self) -> None:
        now = self._loop.time()
        while self._new:
            oldest, due = next(iter(self._new.items()))
            if due > now:
                self._timer = self._loop.call_at(due, self._expire)
                return
            self.timed_out += 1
            self._cut(oldest)
        self._timer = None
