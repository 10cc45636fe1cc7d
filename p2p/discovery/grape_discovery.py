"""Grape discovery: announce this node in the DHT of Grenache, look up others there.

A Grape is never required. A Grape that does not answer is tried again, and gets the announcements
again when it is back; both are only logged. The result of a lookup is a hint to dial; the handshake
proves the identity.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from p2p.base.own_addresses import own_addresses
from p2p.base.reach import Reach
from p2p.discovery.strategy import BaseStrategy, describe
from p2p.grenache.directory import Directory
from p2p.grenache.errors import GrenacheError
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

FIRST_ROUND: Final = (
    0.5  # seconds to the second round, doubling, because other nodes may be starting too
)
ALONE_ROUND: Final = 5.0  # longest time between rounds while this node has no peer ...
EAGER_ROUND: Final = 1.0  # ... and in its first EAGER_FOR seconds
EAGER_FOR: Final = 30.0
RETRY_FIRST: Final = 0.5  # seconds to the next try when no Grape answers, doubling
RETRY_MAX: Final = 15.0
RETRY_ALONE: Final = 2.0  # the longest such time while this node has no peer
WITHDRAWING: Final = 1.0  # seconds for withdrawing announcements when this node stops
SPREAD: Final = 0.2  # jitter of waits, so that nodes started together do not stay in step

Offers = Callable[[], Awaitable[Sequence[tuple[str, int]]]]
"""Services to announce, names with their ports. Requested before each round, once a Grape has answered."""


@dataclass(frozen=True, slots=True)
class UsedGrapes:
    """Grapes of a node. `directory` returns what asks them, once they are started.

    `interval`: seconds between rounds. `where`: their description for people. `asked_for`: the operator configured
    one, so one that does not answer is a warning.
    """

    directory: Callable[[], Directory]
    interval: float = 30.0
    where: str = "the Grape"
    asked_for: bool = True


class GrapeStrategy(BaseStrategy):
    """Lookups and announcements in rounds, close together at first, later in the interval of the Grapes.

    `services`: names to look up, each with the carrier of its results. `alone` returns True while
    this node has no peer.
    """

    name = "grape"

    def __init__(
        self,
        grapes: UsedGrapes,
        *,
        services: Mapping[str, Carrier],
        offers: Offers,
        alone: Callable[[], bool] = lambda: False,
        rng: random.Random | None = None,
        own_addresses: Callable[[], Collection[str]] = own_addresses,
    ) -> None:
        super().__init__()
        self._own_addresses = own_addresses
        self._grapes = grapes
        self._directory = grapes.directory()
        self._services = dict(services)
        self._offers = offers
        self._alone = alone
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._soon = asyncio.Event()
        self._holders = 0  # DHT nodes that stored the last announcement
        self._announced: dict[tuple[str, int], None] = {}
        self.answering: bool | None = None  # None before the first answer or failure

    def refresh(self) -> None:
        """Start a round soon: a peer was lost."""
        self._soon.set()

    async def _open(self) -> None:
        self._soon.clear()
        self.answering = None
        self._detail = f"asking {self._grapes.where}"

    async def _close(self) -> None:
        """Withdraw the announcements, so that others do not dial a node that has left."""
        announced, self._announced = list(self._announced), {}
        if announced and self.answering:
            taken_back = (self._directory.withdraw(service, port) for service, port in announced)
            with suppress(TimeoutError):
                async with asyncio.timeout(WITHDRAWING):
                    await asyncio.gather(*taken_back, return_exceptions=True)

    async def _run(self) -> None:
        wait, retry = FIRST_ROUND, RETRY_FIRST
        now = asyncio.get_running_loop().time
        eager_until = now() + EAGER_FOR
        while True:
            try:
                await self._round()
            except GrenacheError as error:
                self._silent(error)
                await asyncio.sleep(self._spread(retry))
                retry = min(2 * retry, RETRY_ALONE if self._alone() else RETRY_MAX)
                wait = FIRST_ROUND
                continue
            retry = RETRY_FIRST
            longest = self._grapes.interval
            if self._alone():
                # Other nodes may be starting too, and announce themselves between two rounds.
                longest = min(longest, EAGER_ROUND if now() < eager_until else ALONE_ROUND)
            try:
                async with asyncio.timeout(self._spread(min(wait, longest))):
                    await self._soon.wait()
                wait = FIRST_ROUND
            except TimeoutError:
                wait = min(2 * wait, self._grapes.interval)
            if self._soon.is_set():
                # Least time between rounds, however often peers come and go.
                await asyncio.sleep(FIRST_ROUND)
                self._soon.clear()

    async def _round(self) -> None:
        """Look up, then announce: a Grape that does not answer lookups gets no announcement.

        Raises:
            GrenacheError: no Grape answered.
        """
        own = self._own_addresses()
        for service, carrier in self._services.items():
            for host, port in await self._directory.lookup(service, fresh=True):
                if (service, port) not in self._announced or host not in own:
                    # The directory has taken what each answering node may name.
                    self._report(host, port, None, carrier=carrier, by=Reach.LOOPBACK)
        for service, port in await self._offers():
            self._announced[service, port] = None
            self._holders = await self._directory.announce(service, port)
        if not self.answering:
            level = logging.INFO if self.answering is None else logging.WARNING
            log.log(level, "discovery grape: a Grape answers (%s)", self._grapes.where)
            self.answering = True
        self._detail = f"{self._grapes.where}: announced at {self._holders} DHT nodes"

    def _silent(self, error: GrenacheError) -> None:
        self._detail = (
            f"no answer from {self._grapes.where} ({describe(error)}); the node tries again"
        )
        if self.answering is not False:
            level = logging.WARNING if self._grapes.asked_for or self.answering else logging.INFO
            log.log(
                level,
                "discovery grape: no Grape answers (%s): %s",
                self._grapes.where,
                describe(error),
            )
        self.answering = False

    def _spread(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
