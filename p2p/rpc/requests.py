# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""Requests and responses between nodes, both sides, without I/O. `p2p.rpc.rpc` has the awaitable form.

A request carries how long its caller still waits, in ms from arrival: no clock is compared with another.
It is answered once, or not at all when the caller cancelled or the deadline passed. A response counts only
from the node that was asked. Ids start at random, so that a late answer to an earlier life of this node
meets no open request. A request goes out at once or fails at once (it never waits in a queue, where its
deadline would grow stale); a response may wait as long as its caller does.

Nothing makes a request happen exactly once: after a timeout the caller does not know. What must not be
done twice carries its own id in the body.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

import msgspec

from p2p.base import limits
from p2p.base.errors import DeliveryError, LinkClosed, RpcTimeout
from p2p.ground.keyed_heap import KeyedHeap
from p2p.mesh.routed_messages import Handler, Received, Way
from p2p.wire.messages import Codec, Load, RpcCancel, RpcRequest, RpcResponse, pack

MAX_METHOD_LENGTH: Final = 64
MAX_ERROR_LENGTH: Final = 500  # characters of a message that a stranger chose
ID_BITS: Final = 62

Outcome = RpcResponse | RpcTimeout | DeliveryError | LinkClosed


class MessageSender(Protocol):
    """The part of `p2p.mesh.message_router.MessageRouter` that RPC uses."""

    def send(
        self, now: float, to: str, type: str, payload: bytes, *, queue_for: float | None = None
    ) -> Way: ...

    def handle(self, type: str, handler: Handler) -> None: ...


class Call(msgspec.Struct, frozen=True):
    """A request being served. `deadline`: seconds, on the clock of this node."""

    caller: str
    id: int
    method: str
    body: bytes
    deadline: float


Start = Callable[[float, Call], None]
"""Begins to serve a call; ends with `RpcCore.respond` or `RpcCore.fail`, at once or later."""


@dataclass(slots=True)
class _Asked:
    to: str
    method: str
    deadline: float
    needs_link: bool = False  # given up when the link that it went over is lost


@dataclass(slots=True)
class _Load:
    """Number and bytes of the calls being served."""

    calls: int = 0
    bytes: int = 0

    def add(self, call: Call, sign: int) -> None:
        self.calls += sign
        self.bytes += sign * len(call.body)

    def full(self, call: Call, max_calls: int, max_bytes: int) -> bool:
        # A single call is always let in: its size is bounded by the frame's.
        return self.calls >= max_calls or bool(
            self.calls and self.bytes + len(call.body) > max_bytes
        )


class RpcCore:
    """Both sides of requests, driven by messages and the time. Registers itself with the router.

    `on_abort` is called with calls that are no longer awaited: cancelled, or past their deadline.
    After each call of `request`, `receive` or `tick`, `take_results` has what became of requests.
    """

    def __init__(
        self,
        sender: MessageSender,
        *,
        rng: random.Random,
        on_abort: Callable[[float, Call], None] | None = None,
        max_in_flight: int = limits.RPC_MAX_IN_FLIGHT,
        max_deadline: float = limits.RPC_MAX_DEADLINE,
    ) -> None:
        self._sender = sender
        self._on_abort = on_abort
        self._max_in_flight = max_in_flight
        self._max_deadline = max_deadline
        self._codec = Codec()
        self.handlers: dict[str, Start] = {}
        self.closing = False  # new requests are answered "closed"
        self._next_id = rng.getrandbits(ID_BITS)
        self._asked: dict[int, _Asked] = {}
        self._serving: dict[str, dict[int, Call]] = {}
        self._load: dict[str, _Load] = {}  # per caller, as long as it has calls
        self._load_all = _Load()
        self._deadlines: KeyedHeap[tuple[str, int], float] = (
            KeyedHeap()
        )  # (caller, id); own: caller ""
        self._results: list[tuple[int, Outcome]] = []
        self.counters: dict[str, int] = {
            "requests": 0,
            "timeouts": 0,
            "undeliverable": 0,
            "stray_responses": 0,  # from the wrong node, or to no open request
            "served": 0,
            "refused_busy": 0,
            "refused_unknown": 0,
            "refused_expired": 0,
            "duplicates": 0,
            "aborted": 0,
            "responses_lost": 0,
        }
        sender.handle("request", self.receive)
        sender.handle("response", self.receive)
        sender.handle("cancel", self.receive)

    # Asking

    def request(
        self,
        now: float,
        to: str,
        method: str,
        body: bytes,
        timeout: float,
        *,
        needs_link: bool = False,
    ) -> int:
        """Send a request to `to`; returns the id of the outcome among the results. `timeout`: seconds.

        `needs_link`: if it goes over a link to `to` and that link is lost, do not wait for an answer
        that may still come another way.

        Raises:
            ValueError: the request cannot be sent to anyone (too large, no node id, own id).
        """
        request_id = self._next_id
        self._next_id = (self._next_id + 1) % (1 << ID_BITS)
        request = RpcRequest(request_id, method, max(1, round(timeout * 1000)), body)
        self.counters["requests"] += 1
        try:
            way = self._sender.send(now, to, "request", pack(request))
        except DeliveryError as error:
            self.counters["undeliverable"] += 1
            self._results.append((request_id, error))
            return request_id
        self._asked[request_id] = _Asked(
            to, method, now + timeout, needs_link and way in (Way.DIRECT, Way.GRENACHE)
        )
        self._deadlines.set(("", request_id), now + timeout)
        return request_id

    def cancel(self, now: float, request_id: int) -> None:
        """Cancel a request. No result follows. Safe when it has ended."""
        asked = self._asked.pop(request_id, None)
        if asked is None:
            return
        self._deadlines.discard(("", request_id))
        # If this is lost, the deadline ends the work over there.
        with contextlib.suppress(DeliveryError):
            self._sender.send(now, asked.to, "cancel", pack(RpcCancel(request_id)))

    def link_down(self, peer: str) -> None:
        """End the requests that need the link to `peer`, which is gone, with `LinkClosed`."""
        lost = [i for i, asked in self._asked.items() if asked.needs_link and asked.to == peer]
        for request_id in lost:
            asked = self._asked.pop(request_id)
            self._deadlines.discard(("", request_id))
            error = LinkClosed(f"the link to {peer} was lost before it answered {asked.method}")
            self._results.append((request_id, error))

    def take_results(self) -> list[tuple[int, Outcome]]:
        """Return the outcomes of requests since the last call, in order."""
        taken, self._results = self._results, []
        return taken

    # Serving

    def in_flight(self, caller: str) -> int:
        """Return the number of requests of `caller` being served."""
        load = self._load.get(caller)
        return load.calls if load is not None else 0

    def respond(self, now: float, call: Call, body: bytes, load: Load | None = None) -> None:
        """Answer a call with a msgpack body. Does nothing if the call has ended."""
        if not self._finish(call):
            return
        try:
            self._reply(now, call, RpcResponse(call.id, body=body, load=load))
        except ValueError as error:
            self._reply(now, call, RpcResponse(call.id, error="too_large", message=str(error)))

    def fail(
        self, now: float, call: Call, code: str, message: str = "", retry_after_s: float = 0.0
    ) -> None:
        """Answer a call with an error. Does nothing if the call has ended."""
        if self._finish(call):
            response = RpcResponse(
                call.id,
                error=code[:MAX_METHOD_LENGTH],
                message=message[:MAX_ERROR_LENGTH],
                retry_after=ceil(max(0.0, retry_after_s) * 1000),
            )
            self._reply(now, call, response)

    def _reply(self, now: float, call: Call, response: RpcResponse) -> None:
        try:
            remaining = max(0.0, call.deadline - now)
            self._sender.send(
                now, call.caller, "response", pack(response), queue_for=remaining or None
            )
        except DeliveryError:
            self.counters["responses_lost"] += 1

    def _finish(self, call: Call) -> bool:
        """Remove the call from those being served; False if it was not among them."""
        calls = self._serving.get(call.caller)
        if calls is None or calls.get(call.id) is not call:
            return False
        del calls[call.id]
        self._load[call.caller].add(call, -1)
        self._load_all.add(call, -1)
        if not calls:
            del self._serving[call.caller]
            del self._load[call.caller]
        self._deadlines.discard((call.caller, call.id))
        return True

    def _abort(self, now: float, caller: str, request_id: int) -> None:
        call = self._serving.get(caller, {}).get(request_id)
        if call is not None and self._finish(call):
            self.counters["aborted"] += 1
            if self._on_abort is not None:
                self._on_abort(now, call)

    # Messages and time

    def receive(self, received: Received) -> bool:
        """Handle requests, responses and cancels from the router."""
        if received.broadcast:
            return False
        message = self._codec.payload(received.type, received.payload)
        match message:
            case RpcRequest():
                return self._on_request(received.now, received.origin, message)
            case RpcResponse():
                self._on_response(received.origin, message)
            case RpcCancel():
                self._abort(received.now, received.origin, message.id)
        return True

    def _on_request(self, now: float, caller: str, request: RpcRequest) -> bool:
        if not 0 <= request.id < 1 << 63 or len(request.method) > MAX_METHOD_LENGTH:
            return False
        if request.deadline <= 0:
            self.counters["refused_expired"] += 1
            return True
        calls = self._serving.get(caller, {})
        if request.id in calls:
            self.counters["duplicates"] += 1
            return True
        deadline = now + min(request.deadline / 1000, self._max_deadline)
        call = Call(caller, request.id, request.method, request.body, deadline)
        start = self.handlers.get(call.method)
        if self.closing:
            self._reply(now, call, RpcResponse(call.id, error="closed", message="stopping"))
        elif start is None:
            self.counters["refused_unknown"] += 1
            self._reply(
                now, call, RpcResponse(call.id, error="unknown_method", message=call.method)
            )
        elif self._busy(call):
            self.counters["refused_busy"] += 1
            text = f"{len(calls)} of your requests are being served"
            self._reply(now, call, RpcResponse(call.id, error="busy", message=text))
        else:
            self.counters["served"] += 1
            calls[call.id] = call
            self._serving[caller] = calls
            self._load.setdefault(caller, _Load()).add(call, 1)
            self._load_all.add(call, 1)
            self._deadlines.set((caller, call.id), deadline)
            start(now, call)
        return True

    def _busy(self, call: Call) -> bool:
        own = self._load.get(call.caller, _Load())
        return own.full(call, self._max_in_flight, limits.RPC_MAX_BYTES) or self._load_all.full(
            call, limits.RPC_MAX_IN_FLIGHT_ALL, limits.RPC_MAX_BYTES_ALL
        )

    def _on_response(self, origin: str, response: RpcResponse) -> None:
        asked = self._asked.get(response.id)
        if asked is None or asked.to != origin:
            self.counters["stray_responses"] += 1
            return
        del self._asked[response.id]
        self._deadlines.discard(("", response.id))
        self._results.append((response.id, response))

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        return self._deadlines.least()

    def tick(self, now: float) -> None:
        """End requests and calls that are past their deadline."""
        while (due := self._deadlines.pop(now)) is not None:
            caller, request_id = due
            if caller:
                self._abort(now, caller, request_id)
                continue
            asked = self._asked.pop(request_id)
            self.counters["timeouts"] += 1
            error = RpcTimeout(f"{asked.to} did not answer {asked.method} in time")
            self._results.append((request_id, error))
