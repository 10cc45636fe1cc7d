"""mDNS discovery: peers on the same network segment (RFC 6762, DNS-SD: RFC 6763).

The bind host decides the interfaces: a node that listens on loopback announces and browses on loopback
alone, a node that listens on one address uses the interface of that address alone. A received
announcement is only a hint to dial: the handshake proves the identity.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from zeroconf import (
    InterfaceChoice,
    IPVersion,
    NonUniqueNameException,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2p.base.host_port import is_ip, normal_host
from p2p.base.identity import is_node_id
from p2p.base.own_addresses import own_addresses
from p2p.base.reach import Reach, may_name, reach
from p2p.discovery.strategy import BaseStrategy, describe

log = logging.getLogger(__name__)

SERVICE_TYPE: Final = "_exchange-node._tcp.local."
RESOLVE_TIMEOUT: Final = 3000  # milliseconds
MAX_RESOLVING: Final = (
    16  # names resolved at once; a flood of names must not create unbounded tasks
)
MAX_PRESENT: Final = 256  # nodes of the segment that are tracked
MAX_ANNOUNCED: Final = 8  # own addresses; they have to fit one packet
MAX_REPORTED: Final = 4  # addresses of one node
INTERFACE_CHECK: Final = 15.0  # seconds between checks of this host's addresses


@dataclass(frozen=True, slots=True)
class MdnsReach:
    """Interfaces on which a node that binds `host` uses multicast DNS, and the addresses that it announces."""

    interfaces: list[str] | None  # None: all
    ip_version: IPVersion
    addresses: list[str]
    loopback: bool

    @property
    def where(self) -> str:
        if self.loopback:
            return "on loopback only"
        return "on all interfaces" if self.interfaces is None else f"on {self.interfaces[0]}"


def reach_of(host: str, own_addresses: Iterable[str]) -> MdnsReach:
    """Return the reach of a bind host that is an IP address. `own_addresses`: all of this machine's."""
    ip = ipaddress.ip_address(host)
    if ip.is_loopback:
        # Multicast over ::1 does not work everywhere; the packets go over 127.0.0.1 for both.
        return MdnsReach(["127.0.0.1"], IPVersion.V4Only, [str(ip)], True)
    four = ip.version == 4
    if ip.is_unspecified:
        # A node that binds :: takes IPv4 connections too.
        version = IPVersion.V4Only if four else IPVersion.All
        return MdnsReach(None, version, usable(own_addresses, (4,) if four else (4, 6)), False)
    return MdnsReach([host], IPVersion.V4Only if four else IPVersion.V6Only, [str(ip)], False)


def usable(addresses: Iterable[str], versions: Sequence[int]) -> list[str]:
    """Return the addresses of a host that others can dial: routed ones, else link-local ones, else (a host
    without a network) loopback.
    """
    own = [
        text for text in addresses if is_ip(text) and ipaddress.ip_address(text).version in versions
    ]
    routed = [text for text in own if reach(text) > Reach.LINK]
    narrow = max((reach(text) for text in own), default=Reach.NONE)
    return sorted(routed or [text for text in own if reach(text) is narrow])[:MAX_ANNOUNCED]


class MdnsStrategy(BaseStrategy):
    """Announce this node, browse for others of the same network, withdraw on stop.

    `host`: bind host; `port`: actual listening port; `version`: of the protocol.
    """

    name = "mdns"

    def __init__(self, node_id: str, network: str, host: str, port: int, version: str) -> None:
        super().__init__()
        self.node_id = node_id
        self.network = network
        self.host = host
        self.port = port
        self.version = version
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._reach: MdnsReach | None = None
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._present: dict[str, str] = {}

    @property
    def present(self) -> list[str]:
        """Node ids of the network that are announced on the segment now, except this node's."""
        return sorted(set(self._present.values()))

    async def _open(self) -> None:
        self._reach = reach = await self._find_reach()
        try:
            zeroconf = AsyncZeroconf(
                interfaces=InterfaceChoice.All if reach.interfaces is None else reach.interfaces,
                ip_version=reach.ip_version,
            )
            self._zeroconf = zeroconf
            await zeroconf.zeroconf.async_wait_for_start()
            if not zeroconf.zeroconf.engine.senders:
                raise OSError("no interface takes part in multicast")
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"multicast DNS cannot be used {reach.where}: {describe(error)}"
            ) from error
        self._browser = AsyncServiceBrowser(
            zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed]
        )
        self._describe()

    async def _run(self) -> None:
        # Registration probes the segment for the name and takes most of a second, during which
        # others are already found; so the start does not wait for it.
        await self._announce()
        while True:
            await asyncio.sleep(INTERFACE_CHECK)
            if await self._find_reach() != self._reach:
                log.info("this machine's addresses have changed: announcing anew")
                await self._close()
                await self._open()
                await self._announce()

    async def _announce(self) -> None:
        if self._zeroconf is None or self._reach is None:
            return
        info = self._service_info(self._reach)
        try:
            await (await self._zeroconf.async_register_service(info))
        except NonUniqueNameException as error:
            raise OSError(
                f"another node announces this node's id {self.node_id}: its key may have been "
                f"copied"
            ) from error

    async def _close(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        browser, self._browser = self._browser, None
        resolving = list(self._resolving.values())
        self._resolving.clear()
        self._again.clear()
        self._present.clear()
        for task in resolving:
            task.cancel()
        await asyncio.gather(*resolving, return_exceptions=True)
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            await zeroconf.async_close()  # unregisters: a goodbye packet

    async def _find_reach(self) -> MdnsReach:
        host = self.host
        if not is_ip(host):
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            host = normal_host(str(infos[0][4][0]))
        return reach_of(host, own_addresses())

    def _service_info(self, reach: MdnsReach) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self.node_id}.{SERVICE_TYPE}",
            port=self.port,
            properties={"id": self.node_id, "net": self.network, "v": self.version},
            server=f"exchange-node-{self.node_id[:16]}.local.",
            parsed_addresses=reach.addresses,
        )

    # -- announcements of others ------------------------------------------------------------------

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if self._zeroconf is None or name == f"{self.node_id}.{SERVICE_TYPE}":
            return
        if state_change is ServiceStateChange.Removed:
            if self._present.pop(name, None) is not None:
                self._describe()
        elif name in self._resolving:
            self._again.add(name)  # the lookup under way may return the older announcement
        elif len(self._resolving) < MAX_RESOLVING:
            self._resolving[name] = asyncio.create_task(
                self._resolve(zeroconf, name), name=f"mdns resolve {name}"
            )

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            while True:
                self._again.discard(name)
                info = AsyncServiceInfo(SERVICE_TYPE, name)
                with suppress(OSError):
                    if await info.async_request(zeroconf, RESOLVE_TIMEOUT):
                        self._take(name, info)
                if name not in self._again:
                    return
        except Exception:
            log.exception("an mDNS announcement could not be read")
        finally:
            self._resolving.pop(name, None)

    def _take(self, name: str, info: AsyncServiceInfo) -> None:
        properties = info.decoded_properties
        node_id = properties.get("id") or ""
        if properties.get("net") != self.network or not is_node_id(node_id):
            return
        if node_id == self.node_id or not info.port:
            return
        if name in self._present or len(self._present) < MAX_PRESENT:
            self._present[name] = node_id
        for address in self._dialable(info.parsed_scoped_addresses()):
            self._report(address, info.port, node_id, by=self._teller)
        self._describe()

    def _dialable(self, addresses: Iterable[str]) -> list[str]:
        # A host-wide multicast socket receives from other interfaces too: a node on loopback must
        # not dial an address announced on the LAN.
        only_loopback = self._reach is not None and self._reach.loopback
        return [
            normal_host(address)
            for address in addresses
            if may_name(self._teller, address)
            and (not only_loopback or reach(address) is Reach.LOOPBACK)
        ][:MAX_REPORTED]

    @property
    def _teller(self) -> Reach:
        """Reach of those who announce: the segment, or this machine where it has no network."""
        own = [] if self._reach is None else self._reach.addresses
        return min(Reach.LINK, max(map(reach, own), default=Reach.LINK))

    def _describe(self) -> None:
        if self._reach is not None and self._state != "failed":
            count = len(set(self._present.values()))
            seen = f"{count} other node{'' if count == 1 else 's'} announced"
            self._detail = f"announcing and browsing {self._reach.where}; {seen}"
