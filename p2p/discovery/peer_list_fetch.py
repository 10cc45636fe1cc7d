"""Signed lists of peers from web servers (PEER_LISTS). See `p2p.discovery.peer_list`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp

from p2p.addresses.reconnect import Reconnect
from p2p.base.reach import Reach
from p2p.discovery.bootstrap import Resolve, resolve
from p2p.discovery.peer_list import MAX_BYTES, PeerListError, read_list
from p2p.discovery.strategy import BaseStrategy, describe

log = logging.getLogger(__name__)

INTERVAL: Final = 6 * 3600.0  # seconds between fetches
RETRY_MAX: Final = 3600.0
TIMEOUT: Final = 20.0  # seconds for one fetch


class PeerListStrategy(BaseStrategy):
    """Fetch lists and report their peers. `lists`: (URL, node id of the signer)."""

    name = "list"

    def __init__(
        self,
        lists: Sequence[tuple[str, str]],
        network: str,
        *,
        by: Reach = Reach.PUBLIC,
        resolver: Resolve = resolve,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """`by`: narrowest reach of addresses that are taken from the lists; `clock`: seconds since the epoch."""
        super().__init__()
        self._by = by
        self._lists = list(dict.fromkeys(lists))
        self._network = network
        self._resolver = resolver
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._retry = Reconnect(30.0, maximum=RETRY_MAX)
        self._states = {url: "being fetched" for url, _ in self._lists}
        self._newest: dict[str, int] = {}  # when the newest list of a signer was made

    async def _open(self) -> None:
        if not self._lists:
            self._state, self._detail = "off", "no lists of peers are configured"
            return
        self._describe()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for url, signer in self._lists:
                group.create_task(self._watch(url, signer))

    async def _watch(self, url: str, signer: str) -> None:
        failures = 0
        while True:
            try:
                count = await self._look(url, signer)
            except (PeerListError, OSError, aiohttp.ClientError) as error:
                failures += 1
                reason = "no answer in time" if isinstance(error, TimeoutError) else describe(error)
                if failures == 1:
                    log.warning(
                        "the list of peers %s is not used (%s); the node tries again", url, reason
                    )
                self._states[url] = f"not used: {reason}"
                wait = self._retry.wait(failures, self._rng)
            else:
                failures = 0
                self._states[url] = f"{count} addresses"
                wait = INTERVAL * self._rng.uniform(0.9, 1.1)
            self._describe()
            await asyncio.sleep(wait)

    async def _look(self, url: str, signer: str) -> int:
        """Fetch a list and report its peers; returns the number of addresses.

        Raises:
            PeerListError: the list is not used.
            OSError, aiohttp.ClientError: it cannot be fetched, or none of its hosts can be resolved.
        """
        found = read_list(await fetch(url), self._network, signer, self._clock())
        if found.made < self._newest.get(signer, 0):
            raise PeerListError("it is older than the last one of its signer")
        self._newest[signer] = found.made
        count = 0
        failure: OSError | None = None
        for host, port, node_id in found.addresses():
            try:
                addresses = await self._resolver(host, port)
            except (OSError, UnicodeError) as error:
                failure = OSError(f"{host} cannot be resolved: {describe(error)}")
                continue
            for address in addresses:
                self._report(address, port, node_id, by=self._by)
                count += 1
        if failure is not None and not count:
            raise failure
        return count

    def _describe(self) -> None:
        self._detail = ", ".join(f"{url} ({state})" for url, state in self._states.items())


async def fetch(url: str) -> bytes:
    """Return the body at `url`, of at most `MAX_BYTES` and one more.

    Raises:
        PeerListError: the server answers with another status than 200.
        OSError, aiohttp.ClientError: it does not answer in time, or not as a web server.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise PeerListError(f"the server answers with status {answer.status}")
        body = bytearray()
        async for chunk in answer.content.iter_chunked(65_536):
            body += chunk
            if len(body) > MAX_BYTES:
                break
        return bytes(body)
