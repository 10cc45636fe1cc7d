"""Dispatcher: handlers of a worker behind bounded admission. No sockets.

A handler that fails answers its caller with an error and ends nothing else. At most `workers` requests are
served at once; others wait 0.1 s for a place at most and are refused after that, with a time to come back
(`p2p.flow.admission`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from p2p.flow.admission import Admission, Ticket
from p2p.flow.load import Busy
from p2p.grenache.directory import Address
from p2p.grenache.errors import BadInput, RemoteError
from p2p.grenache.rpc.limits import WORKERS
from p2p.grenache.rpc.rpc_wire import Rid, busy, encode_reply

log = logging.getLogger(__name__)

ERR_UNKNOWN: Final = "ERR_UNKNOWN_SERVICE"
ERR_FAILED: Final = "ERR_WORKER_FAILED"
ERR_TIME: Final = "ERR_WORKER_TIMEOUT"
ERR_STOPPED: Final = "ERR_WORKER_STOPPED"
ERR_RESULT: Final = "ERR_RESULT_NOT_JSON"
LAST_WORDS: Final = 0.5  # seconds for handlers to end after the grace
_FAILED: Final = f"{ERR_FAILED}: perhaps after it did something"
_SHOWN: Final = 80  # characters of a caller's text in own messages


class Request(msgspec.Struct, frozen=True):
    """Request as a handler receives it.

    Args:
        key: name of the service.
        payload: what JSON holds.
        rid: the caller's id for the request; nothing keeps two callers from using the same.
        remote: address of the other end of the connection.
        certificate: DER of the caller's certificate, when TLS asked for one and checked it.
        transport: what it came by.
    """

    key: str
    payload: Any
    rid: Rid
    remote: Address
    certificate: bytes | None
    transport: Literal["http", "ws"]


Handler = Callable[[Request], Awaitable[Any]]
"""Gives the result, which JSON must hold. Refuses with `RemoteError(text, result)`."""


@dataclass(frozen=True, slots=True)
class DispatchCounts:
    """Counts since the start. `refused`: by the handlers themselves; `failed`: handlers that
    raised, took too long, or gave what is not JSON."""

    served: int
    refused: int
    failed: int
    unknown: int
    busy: int


class _Full(Exception):
    """There is no place for the request."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class _TooLong(Exception):
    """The handler's time limit is over."""


class _Places(Admission):
    """Worker places; skips the context manager when no request has to wait, which is nearly
    always."""

    def take(self, now: float) -> Ticket | None:
        """A place, if one is free."""
        core = self.core
        if core.serving >= core.workers or core.waiting:
            return None
        ticket = core.offer(now)
        core.start(now)
        return ticket

    def give_back(self, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        self.core.done(loop.time(), ticket)
        if self.core.waiting:
            self._start(loop)


class Dispatcher:
    """Handlers by service name. `time_limit`: seconds that one may take, None for no limit."""

    def __init__(self, *, workers: int = WORKERS, time_limit: float | None = None) -> None:
        self._handlers: dict[str, Handler] = {}
        self._any: Handler | None = None
        self._places = _Places(workers)
        self._time_limit = time_limit
        self._running: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()  # by `stop`, after their grace
        self._stopping: asyncio.Event | None = None  # set when nothing is running any more
        self._served = self._refused = self._failed = self._unknown = self._busy = 0

    def serve(self, key: str, handler: Handler) -> None:
        """Raises ValueError when `key` is taken."""
        if key in self._handlers:
            raise ValueError(f"the service {key!r} is served already")
        self._handlers[key] = handler

    def serve_any(self, handler: Handler) -> None:
        """Register the `handler` of all other services. Raises ValueError when there is one."""
        if self._any is not None:
            raise ValueError("there is a handler for any service already")
        self._any = handler

    def remove(self, key: str) -> None:
        """Remove a service; requests in progress finish."""
        self._handlers.pop(key, None)

    @property
    def keys(self) -> list[str]:
        return sorted(self._handlers)

    @property
    def in_flight(self) -> int:
        """Requests that wait for a place or are being served."""
        return self._places.core.in_flight

    @property
    def counts(self) -> DispatchCounts:
        return DispatchCounts(self._served, self._refused, self._failed, self._unknown, self._busy)

    async def answer(self, request: Request) -> bytes:
        """Return the complete reply. Raises only `asyncio.CancelledError`."""
        handler = self._handlers.get(request.key) or self._any
        if handler is None:
            self._unknown += 1
            return _error(request, f"{ERR_UNKNOWN}: {request.key[:_SHOWN]} is not served here")
        if self._stopping is not None:
            return _error(request, f"{ERR_STOPPED}: this worker is stopping, nothing was done")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("requests are answered within a task")
        self._running.add(task)
        loop = asyncio.get_running_loop()
        ticket = self._places.take(loop.time())
        try:
            if ticket is None:
                result = await self._queued(handler, request)
            elif self._time_limit is None:
                result = await handler(request)
            else:
                result = await self._run(handler, request)
        except asyncio.CancelledError:
            if task in self._ended:
                task.uncancel()
                self._failed += 1
                return _error(request, f"{ERR_STOPPED}: perhaps executed")
            if task.cancelling():
                raise
            self._failed += 1
            log.warning("the handler of %s gave up: cancelled", request.key[:_SHOWN])
            return _error(request, _FAILED)
        except Exception as error:
            return self._failure(request, error)
        else:
            return self._done(request, result)
        finally:
            if ticket is not None:
                self._places.give_back(loop, ticket)
            self._running.discard(task)
            if self._stopping is not None:
                self._ended.discard(task)
                if not self._running:
                    self._stopping.set()

    def start(self) -> None:
        """Begin to serve, also after `stop`."""
        self._stopping = None

    async def stop(self, grace: float) -> None:
        """Refuse new requests, and end running ones with an error after `grace` seconds."""
        self._stopping = asyncio.Event()
        if not self._running:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._stopping.wait()
        for task in self._running:
            self._ended.add(task)
            task.cancel()
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._stopping.wait()

    async def _queued(self, handler: Handler, request: Request) -> Any:
        """After waiting for a place; `_Full` when none was free soon."""
        begun = False
        try:
            async with self._places.admit():
                begun = True
                return await self._run(handler, request)
        except Busy as error:
            if begun:  # of a request of the handler
                raise
            raise _Full(error.retry_after_s) from None

    async def _run(self, handler: Handler, request: Request) -> Any:
        """Within the time limit; `_TooLong` when that is over."""
        scope = asyncio.timeout(self._time_limit)
        try:
            async with scope:
                return await handler(request)
        except TimeoutError:
            if scope.expired():
                raise _TooLong from None
            raise

    def _failure(self, request: Request, error: Exception) -> bytes:
        if isinstance(error, RemoteError):
            self._refused += 1
            return _error(request, error.code or ERR_FAILED, error.result)
        if isinstance(error, _Full):
            self._busy += 1
            return _error(request, busy(error.retry_after_s))
        self._failed += 1
        if isinstance(error, _TooLong):
            return _error(
                request, f"{ERR_TIME}: not done in {self._time_limit:g} s, perhaps executed"
            )
        # Without the error's message, which may be confidential.
        log.error("the handler of %s failed", request.key[:_SHOWN], exc_info=error)
        return _error(request, _FAILED)

    def _done(self, request: Request, result: Any) -> bytes:
        try:
            reply = encode_reply(request.rid, None, result)
        except BadInput as wrong:
            log.error("the handler of %s: %s", request.key[:_SHOWN], wrong)
            self._failed += 1
            return _error(request, f"{ERR_RESULT}: done, but JSON cannot hold the result")
        self._served += 1
        return reply


def _error(request: Request, text: str, result: Any = None) -> bytes:
    try:
        return encode_reply(request.rid, text, result)
    except BadInput:
        log.error(
            "the handler of %s: JSON cannot hold what came with %s", request.key[:_SHOWN], text
        )
        return encode_reply(request.rid, text, None)
