"""Bootstrap addresses of a Grape, whose names are resolved again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from p2p.base.reach import Reach
from p2p.grenache.dht.compact_addresses import ipv4_reach
from p2p.grenache.directory import Address

log = logging.getLogger(__name__)

RESOLVE_INTERVAL: Final = 60.0  # seconds between resolutions of bootstrap names
RESOLVE_RETRY: Final = 1.0  # seconds after one did not; doubles up to the interval


class BootstrapNames:
    """`resolved` has the address of each configured name that has resolved, the latest one."""

    def __init__(self, configured: Sequence[Address]) -> None:
        self._configured = configured
        self.resolved: dict[Address, Address] = {}
        self._unknown: set[Address] = set()  # did not resolve when last tried; logged once

    async def run(self, told: Callable[[], bool]) -> None:
        """Resolve for as long as there are names, and call `told` after each round until it returns False.
        A name that does not resolve is tried again."""
        failures = 0
        self._unknown.clear()
        while True:
            for address in self._configured:
                await self._look_up(address)
            if not told() or all(
                ipv4_reach(host) is not Reach.NONE for host, _ in self._configured
            ):
                return
            failures = failures + 1 if self._unknown else 0
            retry = RESOLVE_RETRY * 2 ** min(failures, 6) if self._unknown else RESOLVE_INTERVAL
            await asyncio.sleep(min(retry, RESOLVE_INTERVAL))

    async def _look_up(self, configured: Address) -> None:
        host, port = configured
        if ipv4_reach(host) is not Reach.NONE:
            self.resolved[configured] = configured
            return
        try:
            info = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: no name at all
            if configured not in self._unknown:
                self._unknown.add(configured)
                log.warning("bootstrap %s:%d does not resolve: %s", host, port, error)
            return
        if configured in self._unknown:
            self._unknown.discard(configured)
            log.info("bootstrap %s:%d resolves now", host, port)
        self.resolved[configured] = (str(info[0][4][0]), port)
