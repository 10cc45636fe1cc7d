"""Shapes of the API's answers about the node itself: peers, feeds, services, routing, health.

Times are ISO 8601 in UTC with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from exchange.model.records import Permission
from node.views.field_types import ADDRESS_PATTERN, MAX_ADDRESS_TEXT, Timestamp

Mode = Literal["p2p", "hybrid", "grenache"]
Way = Literal["own", "direct", "grenache", "relayed", "absent"]


class TakeConductView(msgspec.Struct, kw_only=True):
    """Counts of what an owner did with this node's takes since this node's start."""

    answered: int
    answered_late: int  # after more than 10 s
    refused_shown: int  # as gone, of orders that its feed went on to show
    ended: int  # left undecided until the take's end
    filled_late: int  # filled after the take's end: not booked here


class PeerView(msgspec.Struct, kw_only=True):
    node_id: str | None  # not known before the first handshake
    address: str
    port: int
    status: Literal["connected", "connecting", "disconnected"]
    direction: Literal["in", "out"] | None
    source: str  # what found it: persisted, bootstrap, mdns, dns, list, grape, exchange, inbound, manual
    encrypted: bool | None  # its link, or from end to end if relayed; null if not known yet
    carrier: Literal["tcp", "grenache"] | None  # what brings the link; None without one
    version: str | None
    capabilities: list[str]
    connected_at: Timestamp | None = None  # since when the link is up; null without one
    last_seen: Timestamp | None
    last_heartbeat: Timestamp | None
    rtt_ms: float | None
    failures: int  # dials that failed in a row
    last_error: str | None
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    # Why it is outside of slots and never replaced; null for ordinary peers.
    privilege: Literal["pinned", "configured", "anchor", "connect", "lan"] | None = None
    group: str = ""  # network group of its address, which limits and diversity count
    banned_until: Timestamp | None = None
    # Its steps ("tick/lot") of markets that this node trades in others: these books are not shared.
    other_steps: dict[str, str] = {}
    # How messages to it travel; null for a node that is not reached now.
    path: Literal["direct", "mapped", "punched", "grenache", "relayed"] | None = None
    via: str | None = None  # node id of the neighbour that relays
    relay_refusal: str | None = None  # why `via` refused to relay to it within the last minute
    relayed_pairs: int = 0  # pairs of nodes for which this node relays, brought by this peer
    # By this node's own experience, the worst that holds; null before any.
    reputation: (
        Literal["useful", "ordinary", "slow", "unreliable", "abusive", "unreachable"] | None
    ) = None
    reputation_reasons: list[str] = []  # what it rests on, the weightiest first
    takes: TakeConductView | None = None  # what it did with this node's takes; null without any
    # Its own statement: can it be dialled from outside of its network, and the kind of NAT before it.
    reachable: bool | None = None
    nat: str | None = None


class PeerBanView(msgspec.Struct, kw_only=True):
    subject: str  # node id, IP address or network
    until: Timestamp
    reason: str


class PeerPolicyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A change of pinned and banned peers."""

    action: Literal["pin", "unpin", "ban", "unban"]
    subject: (
        str  # a node id or an unambiguous beginning of it; for bans also an IP address or a network
    )
    seconds: Annotated[int, msgspec.Meta(ge=1, le=316_224_000)] = 86_400  # of a ban
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""  # of a ban; the peer reads it


class PeerPolicyView(msgspec.Struct, kw_only=True):
    pins: list[str]  # node ids: exempt from slots and rates
    bans: list[PeerBanView]
    allow: list[str]  # PEER_ALLOW: node ids of a closed network; empty for an open one


class DiscoveryView(msgspec.Struct, kw_only=True):
    name: str
    state: Literal["on", "off", "failed"]
    detail: str
    found: int


class GrapeView(msgspec.Struct, kw_only=True):
    """A Grape that this node uses."""

    url: str
    answers: bool | None  # None: not queried yet
    detail: str


class OwnGrapeView(msgspec.Struct, kw_only=True):
    """The Grape inside this node."""

    node_id: str  # of the DHT, 40 hex digits
    dht_address: str  # host:port, UDP
    api_url: str
    nodes: int  # other DHT nodes that are known
    announcements: int  # held for all owners
    values: int


class GrenacheView(msgspec.Struct, kw_only=True):
    rpc_address: str | None  # host:port for Grenache requests; None before a Grape has answered
    links: int  # peers that are reached over Grenache
    grapes: list[GrapeView]
    own: OwnGrapeView | None


class ReachabilityView(msgspec.Struct, kw_only=True):
    """Reachability of this node from outside."""

    state: Literal["reachable", "mapped", "nat", "relays", "unknown", "local", "off"]
    text: str  # for people
    advice: str  # possible action of the operator; empty if there is none
    addresses: list[str]  # verified from outside, as host:port
    external: str | None  # IP address that other nodes see; None before any has reported it
    confirmed: bool  # by three networks
    observers: int  # networks that agree on the external address
    nat: Literal["none", "full_cone", "port_restricted", "symmetric", "unknown"] | None
    nat_confirmed: bool
    mapping: str  # state of the port mapping in words; empty if it is off


SinkName = Literal["postgres", "nats-copy", "nats-market"]


class ExportView(msgspec.Struct, kw_only=True):
    """Export of the journal to a database or a bus outside (`docs/export.md`)."""

    sink: SinkName
    state: Literal["starting", "running", "away"]
    position: int  # last commit that the sink has
    behind: int  # commits that it lacks
    lag_s: float | None  # since it last had everything; 0 while it has; None if it never had
    rows: int  # delivered since the start
    aside: int  # rows set aside since the start: the sink cannot take them
    error: str  # why it is away


class StandbyView(msgspec.Struct, kw_only=True):
    """Standby of this node and its lease (`docs/standby.md`)."""

    machine: str  # id of this machine
    standby: str  # id of the machine that may take over; "" for none
    connected: bool
    in_sync: bool | None  # it may take over by itself; None without a lease store
    waits: bool  # what leaves the node waits for it now
    lag: int | None  # commits that it has not acknowledged; None while it is not connected
    epoch: int  # counts the take-overs
    proof_age_s: (
        float | None
    )  # since this machine last proved that it is the node; None if it never did


class StatusView(msgspec.Struct, kw_only=True):
    node_id: str
    version: str
    network: str
    mode: Mode
    security: str  # "tls" or "off"
    uptime_s: float
    data_dir: str
    p2p_address: str | None  # host:port; None without direct links
    api_url: str
    grenache: GrenacheView | None  # None in pure P2P mode
    discovery: list[DiscoveryView]
    peers_connected: int
    peers_known: int
    nodes_present: int  # owners whose presence lease runs, this node included
    markets: list[str]
    open_orders: int
    pending_takes: int
    feeds: int
    feeds_behind: int  # feeds of which a newer number is known than is held
    services: list[str]  # that this node serves
    warnings: list[str]
    reachability: ReachabilityView | None = None  # None without direct links
    exports: list[ExportView] = []
    standby: StandbyView | None = None  # None without a standby and a lease


class DiagnosticsView(msgspec.Struct, kw_only=True):
    """Figures of a running node. Counts since its start; sizes in bytes."""

    uptime_s: float
    orders: int  # submitted
    fills: int
    commits: int  # of the journal
    commit_p50_ms: float | None  # None before the first commit
    commit_p95_ms: float | None
    commit_p99_ms: float | None
    loop_lag_p95_ms: float  # how much later than planned timers ran within the last minute
    loop_lag_max_ms: float
    memory_bytes: int
    disk_free_bytes: int  # where the data directory is
    data_bytes: int  # of the data directory
    journal_lag_ms: float  # how long the write under way has taken so far; 0 without one
    archive_behind: int  # records that are committed and not in the archive yet
    warnings: list[str]  # with what to do


class TopologyNodeView(msgspec.Struct, kw_only=True):
    node_id: str
    distance: int  # links between this node and that one
    answered: bool | None  # a neighbour shared its links, or did not; None: not requested


class TopologyLinkView(msgspec.Struct, kw_only=True):
    a: str  # node id
    b: str
    carrier: Literal["tcp", "grenache"] | None  # None: not a link of this node


class TopologyView(msgspec.Struct, kw_only=True):
    """Links of this node, and of those neighbours that tell theirs."""

    nodes: list[TopologyNodeView]
    links: list[TopologyLinkView]


class PingView(msgspec.Struct, kw_only=True):
    node_id: str
    way: Literal["direct", "grenache", "relayed"]
    rtt_ms: float
    version: str


class ServingView(msgspec.Struct, kw_only=True):
    """A service that this node serves. Counts since the start."""

    workers: int  # requests served at once
    serving: int
    waiting: int
    served: int
    busy: int  # refused because there was too much to do
    expired: int  # dropped because the caller no longer waited
    service_ms: float  # how long one takes lately, without waiting
    faults: str  # injected on purpose, for tests; usually empty


class CallsView(msgspec.Struct, kw_only=True):
    """This node's calls to a service since the start."""

    attempts: int  # requests sent: more than calls where some were repeated
    hedges: int  # of these: sent beside a slow one
    # By outcome: ok, refused (by the service), cancelled, how the call failed, or other (an unknown code).
    outcomes: dict[str, int]
    mean_ms: float | None  # of those that were answered
    # Of the same; upper bounds of the bins that they are counted in.
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class ServiceView(msgspec.Struct, kw_only=True):
    """Service offered in the network."""

    name: str
    nodes: list[str]  # nodes that announce it, this node included
    serving: ServingView | None  # when this node serves it
    calls: CallsView | None  # when this node has called it


class CallRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A call to a service."""

    payload: Any = None
    # For everything; CLIENT_REQUEST_TIMEOUT when it is left out.
    timeout_ms: (
        Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": 300_000})] | None
    ) = None
    idempotent: bool | None = (
        None  # safe to be executed twice; what is known of the service if left out
    )
    idempotency_id: str = ""  # for the handler, which executes one id once
    node: str | None = None  # call this node (its id or the beginning of it) and no other


class CallView(msgspec.Struct, kw_only=True):
    service: str
    node: str  # the node that answered
    attempts: int
    latency_ms: float
    result: Any


class RouteView(msgspec.Struct, kw_only=True):
    """A node that a service can be asked of, as the router sees it. The lowest cost is asked next."""

    service: str
    node: str
    cost: (
        float  # by ROUTER_POLICY: expected seconds (adaptive), or falling with the score (weighted)
    )
    state: Literal["CLOSED", "OPEN", "HALF_OPEN"]  # of its circuit breaker
    why: str
    parts: dict[str, float]  # what the cost is made of
    hint_factor: float  # what the cost is multiplied by because of others' hints
    slow_start: float  # share of its usual traffic, below 1 after an outage
    total_calls: int
    success_count: int
    error_count: int
    timeout_count: int
    in_flight: int
    avg_latency_ms: float | None
    # Flow control of calls to this service at this node; null before the first call.
    window: float | None = None  # calls under way that it allows at once
    rate: float | None = None  # calls a second that its pace allows
    last_seen_s: float | None = None  # seconds since its last answer; null before the first


class HintView(msgspec.Struct, kw_only=True):
    """Hint of another node about a peer; `weight` fades from 1 to 0."""

    node: str
    origin: str
    signal: Literal["DEGRADED", "HEALTHY"]
    weight: float


class RouterEventView(msgspec.Struct, kw_only=True):
    """Something that the router did or learned, and why."""

    time: Timestamp
    kind: Literal["pick", "breaker", "hint", "panic", "rate"]
    service: str  # empty for hints, which concern all services
    node: str
    reason: str
    detail: dict[str, Any]


class RouterView(msgspec.Struct, kw_only=True):
    policy: str
    routes: list[RouteView]  # by service, the next in line first
    hints: list[HintView]
    events: list[RouterEventView]  # the latest, oldest first


class ConnectRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An address to dial now."""

    # HOST:PORT, [IPv6]:PORT
    address: Annotated[
        str,
        msgspec.Meta(extra_json_schema={"pattern": ADDRESS_PATTERN, "maxLength": MAX_ADDRESS_TEXT}),
    ]


CallerAccess = Literal["operator", "account", "public"]
Authentication = Literal["key", "token", "nothing"]


class SessionView(msgspec.Struct, kw_only=True):
    """The caller of the request, its permissions, and the node that answers."""

    node_id: str
    version: str
    account: int | None  # None: no account, only public data; 0: the house
    account_name: str | None
    access: CallerAccess  # operator: everything, for the house or any account; public: no account
    operator: bool  # access is operator
    authenticated_by: Authentication  # token: the operator's; nothing: no credentials were sent
    permissions: list[Permission]  # of the key; the operator has all
    key: str | None  # without its secret; None without a key
    key_label: str | None
    keys_required: bool  # API_AUTH=required: without a key there is public data only
    desk: bool = False  # DESK_PROFILE names own nodes: /v1/desk


class HealthView(msgspec.Struct, kw_only=True):
    """The node answers. Use /v1/status for how it is."""

    status: Literal["ok"]
    node_id: str
    version: str


class ReadyCheck(msgspec.Struct, kw_only=True):
    """One condition of readiness."""

    name: str
    ok: bool
    reason: str


class ReadyView(msgspec.Struct, kw_only=True):
    """Readiness for orders: all checks are ok."""

    ready: bool
    checks: list[ReadyCheck]


class FeedView(msgspec.Struct, kw_only=True):
    """A feed: the numbered list of an owner's events in one market."""

    owner: str  # node id
    market: str  # symbol; of a market that this node does not have, its key
    number: int  # last event held
    announced: int  # last event that exists, as far as other nodes announced it
    behind: int  # events announced and not held
    open_orders: int  # that rest in the book by this feed
    way: (
        Way  # to the owner: this node, a link, over other nodes, or absent without a presence lease
    )
    given_up: str | None = None  # why this node does not hold the feed any more
