"""Budget of dials that strangers cause: first contacts with unproven addresses. Pure: no I/O, no clock.

A peer that names an address has this node open a connection there, with the first bytes of TLS or of a Grenache
request. So these dials are bounded for each host, whatever the ports, for each teller (its network group), and in all. Those that
reach a node of this kind cost nothing.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from p2p.addresses.address import OPERATOR, Address, Key
from p2p.base.reach import Reach, ip_of, reach
from p2p.ground.tokens import TokenTable

MINUTE: Final = 60.0  # seconds
PER_HOST: Final = 3.0  # dials without an answer at once and a minute: to one host ...
PER_NEAR_HOST: Final = 12.0  # ... of this machine or a private network, where many nodes may run
PER_TELLER: Final = 24.0  # named by one network group
IN_ALL: Final = 96.0
MAX_HOSTS: Final = 10_000
TIP_LADDER: Final = (
    30.0,
    120.0,
    600.0,
)  # seconds from a failure of such an address to its next dial


class TipBudget:
    """Dials that strangers may cause. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._hosts = TokenTable(PER_HOST / MINUTE, PER_HOST, MAX_HOSTS)
        self._near = TokenTable(PER_NEAR_HOST / MINUTE, PER_NEAR_HOST, MAX_HOSTS)
        self._tellers = TokenTable(PER_TELLER / MINUTE, PER_TELLER, MAX_HOSTS)
        self._all = TokenTable(IN_ALL / MINUTE, IN_ALL, 1)
        self._taken: set[Key] = set()  # under way

    def ready_at(self, address: Address, now: float) -> float:
        """Return the time from which on a dial of `address` is within the budget."""
        if not is_tip(address, now):
            return now
        missing = [
            (1.0 - table.tokens(now, name)) / table.rate for table, name in self._buckets(address)
        ]
        return now + max(0.0, *missing)

    def take(self, address: Address, now: float) -> bool:
        """Take a dial of `address` from the budget; False if there is none left."""
        if not is_tip(address, now):
            return True
        if self.ready_at(address, now) > now:
            return False
        for table, name in self._buckets(address):
            table.overdraw(now, name, 1.0)
        self._taken.add(address.key)
        return True

    def ended(self, address: Address, now: float, *, answered: bool) -> None:
        """Record the end of a dial, and give back what it took if a node answered."""
        if address.key in self._taken:
            self._taken.discard(address.key)
            for table, name in self._buckets(address) if answered else ():
                table.overdraw(now, name, -1.0)

    def _buckets(self, address: Address) -> list[tuple[TokenTable, str]]:
        near = reach(address.host) < Reach.PUBLIC
        host = _host_key(address.host)
        return [
            (self._near if near else self._hosts, host),
            (self._tellers, address.teller),
            (self._all, ""),
        ]


def is_tip(address: Address, now: float) -> bool:
    """Return True for an address that neither the operator named nor any dial has proven."""
    return not (address.tried or address.pinned(now) or address.source in OPERATOR)


def tip_wait(address: Address) -> float:
    """Return the least seconds from a failed dial of a tip to the next one."""
    return TIP_LADDER[min(max(address.failures, 1), len(TIP_LADDER)) - 1]


def _host_key(host: str) -> str:
    ip = ip_of(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip or host)
