"""The Grapes that a node uses: the one inside it, others', or both."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.annexes.grenache.settings import BridgeSettings
from node.daemon.port_choice import PortTaken, first_free, wanted_ports
from node.views.node_views import GrapeView, GrenacheView, OwnGrapeView
from p2p.base.host_port import format_host_port
from p2p.discovery.grape_discovery import UsedGrapes
from p2p.grenache.directory import Directory
from p2p.grenache.link.link_client import Link
from p2p.grenache_links.grenache_transport import GrenacheSettings, GrenacheTransport

if TYPE_CHECKING:
    from p2p.grenache.grape.grape import Grape
    from p2p.grenache.grape.grape_http import GrapeApi

log = logging.getLogger(__name__)

BOOTSTRAP_CHECK = 5.0  # seconds between looks at whether the Grape inside knows another


class Grapes:
    """`directory` is how to ask them; it works from `start` to `stop`. `where` names them for people.
    `way` is for the overlay, which starts and stops it."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        given = settings.fields_set
        self.own: Grape | None = None
        self._own_api: GrapeApi | None = None
        self._own_api_url = ""
        self._watch: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._urls = list(settings.grape_url)
        if settings.grape_embedded and "grape_url" not in given:
            self._urls = []
        named = {"grape_url", "grape_embedded", "discovery_grenache"} & given
        self.asked_for = bool(named) or not settings.p2p_enabled
        inside = ["the Grape inside"] if settings.grape_embedded else []
        self.where = ", ".join([*inside, *self._urls])
        self.way = GrenacheTransport(
            GrenacheSettings(
                network=settings.p2p_network,
                grapes=UsedGrapes(
                    lambda: self.directory,
                    settings.grenache_announce_interval_s,
                    self.where,
                    self.asked_for,
                ),
                host=settings.grenache_host,
                ports=wanted_ports(settings.grenache_port, "grenache_port" not in given),
            )
        )

    @property
    def directory(self) -> Directory:
        """
        Raises:
            RuntimeError: they are not started.
        """
        directory = self._link or self.own
        if directory is None:
            raise RuntimeError("the Grapes are not started")
        return directory

    @property
    def absent(self) -> bool:
        """True if no Grape is configured, and none answers at the default address."""
        asked = [] if self._link is None else self._link.status()
        return not self.asked_for and self.own is None and not any(one.up for one in asked)

    async def start(self) -> None:
        """Start the Grape inside, if there is one, and get ready to ask.

        Raises:
            PortTaken: it cannot listen where it is to.
        """
        if self._settings.grape_embedded:
            await self._start_own()
            if self._settings.grape_bootstrap:
                self._watch = asyncio.create_task(self._watch_bootstrap(), name="grape watch")
        if self._urls:
            urls = [self._own_api_url] if self._own_api_url else []
            self._link = Link([*urls, *self._urls])
            await self._link.start()

    async def _start_own(self) -> None:
        # Deferred: most nodes use the Grape of another process, or none.
        from node.annexes.grenache.run_grape import grape_settings
        from p2p.grenache.grape.grape import Grape
        from p2p.grenache.grape.grape_http import GrapeApi

        settings = self._settings
        given = settings.fields_set
        dht_ports = wanted_ports(settings.grape_dht_port, "grape_dht_port" not in given)
        api_ports = wanted_ports(settings.grape_api_port, "grape_api_port" not in given)

        async def listen(port: int) -> None:
            grape = Grape(grape_settings(settings, port=port))
            await grape.start()
            self.own = grape

        try:
            await first_free(dht_ports, listen)
        except OSError as error:
            where = format_host_port(settings.grape_host, dht_ports[0])
            raise PortTaken(
                f"the Grape cannot listen at UDP {where}: {error.strerror or error}; choose another port "
                "with GRAPE_DHT_PORT, or leave it out for a free one"
            ) from error
        if self.own is None:
            raise RuntimeError("no port was tried")
        api = self._own_api = GrapeApi(self.own)
        host = settings.grape_api_host

        async def serve(port: int) -> None:
            address = await api.start(host, port)
            self._own_api_url = f"http://{format_host_port(*address)}"

        try:
            await first_free(api_ports, serve)
        except OSError as error:
            await self.stop()
            raise PortTaken(
                f"the Grape's API cannot listen at {format_host_port(host, api_ports[0])}: "
                f"{error.strerror or error}; choose another port with GRAPE_API_PORT, or leave it out "
                "for a free one"
            ) from error

    async def stop(self) -> None:
        """Let go of everything. Safe to call twice."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        if self._own_api is not None:
            await self._own_api.stop()
        if self.own is not None:
            await self.own.stop()
        self._link = self._own_api = self.own = self._watch = None

    async def _watch_bootstrap(self) -> None:
        """A line in the log when no DHT node answers the Grape inside, and one when there are some again."""
        lonely = False
        while True:
            await asyncio.sleep(BOOTSTRAP_CHECK)
            warning = next(iter(self.warnings()), "")
            if warning and not lonely:
                log.warning(warning)
            elif lonely and not warning:
                log.warning("the Grape inside has found other DHT nodes")
            lonely = bool(warning)

    def warnings(self) -> list[str]:
        """List warnings for the operator."""
        status = None if self.own is None else self.own.status()
        if status is None or status.nodes or not status.bootstrap:
            return []
        silent = ", ".join(format_host_port(one.host, one.port) for one in status.bootstrap)
        return [f"the Grape inside is alone: no answer from {silent} (GRAPE_BOOTSTRAP)"]

    # The way to peers

    async def listen(self) -> None:
        """Take requests of other nodes now.

        Raises:
            PortTaken: none of the ports can be had.
        """
        try:
            await self.way.listen()
        except OSError as error:
            host, port = self._settings.grenache_host, self._settings.grenache_port
            raise PortTaken(
                f"cannot listen for Grenache requests at {format_host_port(host, port)}: "
                f"{error.strerror or error}; choose another port with GRENACHE_PORT, or leave it out for "
                "a free one"
            ) from error

    # Status

    def view(self, links: int) -> GrenacheView:
        """`links`: how many peers are reached over Grenache."""
        address = self.way.address
        asked = [] if self._link is None else self._link.status()
        return GrenacheView(
            rpc_address=None if address is None else format_host_port(*address),
            links=links,
            grapes=[GrapeView(url=one.url, answers=one.up, detail=one.detail) for one in asked],
            own=self._own_view(),
        )

    def _own_view(self) -> OwnGrapeView | None:
        if self.own is None:
            return None
        status = self.own.status()
        return OwnGrapeView(
            node_id=status.node_id,
            dht_address=format_host_port(*status.address),
            api_url=self._own_api_url,
            nodes=status.nodes,
            announcements=status.announcements + status.own_announcements,
            values=status.values,
        )
