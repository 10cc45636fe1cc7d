"""Port mapping by UPnP IGD, where the router speaks neither PCP nor NAT-PMP (WANIPConnection:1, 2.4.16 to 2.4.18).

The lease is renewed at half of its time. Some routers grant permanent leases only (error 725): such a one is made again twice a
day, and is deleted at the end as any other. Where the port belongs to another machine (718) others are tried. A look at the
router's entry every `WATCH` seconds shows if the router has restarted and lost it, and if the external address changed.

This module knows the rules; `p2p.reachability.upnp_gateway` talks to the router.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final, Protocol

from p2p.reachability.port_mapper import (
    LEAST_RENEWAL,
    LIFETIME,
    MOST_RENEWAL,
    PAUSES,
    PortMapping,
)

WATCH: Final = 60.0  # seconds between looks at the entry; each is an HTTP request
OTHER_PORTS: Final = 4  # external ports that are tried after the own one
PATIENCE: Final = 30.0  # seconds for all requests of one step
FAREWELL: Final = 2.0  # seconds for the deletion
CONFLICT: Final = 718
PERMANENT_ONLY: Final = 725


class UpnpRefused(Exception):
    """The router refuses, with a code of its own or of UPnP; 0 where it did not answer as a router does."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class UpnpGateway(Protocol):
    """A router's connection to the internet. Methods raise `UpnpRefused`, OSError and TimeoutError."""

    async def external_address(self) -> str:
        """Return the IPv4 address outside, as the router writes it."""

    async def add(self, external: int, lifetime: int) -> None:
        """Map an external TCP port to the own one for `lifetime` seconds, 0 for ever; the own entry is replaced."""

    async def holds(self, external: int) -> bool:
        """Return True if the router's entry for the port leads here."""

    async def delete(self, external: int) -> None:
        """Delete the entry."""


class UpnpLease:
    """Keeper of one mapping. `find` returns the gateway, or raises as its methods do. `rng` chooses other ports."""

    def __init__(
        self, port: int, find: Callable[[], Awaitable[UpnpGateway]], rng: random.Random
    ) -> None:
        self.mapping: PortMapping | None = None
        self.problem = ""
        self._port = port
        self._find = find
        self._rng = rng
        self._external = port
        self._lifetime = LIFETIME
        self._made = 0
        self._failures = 0

    async def run(self) -> None:
        """Map and keep the mapping until cancelled; then delete it."""
        loop = asyncio.get_running_loop()
        while True:
            gateway: UpnpGateway | None = None
            try:
                async with asyncio.timeout(PATIENCE):
                    gateway = await self._find()
                    await self._make(gateway)
                self._failures = 0
                await self._keep(gateway, loop.time)
            except UpnpRefused as error:
                self.problem = f"the router refuses by UPnP: {error}"
            except TimeoutError:
                self.problem = "the router does not answer by UPnP"
            except OSError as error:
                self.problem = f"the router does not answer by UPnP: {error.strerror or error}"
            finally:
                if gateway is not None and self.mapping is not None:
                    with suppress(UpnpRefused, OSError, TimeoutError):
                        await self._delete(gateway)
                self.mapping = None
            pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
            await asyncio.sleep(pause * self._rng.uniform(0.9, 1.1))

    async def _delete(self, gateway: UpnpGateway) -> None:
        """Delete the mapping, even while the task is being cancelled."""
        async with asyncio.timeout(FAREWELL):
            await asyncio.shield(asyncio.ensure_future(gateway.delete(self._external)))

    async def _make(self, gateway: UpnpGateway) -> None:
        """Make the mapping, or make it again."""
        host = _address(await gateway.external_address())
        ports = [self._external, self._port]
        ports += [self._rng.randint(20_000, 60_000) for _ in range(OTHER_PORTS)]
        for external in dict.fromkeys(ports):
            try:
                await self._add(gateway, external)
            except UpnpRefused as error:
                if error.code != CONFLICT or external == ports[-1]:
                    raise
            else:
                self._external = external
                break
        self._made += 1
        self._granted(host)

    async def _add(self, gateway: UpnpGateway, external: int) -> None:
        try:
            await gateway.add(external, self._lifetime)
        except UpnpRefused as error:
            if error.code != PERMANENT_ONLY or not self._lifetime:
                raise
            self._lifetime = 0
            await gateway.add(external, 0)

    def _granted(self, host: str) -> None:
        now = asyncio.get_running_loop().time()
        lifetime = self._lifetime or 2 * int(MOST_RENEWAL)
        self.problem = ""
        self.mapping = PortMapping(
            host, self._external, "UPnP", self._lifetime, now + lifetime, self._made
        )

    async def _keep(self, gateway: UpnpGateway, clock: Callable[[], float]) -> None:
        while self.mapping is not None:
            left = self.mapping.until - clock()
            renewal = max(left / 2, LEAST_RENEWAL)
            renew_at = clock() + min(renewal, MOST_RENEWAL)
            while (now := clock()) < renew_at:
                await asyncio.sleep(min(WATCH, renew_at - now))
                async with asyncio.timeout(PATIENCE):
                    host = _address(await gateway.external_address())
                    if not await gateway.holds(self._external):
                        await self._make(gateway)
                        break
                if host != self.mapping.host:
                    self._granted(host)
            else:
                async with asyncio.timeout(PATIENCE):
                    await self._add(gateway, self._external)
                self._granted(self.mapping.host)


def _address(text: str) -> str:
    try:
        address = IPv4Address(text.strip())
    except ValueError:
        address = IPv4Address(0)
    if address.is_unspecified:
        raise UpnpRefused(0, "it has no address outside")
    return str(address)
