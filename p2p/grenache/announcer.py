"""Announcer: periodic announcements of services at a Grape, sooner after a failure, withdrawn at
the end.

Entries expire in the DHT about two minutes after their last announcement. Grapes of this project
can withdraw an entry; Node.js Grapes cannot, so lookups there may return a stopped service until it
expires. `Repeater` makes the announcements; a `Link` has one. `Announcer` is for workers with any
Directory, whether it repeats announcements itself or not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, runtime_checkable

from p2p.grenache.directory import Directory
from p2p.grenache.errors import BadInput, GrenacheError
from p2p.grenache.input_checks import check_port, check_service
from p2p.grenache.shared_work import SharedWork

log = logging.getLogger(__name__)

INTERVAL: Final = 30.0  # seconds; an entry lives for at least 80, so it survives two failures
SPREAD: Final = 0.2  # jitter of waits, so that many workers do not announce at once
FIRST_RETRY: Final = 0.5  # seconds, doubled with each failure
LAST_RETRY: Final = 5.0  # seconds, where no event reports the return of a Grape
WITHDRAWAL: Final = 2.0  # seconds for the withdrawal by a Directory

Announce = Callable[[str, int], Awaitable[str]]
"""Announce a service at a port once; return the errors of some of the Grapes, "" without any.
Raises `GrenacheError` when no Grape accepted it."""


class Repeater:
    """Periodic announcements, continued through failures of the Grapes. The owner calls `close`.

    Args:
        returned: returns the event that is set when a Grape is back, a new event after each return.
            Announcements are made at once then. None: without such events.
    """

    def __init__(
        self,
        announce: Announce,
        *,
        returned: Callable[[], asyncio.Event] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._announce = announce
        self._returned = returned
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._work = SharedWork()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self, service: str, port: int, interval: float = INTERVAL) -> None:
        """Announce now and about every `interval` seconds; a repeated call changes the interval.

        Raises:
            BadInput
        """
        key = check_service(service), check_port(port)
        interval = check_interval(interval)
        self.stop(service, port)
        self._tasks[key] = self._work.own(self._keep(service, port, interval))

    def stop(self, service: str, port: int | None = None) -> None:
        """Stop announcing `service` at `port`, None: at any port."""
        for key in [k for k in self._tasks if k[0] == service and port in (None, k[1])]:
            self._tasks.pop(key).cancel()

    async def close(self) -> None:
        """Stop all announcements."""
        self._tasks.clear()
        await self._work.close()

    async def _keep(self, service: str, port: int, interval: float) -> None:
        longest = interval if self._returned is not None else min(interval, LAST_RETRY)
        first = retry = min(FIRST_RETRY, longest)
        failing = False
        while True:
            # Read before announcing: a Grape may come back meanwhile.
            returned = self._returned() if self._returned is not None else asyncio.Event()
            try:
                wrong, failed = await self._announce(service, port), False
            except GrenacheError as error:
                wrong, failed = str(error), True
            if failed and not failing:
                log.warning("cannot announce %r (%s); trying on", service, wrong)
            elif failing and not failed:
                log.info("%r is announced again", service)
            failing = failed
            pause = retry if wrong else interval
            retry = min(2 * retry, longest) if wrong else first
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * self._rng.uniform(1 - SPREAD, 1 + SPREAD)):
                    await returned.wait()


@runtime_checkable
class Keeper(Protocol):
    """Directory that repeats announcements itself: `Link`, which detects the return of a Grape."""

    def start_announcing(self, service: str, port: int, *, interval: float) -> None: ...

    def stop_announcing(self, service: str, port: int | None = None) -> None: ...


class Announcer:
    """Periodic announcements of services through `directory`, each at one port. The owner calls
    `close`."""

    def __init__(
        self, directory: Directory, *, interval: float = INTERVAL, rng: random.Random | None = None
    ) -> None:
        self._directory = directory
        self._interval = check_interval(interval)
        self._repeater = Repeater(self._announce, rng=rng)
        self._ports: dict[str, int] = {}

    def start(self, service: str, port: int) -> None:
        """Begin at once. Raises `BadInput` for an invalid service or port."""
        self.stop(check_service(service))
        if isinstance(self._directory, Keeper):
            self._directory.start_announcing(service, port, interval=self._interval)
        else:
            self._repeater.start(service, port, self._interval)
        self._ports[service] = port

    def stop(self, service: str) -> None:
        """Stop announcing a service."""
        port = self._ports.pop(service, None)
        if port is None:
            return
        if isinstance(self._directory, Keeper):
            self._directory.stop_announcing(service, port)
        else:
            self._repeater.stop(service)

    async def announced(self) -> None:
        """Announce all services again, and wait until a DHT node has accepted each. Without limit
        if none does."""
        for service, port in list(self._ports.items()):
            while True:
                with suppress(GrenacheError):
                    await self._directory.announce(service, port)
                    break
                await asyncio.sleep(FIRST_RETRY)

    async def close(self) -> None:
        """Stop all announcements, and withdraw them where the Grape supports it."""
        ports = dict(self._ports)
        for service in ports:
            self.stop(service)
        await self._repeater.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAWAL):
                await asyncio.gather(*(self._withdraw(*entry) for entry in ports.items()))

    async def _announce(self, service: str, port: int) -> str:
        await self._directory.announce(service, port)
        return ""

    async def _withdraw(self, service: str, port: int) -> None:
        try:
            await self._directory.withdraw(service, port)
        except (
            GrenacheError,
            RuntimeError,
        ) as error:  # RuntimeError: the directory was closed first
            log.debug("%r stays announced until it expires: %s", service, error)


def check_interval(interval: float) -> float:
    """Return the interval in seconds if it is valid. Raises: BadInput"""
    if not interval > 0:
        raise BadInput(
            "ERR_INTERVAL", f"invalid interval: expected seconds above 0, got {interval}"
        )
    return interval
