"""Port mapping on the event loop: `PortMapper` over UDP to the default gateway, and `UpnpLease` where that fails.

Nothing is sent before `begin`, without a default route, or from an IPv4 address that is public already. IPv6 addresses are public,
and what is requested is a hole in the router's firewall. When gateway or local
address change, the mapping is made anew there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from p2p.base.host_port import format_host_port
from p2p.ground.owned_tasks import OwnedTasks
from p2p.reachability.mapping_messages import MAX_DATAGRAM, NONCE_LENGTH, PORT
from p2p.reachability.port_mapper import PortMapper, PortMapping, describe
from p2p.reachability.upnp_gateway import find_gateway, is_installed
from p2p.reachability.upnp_lease import UpnpLease

log = logging.getLogger(__name__)

TICK: Final = 0.25  # seconds
ROUTE_CHECK: Final = 10.0  # seconds between looks at gateway and local address
FAREWELL: Final = 0.1  # seconds for the deletion to leave
UPNP_HINT: Final = "; for UPnP install the extra: pip install 'exchange-node[upnp]'"


class PortMappingService:
    """Keeper of one mapping. `changed` is called with the external address, None when there is none. `route`: gateway and
    local address towards it, or why there is nothing to map.
    """

    def __init__(
        self,
        port: int,
        changed: Callable[[tuple[str, int] | None], object],
        rng: random.Random,
        route: Callable[[], tuple[str, str] | str],
    ) -> None:
        self._port = port
        self._route = route
        self._changed = changed
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._mapper: PortMapper | None = None
        self._lease: UpnpLease | None = None
        self._problem = "waiting for a node outside of the local network"
        self._tasks = OwnedTasks(log)

    @property
    def text(self) -> str:
        """State for people."""
        mapper, lease = self._mapper, self._lease
        if mapper is None:
            return self._problem
        if lease is None:
            hint = mapper.failed and not is_installed()
            return mapper.describe() + (UPNP_HINT if hint else "")
        if lease.mapping is not None:
            return describe(lease.mapping)
        return "; ".join(filter(None, (mapper.describe(), lease.problem)))

    @property
    def made(self) -> bool:
        """True while a mapping is in force."""
        return self._mapping is not None

    @property
    def _mapping(self) -> PortMapping | None:
        mapping = None if self._mapper is None else self._mapper.mapping
        if mapping is None and self._lease is not None:
            return self._lease.mapping
        return mapping

    def begin(self) -> None:
        """Begin to map. Later calls do nothing."""
        if not self._tasks:
            self._tasks.start(self._run(), name="port mapping")

    async def stop(self) -> None:
        """End, and delete the mapping at the router."""
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            route = self._route()
            if isinstance(route, str):
                self._problem = route
                await asyncio.sleep(ROUTE_CHECK)
                continue
            gateway, client = route
            try:
                await self._map(gateway, client)
            except OSError as error:
                self._problem = f"the router {gateway} cannot be reached: {error.strerror or error}"
                await asyncio.sleep(ROUTE_CHECK)

    async def _map(self, gateway: str, client: str) -> None:
        """Map by one gateway until the route changes.

        Raises:
            OSError: no socket.
        """
        nonce = secrets.token_bytes(NONCE_LENGTH)
        mapper = self._mapper = PortMapper(client, self._port, nonce, self._rng)
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: _Answers(mapper, self._loop.time),
            local_addr=(client, 0),
            remote_addr=(gateway, PORT),
        )
        checked = self._loop.time()
        upnp = OwnedTasks(log)  # the lease, while there is one
        known: tuple[str, int, int] | None = None
        try:
            while True:
                now = self._loop.time()
                leased = self._lease is not None and self._lease.mapping is not None
                datagram = None if leased else mapper.due(now)
                if datagram is not None:
                    transport.sendto(datagram)
                if not upnp and mapper.failed and ":" not in client and is_installed():
                    find = partial(find_gateway, gateway, client, self._port)
                    self._lease = UpnpLease(self._port, find, self._rng)
                    upnp.start(self._lease.run(), name="UPnP")
                elif upnp and mapper.mapping is not None:
                    await upnp.close()
                    self._lease = None
                mapping = self._mapping
                found = None if mapping is None else (mapping.host, mapping.port, mapping.made)
                if found != known:
                    known = found
                    self._report(mapping)
                if now - checked >= ROUTE_CHECK:
                    checked = now
                    if self._route() != (gateway, client):
                        return
                await asyncio.sleep(TICK)
        finally:
            await upnp.close()
            self._lease = None
            farewell = mapper.delete()
            if farewell is not None:
                transport.sendto(farewell)
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(FAREWELL)
            transport.close()
            self._mapper = None
            self._report(None)

    def _report(self, mapping: PortMapping | None) -> None:
        if mapping is not None:
            log.info("the router forwards %s", format_host_port(mapping.host, mapping.port))
        self._changed(None if mapping is None else (mapping.host, mapping.port))


class _Answers(asyncio.DatagramProtocol):
    """Receiver of the router's answers. The socket is connected: the system drops those of others."""

    def __init__(self, mapper: PortMapper, clock: Callable[[], float]) -> None:
        self._mapper = mapper
        self._now = clock

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) <= MAX_DATAGRAM:
            self._mapper.received(data, self._now())

    def error_received(self, exc: Exception) -> None:
        log.debug("port mapping: %s", exc)
