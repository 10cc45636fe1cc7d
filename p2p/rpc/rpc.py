# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""RPC on the event loop: requests as awaitables, handlers as tasks, over `p2p.rpc.requests`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from p2p.base import limits
from p2p.base.errors import RpcError
from p2p.ground.owned_tasks import OwnedTasks
from p2p.mesh.routed_messages import Handler, Received
from p2p.rpc.requests import (
    MAX_ERROR_LENGTH,
    MAX_METHOD_LENGTH,
    Call,
    MessageSender,
    Outcome,
    RpcCore,
)
from p2p.wire.messages import Load, pack

log = logging.getLogger(__name__)

ServeHandler = Callable[[str, Any], Awaitable[Any]]
CallHandler = Callable[[Call, Any], Awaitable[Any]]


class Answer(msgspec.Struct, frozen=True):
    """A result with the load that its sender reports. A handler may return one."""

    value: Any
    load: Load | None = None


class Rpc:
    """Requests as awaitables, on the running event loop.

    `flush` is called whenever the router may have something to send. The owner closes it.
    """

    def __init__(
        self,
        sender: MessageSender,
        *,
        rng: random.Random,
        flush: Callable[[], None],
        max_in_flight: int = limits.RPC_MAX_IN_FLIGHT,
    ) -> None:
        self._core = RpcCore(
            _Watched(sender, self._after_message),
            rng=rng,
            on_abort=self._on_abort,
            max_in_flight=max_in_flight,
        )
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._tasks = OwnedTasks(log)
        self._serving: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle for a time that is now does not know it
        self._closed = False

    @property
    def counters(self) -> dict[str, int]:
        return self._core.counters

    @property
    def in_flight(self) -> int:
        """Number of own requests that wait for an answer."""
        return len(self._waiting)

    def serve(self, method: str, handler: ServeHandler, *, body_type: Any = Any) -> None:
        """Serve `method`: the answer is the result of `handler(caller, body)`, or the `RpcError` that it
        raises.

        `body_type`: what the body is decoded to; a body of another shape is answered "bad_request".
        """

        async def with_caller(call: Call, body: Any) -> Any:
            return await handler(call.caller, body)

        self.serve_calls(method, with_caller, body_type=body_type)

    def serve_calls(self, method: str, handler: CallHandler, *, body_type: Any = Any) -> None:
        """Serve as `serve`, with a handler that takes the whole call, its deadline included. It may return
        an `Answer` with a load.
        """
        decoder = msgspec.msgpack.Decoder(body_type)

        def start(now: float, call: Call) -> None:
            task = self._tasks.start(self._serve(call, handler, decoder))
            key = (call.caller, call.id)
            self._serving[key] = task
            task.add_done_callback(lambda done: self._task_done(key, done))

        self._core.handlers[method] = start

    async def call(
        self,
        to: str,
        method: str,
        payload: Any = None,
        *,
        timeout: float = limits.RPC_TIMEOUT,
        result_type: Any = Any,
    ) -> Any:
        """Return the answer of `to` to `method`. Cancelling this cancels the work at the other side.

        Raises: as `ask`.
        """
        answer = await self.ask(to, method, payload, timeout=timeout, result_type=result_type)
        return answer.value

    async def ask(
        self,
        to: str,
        method: str,
        payload: Any = None,
        *,
        timeout: float = limits.RPC_TIMEOUT,
        result_type: Any = Any,
        needs_link: bool = False,
    ) -> Answer:
        """Return the answer as `call` does, with the load that came with it. `needs_link`: see
        `RpcCore.request`.

        Raises:
            LinkClosed: with `needs_link`, the link was lost.
            DeliveryError: no way to the node.
            RpcTimeout: no answer within `timeout` seconds.
            RpcError: it answered with an error ("busy", "unknown_method", "internal", or the method's
                own), the answer is not a `result_type` ("bad_response"), or this was closed ("closed").
            ValueError: the request is too large, or `to` is no node id or this node's own.
        """
        if self._closed:
            raise RpcError("closed", "this node is stopping")
        request_id = self._core.request(
            self._loop.time(), to, method, pack(payload), timeout, needs_link=needs_link
        )
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting[request_id] = future
        self._settle()
        try:
            outcome = await future
        except asyncio.CancelledError:
            self._core.cancel(self._loop.time(), request_id)
            self._settle()
            raise
        finally:
            self._waiting.pop(request_id, None)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.error:
            raise RpcError(
                outcome.error[:MAX_METHOD_LENGTH],
                outcome.message[:MAX_ERROR_LENGTH],
                retry_after_s=max(0, outcome.retry_after) / 1000,
            )
        try:
            value = msgspec.msgpack.decode(outcome.body, type=result_type)
            return Answer(value, outcome.load)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RpcError("bad_response", f"{method}: {error}") from error

    def link_down(self, peer: str) -> None:
        """End requests that need the link, see `RpcCore.link_down`."""
        self._core.link_down(peer)
        self._settle()

    async def close(self) -> None:
        """Stop serving and waiting; every open call ends with `RpcError("closed")`."""
        self._closed = True
        self._core.closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request_id, future in list(self._waiting.items()):
            self._core.cancel(self._loop.time(), request_id)
            if not future.done():
                future.set_exception(RpcError("closed", "this node is stopping"))
        await self._tasks.close()
        self._flush()

    async def _serve(
        self, call: Call, handler: CallHandler, decoder: msgspec.msgpack.Decoder[Any]
    ) -> None:
        if self._loop.time() >= call.deadline:  # the loop was busy: the call is no longer awaited
            self._core.tick(self._loop.time())
            return
        try:
            body = decoder.decode(call.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._core.fail(self._loop.time(), call, "bad_request", str(error))
            self._settle()
            return
        try:
            answer = await handler(call, body)
            if not isinstance(answer, Answer):
                answer = Answer(answer)
            packed = pack(answer.value)
        except RpcError as error:
            self._core.fail(self._loop.time(), call, error.code, error.message, error.retry_after_s)
        except asyncio.CancelledError:
            # Sent to the caller unless the caller ended the call; then the call is off the list.
            self._core.fail(self._loop.time(), call, "closed" if self._closed else "internal")
            self._settle()
            raise
        except Exception as error:
            log.exception("serving %s failed", call.method)
            # The type's name and no more: a message may hold what is not the caller's to know.
            self._core.fail(self._loop.time(), call, "internal", type(error).__name__)
        else:
            self._core.respond(self._loop.time(), call, packed, answer.load)
        self._settle()

    def _task_done(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        if self._serving.get(key) is task:
            del self._serving[key]

    def _on_abort(self, now: float, call: Call) -> None:
        task = self._serving.get((call.caller, call.id))
        if task is not None:
            task.cancel()

    def _after_message(self) -> None:
        # The router's driver flushes after every message; doing it here would reenter the router.
        self._settle(flush=False)

    def _settle(self, *, flush: bool = True) -> None:
        """Deliver results, set the timer, let the router send."""
        for request_id, outcome in self._core.take_results():
            future = self._waiting.get(request_id)
            if future is not None and not future.done():
                future.set_result(outcome)
        deadline = self._core.next_deadline()
        if self._timer is not None and self._timer_at != deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None and not self._closed:
            self._timer = self._loop.call_at(deadline, self._on_timer)
            self._timer_at = deadline
        if flush:
            self._flush()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.tick(self._loop.time())
        self._settle()


class _Watched:
    """A sender that calls `after` after each handler: results are delivered as messages arrive."""

    def __init__(self, sender: MessageSender, after: Callable[[], None]) -> None:
        self.send = sender.send
        self._handle = sender.handle
        self._after = after

    def handle(self, type: str, handler: Handler) -> None:
        def watched(received: Received) -> bool | None:
            try:
                return handler(received)
            finally:
                self._after()

        self._handle(type, watched)
