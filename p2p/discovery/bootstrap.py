"""Discovery of known addresses: bootstrap peers (BOOTSTRAP_PEERS and --bootstrap), and remembered peers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from p2p.addresses.address import PeerFound
from p2p.addresses.reconnect import Reconnect
from p2p.base.host_port import format_host_port, is_ip, normal_host
from p2p.discovery.strategy import BaseStrategy, describe
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]

RESOLVE_INTERVAL: Final = (
    300.0  # seconds between resolutions of a name whose address may have changed
)
REFRESH_MIN: Final = 10.0  # least seconds between resolutions caused by `refresh`
RESOLVE_TIMEOUT: Final = 15.0  # seconds; the system's resolver may take minutes to give up


async def resolve(host: str, port: int) -> list[str]:
    """Resolve `host` to IPv4 and IPv6 addresses, in the system's order of preference (RFC 6724).

    Raises:
        OSError: it has none, or no resolver answered.
    """
    if is_ip(host):
        return [normal_host(host)]
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(normal_host(host), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(normal_host(str(info[4][0])) for info in infos))


class BootstrapStrategy(BaseStrategy):
    """Resolve the configured names periodically, and sooner after a failure.

    Every address is reported after each resolution, which keeps it pinned in the address book; an
    address to which its name no longer resolves becomes an ordinary address.
    """

    name = "bootstrap"

    def __init__(
        self,
        peers: Sequence[tuple[str, int]],
        *,
        carrier: Carrier = "tcp",
        resolver: Resolve = resolve,
        rng: random.Random | None = None,
    ) -> None:
        """`carrier`: carrier of the dials; over Grenache the ports are those for Grenache
        requests."""
        super().__init__()
        self.peers = list(dict.fromkeys(peers))
        self._carrier = carrier
        self._resolver = resolver
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._retry = Reconnect(30.0, maximum=RESOLVE_INTERVAL)
        self._unresolved: dict[tuple[str, int], str] = {}
        self._refresh = asyncio.Event()

    def refresh(self) -> None:
        """Resolve again soon: a peer that was found this way cannot be reached."""
        self._refresh.set()

    async def _open(self) -> None:
        self._unresolved.clear()
        self._refresh.clear()
        if not self.peers:
            self._state, self._detail = "off", "no bootstrap peers are configured"
            return
        # Addresses need no resolver and are reported before any name is resolved.
        for host, port in self.peers:
            if is_ip(host):
                self._report(normal_host(host), port, None, carrier=self._carrier)
        self._describe()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for peer in self.peers:
                group.create_task(self._watch(*peer))
            group.create_task(self._release_refresh())

    async def _watch(self, host: str, port: int) -> None:
        failures = 0
        while True:
            if await self._look(host, port):
                failures, wait = 0, RESOLVE_INTERVAL * self._rng.uniform(0.9, 1.1)
            else:
                failures += 1
                wait = self._retry.wait(failures, self._rng)
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(wait):
                    await self._refresh.wait()
            except TimeoutError:
                continue
            early = started + REFRESH_MIN - asyncio.get_running_loop().time()
            await asyncio.sleep(max(early, 0.0))

    async def _release_refresh(self) -> None:
        while True:
            await self._refresh.wait()
            await asyncio.sleep(REFRESH_MIN)
            self._refresh.clear()

    async def _look(self, host: str, port: int) -> bool:
        peer = (host, port)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            reason = "no answer in time" if isinstance(error, TimeoutError) else describe(error)
            if peer not in self._unresolved:
                log.warning(
                    "bootstrap peer %s cannot be resolved (%s); the node tries again",
                    format_host_port(host, port),
                    reason,
                )
            self._unresolved[peer] = reason
            self._describe()
            return False
        self._unresolved.pop(peer, None)
        for address in addresses:
            self._report(address, port, None, carrier=self._carrier)
        self._describe()
        return True

    def _describe(self) -> None:
        self._detail = ", ".join(
            format_host_port(*peer)
            + (f" (cannot be resolved: {reason})" if (reason := self._unresolved.get(peer)) else "")
            for peer in self.peers
        )


class PersistedStrategy(BaseStrategy):
    """Report the remembered addresses once, at the start.

    `load` is `PeerManager.load_persisted_peers`; an OSError of it makes the strategy fail.
    """

    name = "persisted"

    def __init__(self, load: Callable[[], Sequence[PeerFound]]) -> None:
        super().__init__()
        self._load = load

    async def _open(self) -> None:
        for peer in self._load():
            self._report(peer.host, peer.port, peer.node_id, carrier=peer.carrier)
        count = self.found_count
        self._detail = f"{count} remembered address{'' if count == 1 else 'es'}"
