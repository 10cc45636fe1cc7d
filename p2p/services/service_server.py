"""Service server: handlers behind bounded admission, every reply with the load.

A request waits for a worker for `max_wait_s` at most; beyond that it is refused as "busy" at once, with
a time to come back (`p2p.flow.admission`). What its caller has given up is cancelled, or, when it runs
in a thread, keeps its worker until it ends: capacity that is in use is not given away.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final

import msgspec

from p2p.base.errors import HandlerError, RpcError
from p2p.flow.admission import Admission, Expired
from p2p.flow.load import Busy
from p2p.ground.peer_texts import Lines, Sentence, Word, printable
from p2p.rpc.requests import Call
from p2p.rpc.rpc import Answer
from p2p.services.call_tracing import CallTracer
from p2p.services.fault_injection import Faults
from p2p.services.service_directory import check_name
from p2p.wire.messages import Load, pack

log = logging.getLogger(__name__)

METHOD: Final = "call"  # the RPC method that carries services
WORKERS: Final = 16
MAX_WAIT: Final = 0.1  # seconds
MAX_CODE: Final = 64  # characters
MAX_TEXT: Final = 500

Handler = Callable[[Any], Any]
"""Takes the payload, gives the result: both of what msgpack holds. Async, or sync in a thread."""


class ServiceCall(msgspec.Struct, rename="camel", omit_defaults=True):
    """Body of the RPC request. `id`: an idempotency id, for the handler. `traceparent`: the caller's trace
    context."""

    service: Word
    payload: msgspec.Raw
    id: Sentence = ""
    traceparent: Word = ""


class ServiceReply(msgspec.Struct, rename="camel", omit_defaults=True):
    """Body of the RPC response: a result, or the handler's own refusal."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")  # nil
    error: Sentence = ""
    message: Lines = ""


class ServiceRequest(msgspec.Struct, frozen=True):
    """The request being served: caller, deadline (loop time), idempotency id."""

    service: str
    caller: str
    deadline: float
    id: str


_current: contextvars.ContextVar[ServiceRequest] = contextvars.ContextVar("service request")


def current_request() -> ServiceRequest:
    """Return the request that the current handler is serving.

    Raises:
        LookupError: asked outside of a handler.
    """
    return _current.get()


class ServiceFigures(msgspec.Struct, frozen=True):
    """Figures of one service served here. Seconds; counts since the start."""

    service: str
    workers: int
    serving: int
    waiting: int
    served: int
    busy: int
    expired: int
    service_s: float
    faults: str


class _Service:
    def __init__(
        self, name: str, handler: Handler, workers: int, max_wait_s: float, faults: Faults | None
    ) -> None:
        self.name = name
        self.handler = handler
        call = getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
        self.is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)
        self.admission = Admission(workers, max_wait_s=max_wait_s)
        self.faults = faults

    def load(self, waited: float = 0.0, served: float = 0.0) -> Load:
        core = self.admission.core
        return Load(
            in_flight=core.in_flight,
            latency=core.expected_wait() + core.service_s,
            service=core.service_s,
            waited=waited,
            served=served,
        )


class ServiceServer:
    """The services of this node. The owner calls `close`."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self.tracer: CallTracer | None = None
        self._services: dict[str, _Service] = {}
        self._threaded: set[asyncio.Task[ServiceReply]] = set()

    def serve(
        self,
        name: str,
        handler: Handler,
        *,
        workers: int = WORKERS,
        max_wait_s: float = MAX_WAIT,
        faults: Faults | None = None,
    ) -> None:
        """Serve `name` with `handler(payload)`, at most `workers` requests at once.

        Raises:
            ValueError: the name cannot be one, or is taken.
        """
        if check_name(name) in self._services:
            raise ValueError(f"service {name!r} is served already; remove it first")
        self._services[name] = _Service(name, handler, workers, max_wait_s, faults)

    def remove(self, name: str) -> None:
        """Stop serving a service; requests being served go on."""
        self._services.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._services

    @property
    def in_flight(self) -> int:
        """Number of requests inside all services."""
        return sum(service.admission.core.in_flight for service in self._services.values())

    def figures(self) -> list[ServiceFigures]:
        found = []
        for name, service in sorted(self._services.items()):
            core = service.admission.core
            found.append(
                ServiceFigures(
                    service=name,
                    workers=core.workers,
                    serving=core.serving,
                    waiting=core.waiting,
                    served=core.counters["served"],
                    busy=core.counters["busy"],
                    expired=core.counters["expired"],
                    service_s=core.service_s,
                    faults=str(service.faults or ""),
                )
            )
        return found

    async def on_call(self, call: Call, body: ServiceCall) -> Answer:
        """Handle an RPC request for METHOD."""
        return await self.execute(body, call.caller, call.deadline)

    async def execute(self, call: ServiceCall, caller: str, deadline: float = inf) -> Answer:
        """Serve one request; returns a `ServiceReply` and the load. Raises as `_execute`."""
        if self.tracer is None:
            return await self._execute(call, caller, deadline)
        with self.tracer.serve(call.service[:MAX_CODE], caller, call.traceparent):
            return await self._execute(call, caller, deadline)

    async def _execute(self, call: ServiceCall, caller: str, deadline: float) -> Answer:
        """Serve one request.

        Raises:
            RpcError: "busy" (with when to come back), "expired", "unknown_service", or "internal" when
                the handler failed in a way that it did not mean to tell.
        """
        service = self._services.get(call.service)
        if service is None:
            raise RpcError("unknown_service", f"this node does not offer {call.service[:80]!r}")
        request = ServiceRequest(service.name, caller, deadline, call.id)
        try:
            if service.is_async:
                return await self._run(service, call.payload, request, self._in_loop)
            return await self._run_in_thread(service, call.payload, request)
        except Busy as error:
            raise RpcError("busy", str(error), retry_after_s=error.retry_after_s) from None
        except Expired as error:
            raise RpcError("expired", str(error)) from None

    async def _run(
        self,
        service: _Service,
        payload: msgspec.Raw,
        request: ServiceRequest,
        invoke: Callable[[_Service, Any, ServiceRequest], Awaitable[Any]],
    ) -> Answer:
        value = msgspec.msgpack.decode(payload)
        async with service.admission.admit(request.deadline) as admitted:
            try:
                if service.faults:
                    await service.faults.happen(self._loop.time(), self._rng)
                result = await invoke(service, value, request)
                reply = ServiceReply(result=msgspec.Raw(pack(result)))
            except HandlerError as error:
                lines = [
                    printable(line, MAX_TEXT) for line in error.message[:MAX_TEXT].splitlines()
                ]
                code = printable(error.code[:MAX_CODE]) or "error"
                reply = ServiceReply(error=code, message="\n".join(lines))
            except RpcError:
                raise
            except Exception as error:
                log.exception("the handler of %s failed", service.name)
                # The type's name and no more: a message may hold what is not the caller's to know.
                raise RpcError("internal", type(error).__name__) from None
            report = admitted.load()
            return Answer(reply, service.load(report.waited_s, report.served_s))

    async def _in_loop(self, service: _Service, value: Any, request: ServiceRequest) -> Any:
        token = _current.set(request)
        try:
            return await service.handler(value)
        finally:
            _current.reset(token)

    async def _run_in_thread(
        self, service: _Service, payload: msgspec.Raw, request: ServiceRequest
    ) -> Answer:
        started = False

        async def invoke(service: _Service, value: Any, request: ServiceRequest) -> Any:
            nonlocal started
            started = True
            return await _in_daemon_thread(self._loop, service.handler, value, request)

        work = self._loop.create_task(self._run(service, payload, request, invoke))
        self._threaded.add(work)  # type: ignore[arg-type]
        work.add_done_callback(self._thread_done)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not started:
                work.cancel()
            raise

    def _thread_done(self, work: asyncio.Task[Any]) -> None:
        self._threaded.discard(work)
        if not work.cancelled():
            work.exception()  # the waiter has it, or has gone

    async def close(self) -> None:
        """Abandon the handlers in threads: they end with the process, their results are dropped."""
        tasks = list(self._threaded)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _in_daemon_thread(
    loop: asyncio.AbstractEventLoop, handler: Handler, value: Any, request: ServiceRequest
) -> Any:
    """Run `handler(value)` in a daemon thread, which does not keep the process from ending.

    An executor's threads are joined at exit, so one that hangs would make the node unstoppable.
    """
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    context.run(_current.set, request)

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = context.run(handler, value)
        except StopIteration as error:  # cannot pass through a future
            failure = RuntimeError(f"the handler raised {error!r}")
        except BaseException as error:  # any exception is passed to the waiter
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            log.debug("%s ended after its node", request.service)

    threading.Thread(target=work, name=f"service {request.service}", daemon=True).start()
    return await done
