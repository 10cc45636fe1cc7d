"""The network side of a node for tests of API and command line: what a node of two would report, without sockets."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from node.views.node_views import (
    CallRequest,
    CallsView,
    CallView,
    DiagnosticsView,
    DiscoveryView,
    FeedView,
    GrapeView,
    GrenacheView,
    HintView,
    OwnGrapeView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    ReadyCheck,
    ReadyView,
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
from node.views.views import ServiceError

T = TypeVar("T", bound=msgspec.Struct)
TIME = "2026-01-02T03:04:05.678Z"


def sample(kind: type[T], /, **given: Any) -> T:
    """A view with the given fields; required fields that are not given are empty or 0."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    return kind(**{f.name: _empty(f.type) for f in shape.fields if f.required} | given)


def _empty(shape: Any) -> Any:
    match shape:
        case inspect.Metadata():
            return TIME if (shape.extra_json_schema or {}).get("format") else _empty(shape.type)
        case inspect.UnionType():
            return None
        case inspect.LiteralType():
            return shape.values[0]
        case inspect.StructType():
            return sample(shape.cls)
    empty = {
        inspect.BoolType: False,
        inspect.IntType: 0,
        inspect.FloatType: 0.0,
        inspect.StrType: "",
    }
    return empty.get(type(shape), [] if isinstance(shape, inspect.ListType) else {})


class CannedNetwork:
    """`Reports`, `PeerService` and `ServiceCalls` of node `me`, which has one peer."""

    def __init__(self, me: str, peer: str) -> None:
        self.me, self.peer = me, peer
        self.unready = ""  # reason why it is not
        self.peer_rules = PeerPolicyView(pins=[], bans=[], allow=[])
        self.known_peers = [self._peer(peer, "192.168.1.20", 3000, "mdns")]
        self.calls: list[tuple[object, ...]] = []
        self.last_call: CallRequest | None = None

    def _peer(self, node_id: str, address: str, port: int, source: str) -> PeerView:
        return sample(
            PeerView, node_id=node_id, address=address, port=port, source=source, direction="out",
            encrypted=True, carrier="tcp", version="1.0.0", capabilities=["order", "trade"],
            last_seen=TIME, last_heartbeat=TIME, rtt_ms=0.42,
        )  # fmt: skip

    # Reports

    def peers(self) -> list[PeerView]:
        return list(self.known_peers)

    def ready(self) -> ReadyView:
        checks = [ReadyCheck(name="disk", ok=not self.unready, reason=self.unready or "fine")]
        return ReadyView(ready=not self.unready, checks=checks)

    def diagnostics(self) -> DiagnosticsView:
        return sample(DiagnosticsView)

    async def topology(self) -> TopologyView:
        nodes = [
            TopologyNodeView(node_id=self.me, distance=0, answered=True),
            TopologyNodeView(node_id=self.peer, distance=1, answered=False),
        ]
        link = TopologyLinkView(a=self.me, b=self.peer, carrier="tcp")
        return TopologyView(nodes=nodes, links=[link])

    def feeds(self) -> list[FeedView]:
        return [
            sample(FeedView, owner=self.peer, market="BTC-USD", number=17, announced=20, behind=3)
        ]

    def status(self) -> StatusView:
        return sample(
            StatusView,
            node_id=self.me,
            version="0.1.0",
            network="mainnet",
            uptime_s=3725.5,
            data_dir="/var/lib/exchange-node",
            p2p_address="0.0.0.0:3000",
            api_url="http://127.0.0.1:8080",
            grenache=sample(
                GrenacheView,
                rpc_address="0.0.0.0:3100",
                grapes=[sample(GrapeView, url="http://127.0.0.1:30001", answers=True)],
                own=sample(OwnGrapeView, node_id="0f" * 20, dht_address="0.0.0.0:20001"),
            ),
            discovery=[sample(DiscoveryView, name="mdns", detail="announcing")],
            peers_connected=len(self.known_peers),
            markets=["BTC-USD", "ETH-USD"],
            warnings=["the clock is 3 s behind that of most peers"],
        )

    def services(self) -> list[ServiceView]:
        serving = sample(ServingView, workers=16, served=5, busy=2)
        calls = CallsView(attempts=3, hedges=1, outcomes={"ok": 2, "busy": 1}, mean_ms=1.5)
        return [
            ServiceView(name="book", nodes=[self.me, self.peer], serving=serving, calls=None),
            ServiceView(name="job_service", nodes=[self.peer], serving=None, calls=calls),
        ]

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        service = {"service": "job_service", "node": self.peer}
        opened = "CLOSED to OPEN: 5 failures in a row"
        every = [
            sample(RouterEventView, kind="pick", reason="cheapest", **service),
            sample(RouterEventView, kind="breaker", reason=opened, **service),
        ]
        why = "breaker OPEN, latency_s 0.01"
        return RouterView(
            policy="adaptive",
            routes=[sample(RouteView, state="OPEN", why=why, **service)],
            hints=[HintView(node=self.peer, origin=self.me, signal="DEGRADED", weight=0.5)],
            events=[event for event in every if kind in (None, event.kind)][-events:],
        )

    def metrics(self) -> bytes:
        return b"# TYPE exchange_node_peers gauge\nexchange_node_peers 1.0\n"

    # Peers

    def policy(self) -> PeerPolicyView:
        return self.peer_rules

    def change_policy(self, change: PeerPolicyRequest) -> PeerPolicyView:
        self.calls.append(("policy", change.action, change.subject, change.seconds, change.reason))
        return self.peer_rules

    async def connect(self, address: str) -> PeerView:
        host, _, port = address.rpartition(":")
        if port == "1":
            raise ServiceError(502, "connect_failed", f"nobody answers at {address}")
        self.known_peers.append(self._peer("b" * 32, host, int(port), "manual"))
        return self.known_peers[-1]

    async def ping(self, node_id: str) -> PingView:
        if not self.peer.startswith(node_id):
            raise ServiceError(404, "unknown_node", f"0 nodes begin with {node_id!r}")
        return PingView(node_id=self.peer, way="direct", rtt_ms=0.8, version="1.0.0")

    # Services

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        """Echoes; a payload with "refuse" is refused by the service."""
        self.last_call = request
        if service not in ("book", "job_service"):
            raise ServiceError(404, "no_provider", f"nobody offers {service!r}")
        if isinstance(request.payload, dict) and "refuse" in request.payload:
            detail = f"{service}: {request.payload['refuse']}"
            raise ServiceError(422, "service_refused", detail, service_code="no_job")
        result = {"echo": request.payload}
        return CallView(service=service, node=self.peer, attempts=2, latency_ms=12.5, result=result)
