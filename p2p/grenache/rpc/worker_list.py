"""Worker list: addresses of a service from the last lookup, refreshed in the background.

Requests use the known workers without waiting; when the list is older than `refresh` seconds, a
lookup starts in the background. So a new worker is used after about that time, and a dead Grape
does not delay requests. An address missing from lookups is kept for some time, and longer while it
answers: one Grape may have fewer entries than another, and a restarted one has none until the
workers announce themselves again. A service without workers raises `LookupEmpty` after one lookup,
or after `empty_wait` seconds of lookups, for callers that start together with the workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from p2p.base.reach import is_other_service
from p2p.flow.caller import Caller
from p2p.grenache.directory import Address, Directory
from p2p.grenache.errors import (
    GrapeUnreachable,
    GrenacheError,
    LookupEmpty,
    RequestFailed,
    RequestTimeout,
)
from p2p.grenache.rpc.rpc_transport import CLOSED

log = logging.getLogger(__name__)

REFRESH: Final = 1.5  # seconds
KEEP: Final = 10.0  # seconds that an address is used after it was found, or answered
KEEP_LONGEST: Final = 180.0  # of answering without being found; Grapes show the dead for as long
EMPTY_WAIT: Final = 0.0  # seconds that a service without workers is waited for
FIRST_PAUSE, LONGEST_PAUSE = 0.03, 0.25  # seconds between two empty lookups
OLD: Final = 10.0  # seconds; who has not asked for so long waits a moment for a new answer ...
MOMENT: Final = 0.15  # ... of this many seconds
AFTER_FAILURE: Final = 0.25  # seconds between two lookups because a worker failed ...
AFTER_ALL_FAILED: Final = 0.03  # ... or because all did
LOOKUP_TIMEOUT: Final = 15.0  # seconds; a directory has shorter ones of its own
MAX_WORKERS: Final = 1024


class WorkerList:
    """The workers of `service`. `on_gone` is called with each address that is not used any more; the tasks of
    `caller` are the lookups."""

    def __init__(
        self,
        directory: Directory,
        service: str,
        *,
        refresh: float = REFRESH,
        empty_wait: float = EMPTY_WAIT,
        on_gone: Callable[[Address], None],
        caller: Caller[Address, Any, Any],
    ) -> None:
        self._directory = directory
        self._service = service
        self._refresh = refresh
        self._empty_wait = empty_wait
        self._on_gone = on_gone
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._seen: dict[Address, float] = {}
        self._missing: dict[Address, float] = {}  # since when lookups have left it out
        self._looked: float | None = None  # when the latest lookup ended, well or not
        self._error: GrenacheError | None = None  # how it ended
        self._task: asyncio.Task[None] | None = None
        self.addresses: tuple[Address, ...] = ()
        self.answered: dict[Address, float] = {}  # time of the last answer; updated by the callers
        self.new: list[Address] = []  # not handed out by `take_new` yet
        self.lookups = 0

    @property
    def age(self) -> float | None:
        """Seconds since the directory was last asked; None before."""
        return None if self._looked is None else self._loop.time() - self._looked

    @property
    def fresh(self) -> bool:
        """True if there are workers, and no lookup is due: `get` would return them at once."""
        looked = self._looked
        return (
            looked is not None
            and bool(self.addresses)
            and self._loop.time() - looked <= self._refresh
        )

    async def get(self, deadline: float) -> Sequence[Address]:
        """Return the known workers, at least one; at once if any is known.

        Raises:
            LookupEmpty: there is none, also after `empty_wait`.
            GrenacheError: the directory could not be asked, and no worker is known.
        """
        if not self.addresses:
            return await self._first(deadline)
        age = self.age or 0.0
        if age > self._refresh:
            task = self._look(fresh=True)
            if age > OLD:
                await self._wait(task, min(deadline, self._loop.time() + MOMENT))
        return self.addresses or await self._first(deadline)

    def take_new(self) -> Address | None:
        """An address that was found since the last time, each once: nothing is known of such a worker until
        it is asked, and what is taken for average may wait for long."""
        while self.new:
            address = self.new.pop()
            if address in self._seen:
                return address
        return None

    async def all(self, deadline: float, oldest: float) -> Sequence[Address]:
        """Those that the directory knows now: what was learned in the last `oldest` seconds. Maybe none.

        Raises:
            GrenacheError: the directory could not be asked, and no worker is known.
        """
        age = self.age
        if age is None or age > oldest or not self.addresses:
            await self._wait(self._look(fresh=age is not None), deadline)
            if not self.addresses and self._error is not None:
                raise self._error.with_traceback(None)
        return self.addresses

    def failed(self, *, all_of_them: bool) -> None:
        """A worker failed, or the last one that was left: there may be another in its place."""
        forget = getattr(self._directory, "forget", None)  # of directories that cache
        if forget is not None:
            forget(self._service)
        age = self.age
        least = AFTER_ALL_FAILED if all_of_them else AFTER_FAILURE
        if not self._caller.closing and age is not None and age > least:
            self._look(fresh=True)

    async def _first(self, deadline: float) -> Sequence[Address]:
        """Look up until there is a worker."""
        until = self._loop.time() + self._empty_wait
        pause, fresh = FIRST_PAUSE, False
        while True:
            task = self._look(fresh=fresh)
            if not await self._wait(task, deadline):
                raise RequestTimeout(f"the lookup of {self._service!r} takes too long", sent=False)
            if self.addresses:
                return self.addresses
            if self._loop.time() + pause >= min(until, deadline):
                raise (self._error or LookupEmpty(self._service)).with_traceback(None)
            await asyncio.sleep(pause)
            pause, fresh = min(2 * pause, LONGEST_PAUSE), True

    def _look(self, *, fresh: bool) -> asyncio.Task[None]:
        """The lookup under way, or a new one."""
        if self._task is None or self._task.done():
            self._task = self._caller.tasks.start(self._lookup(fresh))
        return self._task

    async def _wait(self, task: asyncio.Task[None], until: float) -> bool:
        """Return True if it has ended by then. It continues if not, for the next caller."""
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - self._loop.time()))
        if self._caller.closing:
            raise RequestFailed(CLOSED, "this client was closed", sent=False)
        return bool(done)

    async def _lookup(self, fresh: bool) -> None:
        self.lookups += 1
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                found = await self._directory.lookup(self._service, fresh=fresh)
        except GrenacheError as error:
            self._error = error
        except TimeoutError:
            text = f"the lookup of {self._service!r} took longer than {LOOKUP_TIMEOUT:g} s"
            self._error = GrapeUnreachable(text)
        except Exception as error:
            log.exception("lookup of %r", self._service)
            self._error = GrapeUnreachable(f"lookup of {self._service!r}: {error!r}")
        else:
            self._error = None
            self._learn([a for a in found if not is_other_service(a[1])][:MAX_WORKERS])
        self._looked = self._loop.time()

    def _learn(self, found: Sequence[Address]) -> None:
        now = self._loop.time()
        for address in found:
            if address not in self._seen:
                self.new.append(address)
            self._seen[address] = now
            self._missing.pop(address, None)
        gone = []
        for address, seen in self._seen.items():
            since = self._missing.setdefault(address, now) if seen < now else now
            if now - since > KEEP_LONGEST or now - max(seen, self.answered.get(address, 0)) > KEEP:
                gone.append(address)
        if len(self._seen) - len(gone) > MAX_WORKERS:
            gone = [address for address, seen in self._seen.items() if seen < now]
        for address in gone:
            del self._seen[address]
            self._missing.pop(address, None)
            self._on_gone(address)
        self.new = self.new[-MAX_WORKERS:]
        self.answered = {a: when for a, when in self.answered.items() if a in self._seen}
        self.addresses = tuple(self._seen)
