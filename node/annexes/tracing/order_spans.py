"""Spans of orders across nodes: order, take, the maker's decision, fills.

Theory of operation. An order's span is open until its answer. The trace context of a take travels as one
more field, `traceparent`, of the take's message: nodes that do not trace, and older ones, ignore fields
that they do not know. The take's span, at the taker, ends with the answer; the decision's, at the maker,
ends when the answer leaves, which is after the decision is durable. Fills are spans without a length
under the take, the decision or, between two own orders, the order.

Nothing here decides anything: what is forgotten, because a map is full, is only missing in the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from exchange.feeds.exchange_messages import Take, TakeResult, pack
from exchange.model.ports import Send
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import Drained
from exchange.takes.take_protocol import RESERVED
from node.annexes.tracing.trace_context import context_at, context_of, traceparent_of
from p2p.ground.bounded_map import BoundedMap
from p2p.mesh.routed_messages import Received

MAX_OPEN: Final = 10_000  # orders, takes and decisions each
_KEPT: Final = 1000  # decided takes and decisions whose fills are still to come

TakeKey = tuple[str, int]  # the other node, number of the take


_decode_take = msgspec.msgpack.Decoder(Take).decode
_decode_result = msgspec.msgpack.Decoder(TakeResult).decode


class OrderSpans:
    """Spans of one node's orders, takes and decisions."""

    def __init__(
        self, tracer: Tracer, note: Callable[[int, str], None] = lambda order, traceparent: None
    ) -> None:
        """`note` gets number and trace context of each own order."""
        self._note = note
        self._tracer = tracer
        self._orders: BoundedMap[int, Context] = BoundedMap(MAX_OPEN)
        self._takes: BoundedMap[TakeKey, Span] = BoundedMap(MAX_OPEN, _abandon)
        self._decided: BoundedMap[TakeKey, Context] = BoundedMap(_KEPT)  # takes
        self._decisions: BoundedMap[TakeKey, Span] = BoundedMap(MAX_OPEN, _abandon)

    @contextmanager
    def order(self, placed: Sequence[Order]) -> Iterator[None]:
        """Open the span of orders that were just accepted, until their answer."""
        with self._tracer.start_as_current_span(
            "order", attributes=_order_attributes(placed[0]), record_exception=False
        ) as span:
            self._follow(placed, span)
            yield
            _answered(placed[0], span)

    def begin(self, placed: Sequence[Order]) -> Callable[[], None]:
        """Open the span of orders as `order` does; the returned handle ends it."""
        span = self._tracer.start_span("order", attributes=_order_attributes(placed[0]))
        self._follow(placed, span)

        def end() -> None:
            _answered(placed[0], span)
            span.end()

        return end

    def _follow(self, placed: Sequence[Order], span: Span) -> None:
        context = context_at(span)
        for order in placed:
            self._orders[order.number] = context
            self._note(order.number, traceparent_of(span))

    def sent(self, message: Send) -> bytes:
        """Return the payload that leaves instead: a take with its trace context."""
        if message.type == "take":
            return self._take_sent(message)
        if message.type == "take_result":
            self._decision_sent(message.to, _decode_result(message.payload))
        return message.payload

    def _take_sent(self, message: Send) -> bytes:
        take = _decode_take(message.payload)
        key = (message.to, take.take)
        span = self._takes.get(key)
        if span is None:
            parent = self._orders.get(take.taker_order)
            if parent is None:
                return message.payload
            attributes = {**_take_attributes(take), "exchange_node.maker": message.to}
            span = self._tracer.start_span("take", parent, SpanKind.CLIENT, attributes)
            self._takes[key] = span
        else:
            span.add_event("sent again" if take.phase != "commit" else "commit")
        return pack(msgspec.structs.replace(take, traceparent=traceparent_of(span)))

    def _decision_sent(self, taker: str, result: TakeResult) -> None:
        span = self._decisions.pop((taker, result.take), None)
        if span is not None:
            _end(span, result)

    def received(self, received: Received) -> None:
        """Note a message from another node that the engine has found valid."""
        if received.type == "take":
            take = _decode_take(received.payload)
            key = (received.origin, take.take)
            if key not in self._decisions and take.traceparent:
                self._decisions[key] = self._tracer.start_span(
                    "decide",
                    context_of(take.traceparent),
                    SpanKind.SERVER,
                    {**_take_attributes(take), "exchange_node.taker": received.origin},
                )
        elif received.type == "take_result":
            result = _decode_result(received.payload)
            key = (received.origin, result.take)
            span = self._takes.get(key)
            if span is None:
                return
            if result.reason == RESERVED:
                span.add_event("reserved")
                return
            del self._takes[key]
            self._decided[key] = context_at(span)
            _end(span, result)

    def drained(self, drained: Drained) -> None:
        """Add the fills that have become durable, before their messages leave."""
        for fill in drained.fills:
            context = self._context_of(fill)
            if context is not None:
                self._tracer.start_span("fill", context, attributes=_fill_attributes(fill)).end()

    def _context_of(self, fill: Fill) -> Context | None:
        key = (fill.counterparty, fill.take)
        if fill.role == "maker" and (span := self._decisions.get(key)) is not None:
            return context_at(span)
        found = self._decided.get(key) if fill.role == "taker" else None
        return self._orders.get(fill.order) if found is None else found

    def close(self) -> None:
        """End open spans as unanswered."""
        for spans in (self._takes, self._decisions):
            for key, span in spans.items():
                _abandon(key, span)
            spans.clear()


def _abandon(_key: TakeKey, span: Span) -> None:
    """End the span of a take or a decision that is not followed to its end."""
    span.set_status(Status(StatusCode.ERROR, "no answer was seen"))
    span.end()


def _symbol(market: str) -> str:
    return market.partition("@")[0]


def _order_attributes(order: Order) -> dict[str, str | int]:
    return {
        "exchange_node.order": order.number,
        "exchange_node.market": _symbol(order.market),
        "exchange_node.side": "buy" if order.side > 0 else "sell",
        "exchange_node.account": order.account,
    }


def _answered(order: Order, span: Span) -> None:
    span.set_attribute("exchange_node.filled_lots", order.filled)
    span.set_attribute("exchange_node.pending_lots", order.pending)


def _take_attributes(take: Take) -> dict[str, str | int]:
    return {
        "exchange_node.take": take.take,
        "exchange_node.market": _symbol(take.market),
        "exchange_node.maker_order": take.order,
        "exchange_node.order": take.taker_order,
        "exchange_node.lots": take.quantity,
        "exchange_node.phase": take.phase or "fill",
    }


def _fill_attributes(fill: Fill) -> dict[str, str | int]:
    return {
        "exchange_node.role": fill.role,
        "exchange_node.market": _symbol(fill.market),
        "exchange_node.order": fill.order,
        "exchange_node.take": fill.take,
        "exchange_node.price_ticks": fill.price,
        "exchange_node.lots": fill.quantity,
    }


def _end(span: Span, result: TakeResult) -> None:
    span.set_attribute("exchange_node.filled_lots", result.quantity)
    if result.reason:
        span.set_attribute("exchange_node.reason", result.reason)
    span.end()
