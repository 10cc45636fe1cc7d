"""Traces of real nodes, received by a collector over OTLP."""

from __future__ import annotations

import asyncio
import gzip
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from processes import NodeProcess, Nodes, eventually, see_each_other

from node.client.streaming_client import StreamingClient
from node.views.views import OrderRequest

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Collector of traces over HTTP. `spans`: (node that reported it, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    about = {a.key: a.value.string_value for a in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        spans.extend((about["service.instance.id"], s) for s in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def found(self, name: str, node: NodeProcess | None = None) -> list[Span]:
        return [
            s for by, s in self.spans if s.name == name and (node is None or node.node_id == by)
        ]

    def one(self, name: str, node: NodeProcess) -> Span:
        eventually(lambda: self.found(name, node), what=f"a span {name}")
        (span,) = self.found(name, node)
        return span


def attributes(span: Span) -> dict[str, Any]:
    return {
        a.key: a.value.int_value if a.value.HasField("int_value") else a.value.string_value
        for a in span.attributes
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(collector: Collector) -> dict[str, str]:
    return {
        "TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


def post(node: NodeProcess, path: str, body: bytes, **headers: str) -> None:
    request = urllib.request.Request(
        node.api_url + path, body, {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in (200, 201)


def test_one_trace_holds_request_order_take_decision_and_fills_of_two_nodes(
    nodes: Nodes, collector: Collector, traced: dict[str, str]
) -> None:
    taker, maker = nodes.pair(**traced)
    maker.sell(5, 100)
    eventually(lambda: taker.asks(), what="the maker's order")
    body = b'{"market":"TEST-USD","side":"buy","quantity":"2","price":"100"}'
    post(taker, "/v1/orders", body, traceparent=PARENT)
    eventually(lambda: len(collector.found("fill")) >= 2, what="the fills")
    eventually(lambda: collector.found("order", taker), what="the order")

    request, order = collector.one("POST /v1/orders", taker), collector.one("order", taker)
    take, decision = collector.one("take", taker), collector.one("decide", maker)
    fill, other_fill = collector.one("fill", taker), collector.one("fill", maker)
    trace = PARENT.split("-")[1]
    for span in (request, order, take, decision, fill, other_fill):
        assert span.trace_id.hex() == trace, span.name
    assert request.parent_span_id.hex() == PARENT.split("-")[2]
    assert order.parent_span_id == request.span_id
    assert take.parent_span_id == order.span_id
    assert decision.parent_span_id == take.span_id
    assert fill.parent_span_id == take.span_id
    assert other_fill.parent_span_id == decision.span_id
    assert attributes(request)["http.response.status_code"] == 201
    assert attributes(take)["exchange_node.maker"] == maker.node_id
    assert attributes(decision)["exchange_node.filled_lots"] > 0
    assert attributes(other_fill)["exchange_node.role"] == "maker"


async def test_an_order_over_the_stream_is_traced_to_its_fill(
    nodes: Nodes, collector: Collector, traced: dict[str, str]
) -> None:
    taker, maker = await asyncio.to_thread(nodes.pair, **traced)
    await asyncio.to_thread(maker.sell, 5, 100)
    await asyncio.to_thread(eventually, lambda: taker.asks(), what="the maker's order")
    async with StreamingClient(taker.api_url) as client:
        request = OrderRequest(market="TEST-USD", side="buy", quantity="2", price="100")
        await (await client.submit(request)).outcome()
    order = await asyncio.to_thread(collector.one, "order", taker)
    take = await asyncio.to_thread(collector.one, "take", taker)
    decision = await asyncio.to_thread(collector.one, "decide", maker)
    assert take.parent_span_id == order.span_id
    assert decision.parent_span_id == take.span_id
    assert attributes(order)["exchange_node.pending_lots"] > 0


def test_a_maker_that_does_not_trace_fills_all_the_same(
    nodes: Nodes, collector: Collector, traced: dict[str, str]
) -> None:
    maker = nodes.start("maker")
    taker = nodes.start("taker", bootstrap=maker.p2p_address, **traced)
    see_each_other(taker, maker)
    maker.sell(5, 100)
    eventually(lambda: taker.asks(), what="the maker's order")
    taker.buy(2, 100)
    take = collector.one("take", taker)
    assert attributes(take)["exchange_node.filled_lots"] > 0
    assert not collector.found("decide")


def test_a_call_is_traced_through_its_attempt_to_the_worker(
    nodes: Nodes, collector: Collector, traced: dict[str, str]
) -> None:
    caller, worker = nodes.pair(**traced)
    to = worker.node_id
    body = f'{{"payload":{{}},"node":"{to}"}}'.encode()
    eventually(
        lambda: any(to in view.nodes for view in caller.ask(lambda client: client.services())),
        what="the worker to be known",
    )
    post(caller, "/v1/services/status/call", body)
    served = collector.one("serve status", worker)
    attempt, call = collector.one("attempt status", caller), collector.one("call status", caller)
    assert (served.parent_span_id, attempt.parent_span_id) == (attempt.span_id, call.span_id)
    assert served.trace_id == call.trace_id
