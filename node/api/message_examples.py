"""Examples of the stream's messages about the node itself and about orders, for its description."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from node.streams.node_messages import (
    Decisions,
    DiagnosticsState,
    FeedsState,
    HaltsState,
    PeersState,
    RouterState,
    ServicesState,
    StatusState,
    TopologyState,
)
from node.streams.order_messages import (
    Accepted,
    AmendOrder,
    CancelAfter,
    CancelAfterSet,
    CancelOnDisconnect,
    CancelOnDisconnectSet,
    CancelOrder,
    CancelOrders,
    Many,
    Outcome,
    Refused,
    Results,
    SubmitOrder,
)
from node.views.account_views import HaltView
from node.views.node_views import (
    CallsView,
    DiagnosticsView,
    DiscoveryView,
    FeedView,
    HintView,
    PeerView,
    RouterEventView,
    RouterView,
    RouteView,
    ServiceView,
    ServingView,
    StatusView,
    TopologyLinkView,
    TopologyNodeView,
    TopologyView,
)
from node.views.problem_view import Problem
from node.views.views import AmendRequest, OrderRequest, OrderView

_NODE: Final = "a2b3c4d5e6f7g2h3i4j5k6l7m2n3o4p5"
_OTHER: Final = "z7y6x5w4v3u2t7s6r5q4p3o2n7m6l5k4"
_TIME: Final = "2026-01-02T03:04:05.678Z"


def _place(stream: str) -> dict[str, Any]:
    return {"stream": stream, "epoch": "5f0c9a31-1", "sequence": 18, "previous": 17}


_STATUS: Final = StatusView(
    node_id=_NODE,
    version="0.2.0",
    network="mainnet",
    mode="p2p",
    security="tls",
    uptime_s=3725.5,
    data_dir="/var/lib/exchange-node",
    p2p_address="192.0.2.20:3000",
    api_url="http://127.0.0.1:8300",
    grenache=None,
    discovery=[DiscoveryView(name="mdns", state="on", detail="listening", found=1)],
    peers_connected=1,
    peers_known=2,
    nodes_present=2,
    markets=["BTC-USD"],
    open_orders=3,
    pending_takes=0,
    feeds=2,
    feeds_behind=0,
    services=["status"],
    warnings=[],
)
_DIAGNOSTICS: Final = DiagnosticsView(
    uptime_s=3725.5,
    orders=1200,
    fills=340,
    commits=900,
    commit_p50_ms=1.0,
    commit_p95_ms=5.0,
    commit_p99_ms=10.0,
    loop_lag_p95_ms=0.8,
    loop_lag_max_ms=4.2,
    memory_bytes=90_000_000,
    disk_free_bytes=20_000_000_000,
    data_bytes=3_000_000,
    journal_lag_ms=0.0,
    archive_behind=0,
    warnings=[],
)
_PEER: Final = PeerView(
    node_id=_OTHER,
    address="192.0.2.10",
    port=3000,
    status="connected",
    direction="out",
    source="manual",
    encrypted=True,
    carrier="tcp",
    version="0.2.0",
    capabilities=["orders"],
    connected_at=_TIME,
    last_seen=_TIME,
    last_heartbeat=_TIME,
    rtt_ms=0.9,
    failures=0,
    last_error=None,
    messages_received=40,
    messages_sent=38,
    bytes_received=9000,
    bytes_sent=8700,
)
_ROUTE: Final = RouteView(
    service="status",
    node=_OTHER,
    cost=0.0125,
    state="CLOSED",
    why="latency_s 0.0125",
    parts={"latency_s": 0.0125},
    hint_factor=1.0,
    slow_start=1.0,
    total_calls=7,
    success_count=7,
    error_count=0,
    timeout_count=0,
    in_flight=1,
    avg_latency_ms=10.25,
    window=16.0,
    rate=2000.0,
    last_seen_s=0.25,
)
_SERVICE: Final = ServiceView(
    name="status",
    nodes=[_NODE, _OTHER],
    serving=ServingView(
        workers=16,
        serving=0,
        waiting=0,
        served=3,
        busy=0,
        expired=0,
        service_ms=0.2,
        faults="",
    ),
    calls=CallsView(attempts=7, hedges=0, outcomes={"ok": 7}, mean_ms=10.25),
)
_PICK: Final = RouterEventView(
    time=_TIME,
    kind="pick",
    service="status",
    node=_OTHER,
    reason="lowest of 2 costs",
    detail={"cost": 0.0125},
)

NODE_EXAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    StatusState(**_place("status"), status=_STATUS),
    DiagnosticsState(**_place("diagnostics"), diagnostics=_DIAGNOSTICS),
    PeersState(**_place("peers"), peers=[_PEER]),
    TopologyState(
        **_place("topology"),
        topology=TopologyView(
            nodes=[
                TopologyNodeView(node_id=_NODE, distance=0, answered=True),
                TopologyNodeView(node_id=_OTHER, distance=1, answered=False),
            ],
            links=[TopologyLinkView(a=_NODE, b=_OTHER, carrier="tcp")],
        ),
    ),
    FeedsState(
        **_place("feeds"),
        feeds=[
            FeedView(
                owner=_OTHER,
                market="BTC-USD",
                number=17,
                announced=20,
                behind=3,
                open_orders=2,
                way="direct",
            )
        ],
    ),
    ServicesState(**_place("services"), services=[_SERVICE]),
    RouterState(
        **_place("router"),
        router=RouterView(
            policy="adaptive",
            routes=[_ROUTE],
            hints=[HintView(node=_OTHER, origin=_NODE, signal="DEGRADED", weight=0.5)],
            events=[],
        ),
    ),
    Decisions(**_place("decisions"), omitted=0, decisions=[_PICK]),
    HaltsState(
        **_place("halts"),
        halts=[HaltView(market="BTC-USD", halted=True, reason="prices in doubt")],
    ),
)


# Orders


def _order(filled: str, pending: str, remaining: str, status: str) -> OrderView:
    return OrderView(
        id=f"{_NODE}-12",
        number=12,
        market="BTC-USD",
        side="buy",
        type="limit",
        price="30000",
        quantity="0.5",
        filled=filled,
        remaining=remaining,
        pending=pending,
        status=status,  # type: ignore[arg-type]
        average_price="30000" if filled != "0" else None,
        created=_TIME,
        client_id="bid-7",
        updated=_TIME,
    )


_REQUEST: Final = OrderRequest(
    market="BTC-USD", side="buy", quantity="0.5", price="30000", client_id="bid-7"
)
_REFUSED: Final = Refused(
    id="3",
    op="cancel",
    problem=Problem(
        type="/docs#problem-unknown_order",
        title="Unknown order",
        status=404,
        detail="this node has no order 13",
        code="unknown_order",
        instance="/v1/stream",
    ),
)
_ACCEPTED: Final = Accepted(
    id="1", op="submit", decided=False, orders=[_order("0", "0.3", "0.2", "open")]
)

ORDER_EXAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    SubmitOrder(id="1", order=_REQUEST),
    SubmitOrder(
        id="2",
        order=OrderRequest(market="BTC-USD", side="sell", quantity="0.1", tif="ioc"),
        wait_for_takes=True,
        account="alice",
    ),
    AmendOrder(id="4", client_id="bid-7", changes=AmendRequest(price="30010")),
    CancelOrder(id="3", order_id="13"),
    CancelOrders(id="5", market="BTC-USD"),
    CancelOrders(id="6", all=True),
    CancelAfter(id="7", timeout_ms=60_000),
    CancelOnDisconnect(id="8", enabled=True),
    Many(
        id="9",
        requests=[SubmitOrder(id="1", order=_REQUEST), CancelOrder(id="3", order_id="13")],
    ),
    _ACCEPTED,
    _REFUSED,
    Outcome(id="1", op="submit", orders=[_order("0.3", "0", "0.2", "open")]),
    Results(id="9", results=[_ACCEPTED, _REFUSED]),
    CancelAfterSet(id="7", at=_TIME),
    CancelOnDisconnectSet(id="8", enabled=True),
)
