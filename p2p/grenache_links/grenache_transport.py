"""Grenache transport: links to peers over Grenache, by a worker that accepts and a client that dials.

way = GrenacheWay(GrenacheSettings(network="main", directory=lambda: link))
peers.dial_over("grenache", way.start(direct))    # direct: makes links of tunnels
address = await way.listen()                   # and answers, once a Grape has answered
...
await way.stop()
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from p2p.base.host_port import format_host_port
from p2p.discovery.grape_discovery import UsedGrapes
from p2p.grenache.directory import Address
from p2p.grenache.input_checks import check_service
from p2p.grenache.rpc.dispatcher import Handler
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_worker import Worker
from p2p.grenache_links.tunnel_carrier import MAX_ANSWERED, Links, TunnelCarrier

log = logging.getLogger(__name__)

# A tunnel always has one poll in flight, for moments two, and needs a slot for its data too.
PLACES = 4 * MAX_ANSWERED


@dataclass(frozen=True, slots=True)
class GrenacheSettings:
    """Settings of the transport. `host` and the first free of `ports` (0: any) are where others' requests are taken."""

    network: str
    grapes: UsedGrapes
    host: str = "0.0.0.0"
    ports: Sequence[int] = (0,)


class GrenacheTransport:
    """See the module. Belongs to one event loop; the owner calls `stop`."""

    def __init__(self, settings: GrenacheSettings, *, rng: random.Random | None = None) -> None:
        self.settings = settings
        self.service = f"exchange-node:{settings.network}"  # nodes that answer requests
        self.direct_service = f"exchange-node-tcp:{settings.network}"  # nodes that accept TCP links
        self.address: Address | None = None  # where requests are taken; None before `listen`
        self._rng = rng
        self._client: Client | None = None
        self._carrier: TunnelCarrier | None = None
        self._worker: Worker | None = None
        self._offered: dict[str, Handler] = {}
        self._changing = asyncio.Lock()  # held while the worker starts or stops

    @property
    def offered(self) -> list[str]:
        """Services that every Grenache program may ask for, besides what nodes ask each other."""
        return list(self._offered)

    def offer(self, service: str, handler: Handler) -> None:
        """Answer requests for `service` from all programs, once the transport listens.

        Raises:
            BadInput: it is no name for a service.
        """
        self._offered[check_service(service)] = handler
        if self._worker is not None:
            self._worker.serve(service, handler)

    def withdraw(self, service: str) -> None:
        """Answer them no longer."""
        if self._offered.pop(service, None) is not None and self._worker is not None:
            self._worker.remove(service)

    @property
    def tunnels(self) -> int:
        """Links that are carried, and what is left of some."""
        return 0 if self._carrier is None else self._carrier.tunnels

    def start(self, links: Links) -> TunnelCarrier:
        """Prepare to dial, and return the dialler."""
        if self._carrier is None:
            self._client = Client(self.settings.grapes.directory(), transport="ws", rng=self._rng)
            self._carrier = TunnelCarrier(links, self._client, self.service, rng=self._rng)
        return self._carrier

    async def listen(self) -> Address:
        """Accept requests, and return the address. Repeated calls have no effect.

        Raises:
            OSError: none of the ports is free.
        """
        async with self._changing:
            if self.address is None:
                self.address = await self._bind()
                log.info("Grenache requests are taken at %s", format_host_port(*self.address))
            return self.address

    async def _bind(self) -> Address:
        if self._carrier is None:
            raise RuntimeError("to be started first")
        self._worker = worker = Worker(limits=Limits(workers=PLACES), on_gone=self._carrier.gone)
        worker.serve(self.service, self._carrier.answer)
        for service, handler in self._offered.items():
            worker.serve(service, handler)
        host, ports = self.settings.host, self.settings.ports
        for port in ports:
            try:
                return await worker.start(host, port)
            except OSError as error:
                await worker.stop(0)
                if error.errno != errno.EADDRINUSE or port == ports[-1]:
                    raise
        raise RuntimeError("there is no port to try")

    async def stop(self) -> None:
        """End every tunnel, and release all resources. Safe to call twice."""
        async with self._changing:
            await self._stop()

    async def _stop(self) -> None:
        carrier, client, worker = self._carrier, self._client, self._worker
        self._carrier = self._client = self._worker = self.address = None
        if carrier is not None:
            await carrier.stop()
        if client is not None:
            await client.close()
        if worker is not None:
            await worker.stop(grace=0.5)
