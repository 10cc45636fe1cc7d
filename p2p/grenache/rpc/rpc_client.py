"""Client of Grenache workers: lookup, load balancing, retries where they are safe.

    async with Link(["http://127.0.0.1:30001"]) as link, Client(link) as client:
        price = await client.request("quotes", {"market": "BTC-USD"}, timeout=2.0, idempotent=True)
        for said in await client.map("quotes", "who are you?"):
            print(said.address, said.error or said.result)

All workers that are announced are used; `p2p.adaptive` chooses by the results of earlier requests.
What happens when an attempt fails:

    outcome                                      for the router   tried again, with another worker
    the worker's own error                       ok               never: it is the answer
    not sent: refused, no connection             error, timeout   at once, while one is left
    the worker is busy, stops, serves it not     error            after a short wait
    sent, and no reply, or one that makes none   error, timeout   only if idempotent

When all have failed, they are tried again after growing, jittered waits, from a retry budget and within
the caller's timeout. Where an idempotent request takes longer than nearly all others did, a second worker
is asked beside the first, from a budget of its own; the slower of the two is not cancelled, which
shows whether that worker still answers.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from p2p.adaptive import AdaptiveRouter, BreakerState, Explained
from p2p.grenache.directory import Address, Directory
from p2p.grenache.errors import (
    BadInput,
    GrenacheError,
    LookupEmpty,
    RemoteError,
    RequestFailed,
    RequestTimeout,
)
from p2p.grenache.input_checks import check_service
from p2p.grenache.rpc.http_transport import HttpTransport
from p2p.grenache.rpc.rpc_transport import CLOSED, MAX_REPLY, RpcTransport, TransportStatus
from p2p.grenache.rpc.rpc_wire import new_rid
from p2p.grenache.rpc.stream_client import Exchange, Stream, StreamPosts, stream_headers
from p2p.grenache.rpc.worker_calls import (
    End,
    EvenPolicy,
    StreamCall,
    StreamCalls,
    TurnedAway,
    WorkerCall,
    WorkerCallFigures,
    WorkerCalls,
    WorkerService,
)
from p2p.grenache.rpc.worker_list import EMPTY_WAIT, REFRESH, WorkerList
from p2p.grenache.rpc.ws_transport import WsTransport
from p2p.ground.bounded_map import BoundedMap

TIMEOUT: Final = 5.0  # seconds, unless the caller gives others
MAX_TIMEOUT: Final = 3600.0
MAX_SERVICES: Final = 256  # beyond it the least recently used is dropped
MAX_UNDER_WAY: Final = 10_000  # requests of one client
MAP_AT_ONCE: Final = 64  # requests of one `map`
MAP_OLDEST: Final = 0.5  # seconds; `map` repeats an older lookup


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """`refresh`: seconds until a lookup is repeated while requests are made; `empty_wait`: seconds to wait for the first
    worker of a service; `max_reply`: bytes of a reply, decompressed."""

    refresh: float = REFRESH
    empty_wait: float = EMPTY_WAIT
    max_reply: int = MAX_REPLY


@dataclass(frozen=True, slots=True)
class MapResult:
    """Result of one worker in `Client.map`. `error` is a `RemoteError` if the worker returned it; a
    result may come with it."""

    address: Address
    result: Any = None
    error: GrenacheError | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`age_s`: since the last lookup; None before the first."""

    workers: tuple[Address, ...]
    shunned: tuple[Address, ...]  # workers with an open breaker
    age_s: float | None
    lookups: int
    figures: WorkerCallFigures


@dataclass(frozen=True, slots=True)
class ClientStatus:
    under_way: int
    transport: TransportStatus
    services: dict[str, ServiceStatus]


class Client:
    """See the module. To be made where its event loop runs; closed by `close` or `async with`.

    Args:
        transport: "http" or "ws", as the workers use; a lookup does not show it.
        tls: for workers with TLS; a client certificate in it is shown to those who ask.
        compress: gzip bodies (HTTP only); our workers and Node.js ones answer in kind.

    `own` is the address of the caller's own worker, left out by `map`; None until it is known.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        transport: Literal["http", "ws"] | RpcTransport = "http",
        tls: ssl.SSLContext | None = None,
        compress: bool = False,
        rng: random.Random | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.own: Address | None = None
        self._settings = settings or ClientSettings()
        max_reply = self._settings.max_reply
        self._directory = directory
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._loop = asyncio.get_running_loop()
        self._services: BoundedMap[str, WorkerService] = BoundedMap(MAX_SERVICES)
        self._latest: tuple[str, WorkerService] | None = None  # most recently used
        self._under_way = 0
        if transport == "http":
            self._transport: RpcTransport = HttpTransport(
                tls=tls, compress=compress, max_reply=max_reply
            )
        elif transport == "ws":
            if compress:
                raise ValueError("compress: supported over HTTP only")
            self._transport = WsTransport(tls=tls, max_reply=max_reply)
        elif isinstance(transport, str):
            raise ValueError(f"unknown transport {transport!r}: expected 'http' or 'ws'")
        else:
            self._transport = transport
        self._streams = StreamPosts(tls) if transport == "http" else None
        self._calls = WorkerCalls(self._transport)
        self._stream_calls: StreamCalls[Exchange] = StreamCalls()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; requests under way fail with ERR_TRANSPORT_CLOSE."""
        await self._calls.caller.close()
        await self._stream_calls.caller.close()
        await self._transport.close()
        if self._streams is not None:
            self._streams.close()

    async def request(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,
        idempotent: bool = False,
    ) -> Any:
        """Send a request to a worker of `service` and return its answer.

        Args:
            payload: anything that JSON holds.
            timeout: seconds for everything: lookup, waits, further attempts.
            idempotent: safe to execute twice. Such a request is repeated when its outcome is
                unknown; any other fails then, with `sent` True.

        Raises:
            RemoteError: the worker answered with an error.
            LookupEmpty: no worker serves it.
            RequestFailed, RequestTimeout: no answer; `sent` tells whether it may have been done.
            BadInput: it cannot be asked for.
            GrenacheError: the directory cannot be asked and no worker is known.
        """
        known = self._service(service)
        rid = new_rid()
        body = self._transport.encode(rid, service, payload)
        now = self._loop.time()
        call = WorkerCall(known, rid, body, now + _checked(timeout), idempotent=idempotent)
        known.balance.on_call(now)
        figures = known.figures
        if self._under_way >= MAX_UNDER_WAY:
            text = f"{MAX_UNDER_WAY} requests are under way"
            raise RequestFailed("ERR_CLIENT_BUSY", text, sent=False)
        self._under_way += 1
        try:
            try:
                reply = await self._calls.caller.settle(call)
            except GrenacheError as error:
                reply = call.outcome(error)
        except GrenacheError:
            figures.failed += 1
            raise
        finally:
            self._under_way -= 1
        if reply.error is not None:
            figures.remote_errors += 1
            raise RemoteError(reply.error, reply.result)
        figures.ok += 1
        return reply.result

    async def request_at(
        self,
        address: Address,
        service: str,
        payload: Any = None,
        timeout: float = TIMEOUT,
        *,
        idempotent: bool = False,
    ) -> Any:
        """As `request`, from the worker at `address` and no other, in one attempt."""
        self._check_open()
        rid = new_rid()
        body = self._transport.encode(rid, check_service(service), payload)
        reply = await self._transport.request(
            address, rid, body, timeout=_checked(timeout), idempotent=idempotent
        )
        if reply.error is not None:
            raise RemoteError(reply.error, reply.result)
        return reply.result

    def stream(
        self,
        service: str,
        *,
        action: str | None = None,
        args: Any = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> Stream:
        """Open a stream to a worker of `service`, with `async with`; see `p2p.grenache.rpc.stream_client`.

        Args:
            action: text of the header `_a`; `args`: JSON of the header `_ar`; `headers`: further ones.
            timeout: seconds until there is a connection, and without a byte of the reply once all is sent.

        Raises:
            BadInput: it cannot be asked for, or not over WebSocket.
        """
        posts = self._streams
        if posts is None:
            raise BadInput("ERR_NO_STREAMS", 'streams need a client with transport="http"')
        timeout = _checked(timeout)
        known = self._service(service)
        sent = stream_headers(service, headers, action, args)

        async def connect(address: Address, patience: float) -> Exchange:
            return await posts.open(address, sent, patience=patience, timeout=timeout)

        async def open_stream() -> tuple[Exchange, Callable[[End], None]]:
            now = self._loop.time()
            known.balance.on_call(now)
            opened = await self._stream_calls.caller.settle(
                StreamCall(known, connect, now + timeout)
            )

            def leave(outcome: End) -> None:
                posts.drop(opened.to)
                opened.ended(outcome)

            return opened.to, leave

        return Stream(open_stream)

    async def map(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,
        limit: int | None = None,
        idempotent: bool = False,
    ) -> list[MapResult]:
        """Ask every worker of `service` but the caller's own, at the same time, once.

        Args:
            timeout: seconds for everything.
            limit: most workers to call, chosen at random.
            idempotent: may be sent again where a connection turns out to have been closed before.

        Returns:
            What each said, or why it did not; in the order of the lookup. Empty if only the caller's own worker
            serves it.

        Raises:
            LookupEmpty: no worker serves it.
            BadInput: it cannot be asked for.
            GrenacheError: the directory cannot be asked and no worker is known.
        """
        known = self._service(service)
        rid = new_rid()
        body = self._transport.encode(rid, service, payload)
        deadline = self._loop.time() + _checked(timeout)
        found = await known.workers.all(deadline, MAP_OLDEST)
        if not found:
            raise LookupEmpty(service)
        workers = [worker for worker in found if worker != self.own]
        if limit is not None and limit < len(workers):
            chosen = set(self._rng.sample(workers, max(0, limit)))
            workers = [worker for worker in workers if worker in chosen]
        gate = asyncio.Semaphore(MAP_AT_ONCE)

        async def ask(address: Address) -> MapResult:
            call = WorkerCall(known, rid, body, deadline, idempotent=idempotent)
            call.alone = True
            caller = self._calls.caller
            try:
                async with asyncio.timeout_at(deadline):
                    await gate.acquire()
                try:
                    reply = await caller.run(call, caller.begin(call, address))
                finally:
                    gate.release()
            except TimeoutError:
                return MapResult(
                    address, error=RequestTimeout("it was not called in time", sent=False)
                )
            except TurnedAway as said:
                reply = said.reply
            except RequestFailed as failed:
                return MapResult(address, error=failed)
            error = None if reply.error is None else RemoteError(reply.error, reply.result)
            return MapResult(address, reply.result, error)

        return await asyncio.gather(*(ask(worker) for worker in workers))

    def status(self) -> ClientStatus:
        """Return the status of the client."""
        now = self._loop.time()
        services = {}
        for name, known in sorted(self._services.items()):
            workers = known.workers.addresses
            shunned = tuple(
                w for w in workers if known.router.breaker_state(now, w) is not BreakerState.CLOSED
            )
            services[name] = ServiceStatus(
                workers, shunned, known.workers.age, known.workers.lookups, known.figures
            )
        return ClientStatus(self._under_way, self._transport.status(), services)

    def explain(self, service: str) -> list[Explained]:
        """Explain a choice among the known workers of `service` as it would be made now, the best first."""
        known = self._services.get(service)
        if known is None:
            return []
        return known.router.explain(self._loop.time(), known.workers.addresses)

    # Services

    def _service(self, name: str) -> WorkerService:
        """State of a service, marked as used most recently."""
        self._check_open()
        latest = self._latest
        if latest is not None and latest[0] == name:
            return latest[1]
        known = self._services.renew(name)
        if known is None:
            check_service(name)
            router: AdaptiveRouter[Address] = AdaptiveRouter(rng=self._rng, policy=EvenPolicy())
            workers = WorkerList(
                self._directory,
                name,
                refresh=self._settings.refresh,
                empty_wait=self._settings.empty_wait,
                on_gone=router.forget,
                caller=self._calls.caller,
            )
            known = self._services[name] = WorkerService(workers, router, self._rng)
        self._latest = name, known
        return known

    def _check_open(self) -> None:
        if self._calls.caller.closing:
            raise RequestFailed(CLOSED, "this client was closed", sent=False)


def _checked(timeout: float) -> float:
    try:
        if 0.0 < timeout <= MAX_TIMEOUT:
            return float(timeout)
    except TypeError:  # None does not mean "without a limit"
        pass
    text = (
        f"a timeout is a number of seconds, above 0 and up to {MAX_TIMEOUT:g}, not {timeout!r:.80}"
    )
    raise BadInput("ERR_BAD_TIMEOUT", text)
