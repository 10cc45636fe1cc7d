"""Tracing of a running node."""

from __future__ import annotations

from collections.abc import Sequence

from node.annexes.tracing.exporter import Tracing
from node.daemon.node import Node
from node.parts.annex import NodeContext, NodePart


class TracingPart(NodePart):
    """Spans of requests, orders and service calls."""

    name = "tracing"
    sees_orders = True

    def __init__(self, context: NodeContext) -> None:
        self._parts: Sequence[NodePart] = ()
        self._tracing = Tracing(context.identity.node_id, note=self._note)
        self.order_tracer = self.order_spans = self._tracing.orders
        self.call_tracer = self._tracing.calls
        self.middleware = self._tracing.requests.middleware

    def attach(self, node: Node) -> None:
        self._parts = node.parts

    def _note(self, order: int, traceparent: str) -> None:
        for part in self._parts:
            part.traced(order, traceparent)

    async def close(self) -> None:
        await self._tracing.close()
