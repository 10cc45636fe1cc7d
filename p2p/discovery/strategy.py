"""Discovery strategies: their common interface, and PeerDiscovery, which supervises them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Literal, Protocol

import msgspec

from p2p.addresses.address import SOURCE_PRIORITY, PeerFound
from p2p.base.reach import Reach
from p2p.ground.bounded_map import BoundedMap
from p2p.wire.link import Carrier

log = logging.getLogger(__name__)

State = Literal["on", "off", "failed"]
Found = Callable[[PeerFound], None]

MAX_SEEN: Final = 10_000  # addresses of one strategy that are counted once
RETRY_FIRST: Final = 5.0  # seconds before a failed strategy is started again, doubling
RETRY_MAX: Final = 300.0  # seconds
CHECK_INTERVAL: Final = 1.0  # seconds between checks of running strategies


class DiscoveryStrategy(Protocol):
    """A method of finding peers. Its conformance tests: tests/unit/kits/discovery_conformance.py."""

    @property
    def name(self) -> str:
        """Also the `source` of what it finds."""
        ...

    @property
    def state(self) -> State:
        """State of the strategy: `off` also when there is nothing to do, `failed` when it needs a
        restart."""
        ...

    @property
    def detail(self) -> str:
        """Description of the state, one sentence."""
        ...

    @property
    def found_count(self) -> int:
        """Distinct addresses found since the start."""
        ...

    async def start(self, found: Found) -> None:
        """Begin to call `found`, in the event loop, once for each address and again with fresh evidence of
        it. Returns when the strategy runs.

        Raises:
            Exception: the strategy cannot run; it holds no resources then and may be started again.
        """
        ...

    async def stop(self) -> None:
        """Stop calling `found` and release all resources. Safe to call twice."""
        ...


class BaseStrategy:
    """Common parts of strategies: state, counting and an owned background task.

    Subclasses implement `_open` (before it runs), `_run` (while it runs) and `_close`.
    """

    name: str = ""

    def __init__(self) -> None:
        self._state: State = "off"
        self._detail = "not started"
        self._found: Found | None = None
        self._seen: BoundedMap[tuple[str, int, str | None], None] = BoundedMap(MAX_SEEN)
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def detail(self) -> str:
        return self._detail

    @property
    def found_count(self) -> int:
        return self._count

    async def start(self, found: Found) -> None:
        if self._found is not None:
            return
        self._found = found
        self._seen.clear()
        self._count = 0
        self._state = "on"
        self._detail = "starting"
        try:
            await self._open()
        except BaseException as error:
            self._found = None
            self._fail(error)
            await self._close()
            raise
        # `_open` may have set the state to "off" because there is nothing to do.
        if self._state == "on":
            self._task = asyncio.create_task(self._guarded(), name=f"discovery {self.name}")

    async def stop(self) -> None:
        was_running = self._found is not None
        self._found = None
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._close()
        if was_running and self._state != "failed":
            self._state, self._detail = "off", "stopped"

    async def _open(self) -> None:
        """Acquire resources. May report, set `_detail`, or set the state to `off`."""

    async def _run(self) -> None:
        """Run until cancelled; returning early is fine when nothing is left to do."""

    async def _close(self) -> None:
        """Release all resources. Called after a failed `_open` and by every `stop`."""

    def _report(
        self,
        host: str,
        port: int,
        node_id: str | None,
        via: str = "",
        *,
        via_address: str = "",
        carrier: Carrier = "tcp",
        by: Reach = Reach.PUBLIC,
    ) -> None:
        if self._found is not None:
            seen = (host, port, node_id)
            self._count += seen not in self._seen
            known = seen in self._seen
            self._seen[seen] = None
            peer = PeerFound(host, port, node_id, self.name, via, carrier, via_address, by)
            if not (known or via or peer.usable):
                log.info(
                    "discovery %s: %s:%d is not dialled: not an address of a node, or too near",
                    self.name,
                    host,
                    port,
                )
            self._found(peer)

    def _fail(self, error: BaseException) -> None:
        self._state = "failed"
        self._detail = describe(error)

    async def _guarded(self) -> None:
        try:
            await self._run()
        except Exception as error:
            self._fail(error)


class StrategyStatus(msgspec.Struct, frozen=True):
    name: str
    state: State
    detail: str
    found: int


class PeerDiscovery:
    """Run strategies side by side. A failed strategy stops neither the others nor the node: it is a
    warning, shows in `status`, and is retried with growing waits.
    """

    def __init__(self, strategies: Sequence[DiscoveryStrategy], found: Found) -> None:
        self.strategies = sorted(strategies, key=lambda s: _rank(s.name))
        self._on_found = found
        self._failures: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, settle: float = 0.0) -> None:
        """Start all strategies. Returns when each was tried once, or after `settle` seconds."""
        if self._tasks:
            return
        attempted: list[asyncio.Event] = []
        for strategy in self.strategies:
            event = asyncio.Event()
            attempted.append(event)
            self._tasks.append(
                asyncio.create_task(
                    self._supervise(strategy, event), name=f"supervise {strategy.name}"
                )
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(settle):
                for event in attempted:
                    await event.wait()

    async def stop(self) -> None:
        """Stop all strategies, even if some of them fail to stop."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        results = await asyncio.gather(
            *(strategy.stop() for strategy in self.strategies), return_exceptions=True
        )
        for strategy, result in zip(self.strategies, results, strict=True):
            if isinstance(result, Exception):
                log.warning("discovery %s did not stop cleanly: %s", strategy.name, result)

    def status(self) -> list[StrategyStatus]:
        """Return the state of each strategy in order of priority."""
        return [
            StrategyStatus(
                s.name,
                "failed" if s.name in self._failures else s.state,
                self._failures.get(s.name, s.detail),
                s.found_count,
            )
            for s in self.strategies
        ]

    def _found(self, peer: PeerFound) -> None:
        try:
            self._on_found(peer)
        except Exception:
            log.exception("an address found by %s could not be added", peer.source)

    async def _supervise(self, strategy: DiscoveryStrategy, attempted: asyncio.Event) -> None:
        wait = RETRY_FIRST
        while True:
            error = await self._run_once(strategy, attempted)
            self._failures[strategy.name] = f"{error}; retried in {wait:.0f} s"
            log.warning("discovery %s failed: %s; retried in %.0f s", strategy.name, error, wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX)

    async def _run_once(self, strategy: DiscoveryStrategy, attempted: asyncio.Event) -> str:
        """Start the strategy and watch it; returns the reason of its failure."""
        try:
            await strategy.start(self._found)
        except Exception as error:
            return describe(error)
        finally:
            attempted.set()
        self._failures.pop(strategy.name, None)
        while strategy.state != "failed":  # noqa: ASYNC110 - strategies have no callback for it
            await asyncio.sleep(CHECK_INTERVAL)
        reason = strategy.detail
        try:
            await strategy.stop()
        except Exception as error:
            log.warning("discovery %s did not stop cleanly: %s", strategy.name, describe(error))
        return reason


def describe(error: BaseException) -> str:
    """Return an error as part of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _rank(name: str) -> int:
    return SOURCE_PRIORITY.index(name) if name in SOURCE_PRIORITY else len(SOURCE_PRIORITY)
