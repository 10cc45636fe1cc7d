"""Peers of a node: linked nodes, links on demand, ping, and id prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

from exchange.engine.engine import Engine
from exchange.takes.maker_conduct import Conduct
from node.version import VERSION
from node.views.field_types import ADDRESS_PATTERN, MAX_ADDRESS_TEXT, refusal_status
from node.views.node_views import (
    PeerBanView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    TakeConductView,
)
from node.views.views import ServiceError
from p2p.adaptive.circuit_breaker import BreakerState
from p2p.base.errors import Code, ConnectFailed, HandshakeRefused, P2PError, RpcError
from p2p.base.host_port import parse_host_port
from p2p.base.identity import is_node_id
from p2p.overlay import Overlay
from p2p.peers.peer_policy import normal_subject
from p2p.peers.peer_records import Peer
from p2p.peers.reputation import PeerFacts, reputation
from p2p.reachability.nat_kind import NAMES
from p2p.services.service_mesh import ServiceMesh
from p2p.wire.link import LinkStats, PeerLink

PING_TIMEOUT = 5.0  # seconds


class PeerService:
    """For the API. `clock` gives monotonic seconds."""

    def __init__(
        self,
        overlay: Overlay,
        engine: Engine,
        services: ServiceMesh,
        clock: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._engine = engine
        self._clock = clock
        self._services = services
        overlay.rpc.serve("ping", self._on_ping)

    def peers(self) -> list[PeerView]:
        known = self._overlay.peers.get_all_peers()
        views = [self._view(peer) for peer in known]
        reachability = self._overlay.reachability
        listed = {view.node_id: view for view in views if view.node_id is not None}
        for node, (via, encrypted) in sorted(self._relayed().items()):
            view = listed.get(node)
            if view is None:
                known.append(Peer(node, "", 0, ""))
                view = self._view(known[-1])
                views.append(view)
            view.path, view.via, view.encrypted = "relayed", via, encrypted
            refusal = self._overlay.router.delivery.refusal(self._clock(), via, node)
            view.relay_refusal = refusal or None
            _show_traffic(view, self._overlay.router.delivery.relayed_traffic(node))
            if reachability is not None:
                view.last_error = reachability.punching.plan.reason(node) or view.last_error
        for view, peer in zip(views, known, strict=False):
            self._judge(view, peer)
        for node, statement in ({} if reachability is None else reachability.stated).items():
            if (view := listed.get(node)) is not None:
                view.reachable, view.nat = statement.reachable, _known_nat(statement.nat)
        return views

    def _view(self, peer: Peer) -> PeerView:
        view = _peer_view(peer, self._other_steps(peer.node_id))
        if peer.connection is not None:
            view.path = self._overlay.path_of(peer.connection)
            view.relayed_pairs = self._overlay.router.delivery.relay.shares.of_peer(
                peer.connection.peer.node_id
            )
        return view

    def _judge(self, view: PeerView, peer: Peer) -> None:
        """Set the reputation of a peer."""
        if peer.node_id is None and not peer.failures:
            return
        facts = peer_facts(
            peer,
            self._overlay,
            self._engine,
            self._services,
            self._clock(),
            rtt=None if view.rtt_ms is None else view.rtt_ms / 1000,
            reached=view.path is not None,
        )
        found = reputation(facts)
        view.reputation, view.reputation_reasons = found.standing, list(found.reasons)
        conduct = _conduct(self._engine, peer.node_id)
        if conduct is not None:
            view.takes = TakeConductView(
                answered=conduct.answers,
                answered_late=conduct.late,
                refused_shown=conduct.refused_shown,
                ended=conduct.ended,
                filled_late=conduct.filled_late,
            )

    def _relayed(self) -> dict[str, tuple[str, bool | None]]:
        """Return the present nodes without a link that a neighbour relays to, with that neighbour, and if messages are
        encrypted end to end.
        """
        delivery, now = self._overlay.router.delivery, self._clock()
        links = self._overlay.peers.links
        found: dict[str, tuple[str, bool | None]] = {}
        for node in self._engine.present:
            path = None if node in links else delivery.path(now, node)
            if path is not None and node != self._engine.node_id:
                found[node] = path
        return found

    def _other_steps(self, node: str | None) -> dict[str, str]:
        """Return a peer's steps of markets that this node trades in other steps, by symbol."""
        theirs = (key.partition("@") for key in self._engine.other_steps.get(node or "", ()))
        return {symbol: steps for symbol, _, steps in theirs}

    async def connect(self, address: str) -> PeerView:
        try:
            host, port = parse_host_port(address)
        except ValueError as error:
            status = refusal_status(address, ADDRESS_PATTERN, MAX_ADDRESS_TEXT)
            raise ServiceError(status, "bad_address", str(error)) from error
        try:
            return self._view(await self._overlay.peers.connect(host, port))
        except HandshakeRefused as error:
            if error.code is Code.SELF:
                raise ServiceError(422, "self_connection", str(error)) from error
            raise ServiceError(502, "peer_refused", str(error), reason=str(error.code)) from error
        except ConnectFailed as error:
            raise ServiceError(502, "connect_failed", str(error)) from error

    def policy(self) -> PeerPolicyView:
        policy = self._overlay.peers.policy
        return PeerPolicyView(
            pins=sorted(policy.pins),
            bans=[
                PeerBanView(subject=ban.subject, until=_iso(ban.until) or "", reason=ban.reason)
                for ban in policy.bans()
            ],
            allow=sorted(policy.allow),
        )

    def change_policy(self, change: PeerPolicyRequest) -> PeerPolicyView:
        peers, subject = self._overlay.peers, change.subject.strip()
        if change.action in ("pin", "unpin") or not _is_network(subject):
            subject = self._policy_id(subject)
        try:
            match change.action:
                case "pin":
                    peers.policy.pin(subject)
                case "ban":
                    peers.ban(subject, change.seconds, change.reason)
                case "unpin" | "unban":
                    remove = peers.policy.unpin if change.action == "unpin" else peers.unban
                    if not remove(subject):
                        raise ServiceError(
                            404, "no_such_rule", f"{subject} is not {change.action[2:]}ned"
                        )
        except ValueError as error:
            raise ServiceError(422, "bad_subject", str(error)) from error
        except OSError as error:
            raise ServiceError(503, "storage_failed", f"cannot be saved: {error}") from error
        return self.policy()

    def _policy_id(self, prefix: str) -> str:
        """Return the node id for a prefix of a pinned, banned or known node."""
        policy = self._overlay.peers.policy
        named = {*policy.pins, *(ban.subject for ban in policy.bans()), *policy.allow}
        fitting = {node for node in named if len(prefix) >= 4 and node.startswith(prefix.lower())}
        return fitting.pop() if len(fitting) == 1 else self.full_id(prefix)

    async def ping(self, node_id: str) -> PingView:
        full = self.full_id(node_id)
        link = self._overlay.peers.links.get(full)
        before = self._clock()
        try:
            answer = await self._overlay.rpc.call(
                full, "ping", None, timeout=PING_TIMEOUT, result_type=dict[str, str]
            )
        except RpcError as error:
            raise ServiceError(504, "ping_failed", f"node {full}: {error}") from error
        except P2PError as error:
            raise ServiceError(502, "unreachable", str(error)) from error
        return PingView(
            node_id=full,
            way=_way(link),
            rtt_ms=round((self._clock() - before) * 1000, 3),
            version=answer.get("version", ""),
        )

    async def _on_ping(self, caller: str, body: object) -> dict[str, str]:
        return {"version": VERSION}

    def full_id(self, prefix: str, *, own: bool = False) -> str:
        """Return the id with this prefix; with `own` it may be this node's."""
        prefix = prefix.lower()
        if len(prefix) >= 4 and self._engine.node_id.startswith(prefix):
            if own:
                return self._engine.node_id
            raise ServiceError(422, "self_connection", f"{prefix} is this node itself")
        found = only_fit(prefix, {*self._overlay.peers.links, *self._engine.present})
        if found is not None:
            return found
        if is_node_id(prefix):
            return prefix
        raise ServiceError(
            404,
            "unknown_node",
            f"no known node has an id that begins with {prefix[:40]!r}; see 'peers'",
        )


def _peer_view(peer: Peer, other_steps: dict[str, str] | None = None) -> PeerView:
    link = peer.connection
    info = link.peer if link is not None else None
    stats = peer.stats
    return PeerView(
        node_id=peer.node_id,
        address=peer.address,
        port=peer.port,
        status=peer.status,
        direction=peer.direction,
        source=peer.source,
        encrypted=info.encrypted if info else None,
        carrier=info.carrier if info else None,
        version=peer.capabilities.version if peer.capabilities else None,
        capabilities=peer.capabilities.supported_protocols if peer.capabilities else [],
        connected_at=_iso(peer.connected_at),
        last_seen=_iso(peer.last_seen),
        last_heartbeat=_iso(peer.last_heartbeat),
        rtt_ms=None if stats.rtt is None else round(stats.rtt * 1000, 3),
        failures=peer.failures,
        last_error=peer.last_error,
        messages_received=stats.messages_received,
        messages_sent=stats.messages_sent,
        bytes_received=stats.bytes_received,
        bytes_sent=stats.bytes_sent,
        privilege=peer.privilege,
        group=peer.group,
        banned_until=_iso(peer.banned_until),
        other_steps=other_steps or {},
    )


def _show_traffic(view: PeerView, stats: LinkStats) -> None:
    """Set the figures of a relayed path in place of those of a link that is gone."""
    view.rtt_ms = None if stats.rtt is None else round(stats.rtt * 1000, 3)
    view.messages_received, view.messages_sent = stats.messages_received, stats.messages_sent
    view.bytes_received, view.bytes_sent = stats.bytes_received, stats.bytes_sent


def _known_nat(kind: str) -> str | None:
    """Return the NAT that a peer states, None for none and for one that this version does not know."""
    return kind if kind in NAMES else None


def _is_network(subject: str) -> bool:
    """Return True for an IP address or a network."""
    try:
        return not is_node_id(normal_subject(subject))
    except ValueError:
        return False


def _way(link: PeerLink | None) -> Literal["direct", "grenache", "relayed"]:
    if link is None:
        return "relayed"
    return "grenache" if link.peer.carrier == "grenache" else "direct"


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def only_fit(prefix: str, known: Iterable[str]) -> str | None:
    """The one of the `known` ids that begins so; None if there is none, or no prefix.

    Raises:
        ServiceError: there are several.
    """
    begin = prefix.lower()
    found = sorted(node for node in known if begin and node.startswith(begin))
    if len(found) > 1:
        some = ", ".join(node[:12] for node in found[:5])
        raise ServiceError(422, "ambiguous_node", f"{prefix[:40]!r} fits several nodes: {some}")
    return found[0] if found else None


def peer_facts(
    peer: Peer,
    overlay: Overlay,
    engine: Engine,
    services: ServiceMesh | None,
    now: float,
    *,
    rtt: float | None,
    reached: bool,
) -> PeerFacts:
    """Collect what this node knows of a peer. `rtt`: of its path, in seconds."""
    node = peer.node_id or ""
    answered, degraded = (0, "") if services is None else _service_calls(services, node, now)
    _, dropped = overlay.router.budgets.figures().get(node, (0.0, 0))
    ban = overlay.peers.policy.banned(node, peer.address)
    conduct = _conduct(engine, node) or Conduct()
    return PeerFacts(
        reached=reached,
        news=overlay.peers.admission.delivered_first(node),
        requests_answered=answered,
        rtt=rtt,
        degraded=degraded,
        dropped=dropped,
        invalid=overlay.router.invalid_messages(node),
        ban="" if ban is None else ban.reason or "by the operator",
        fraud=any(owner == node and feed.fault for (owner, _), feed in engine.feeds.items()),
        breaches=_counted(conduct.filled_late, "take", "filled {} after the end"),
        doubts=(
            *_counted(conduct.ended, "take", "left {} undecided until the end"),
            *_counted(conduct.refused_shown, "order", "refused {} that it went on to show"),
            *_counted(conduct.late, "take", "answered {} late"),
        ),
        unreliable=conduct.unreliable,
        failures=peer.failures,
        last_error=peer.last_error or "",
    )


def _conduct(engine: Engine, node: str | None) -> Conduct | None:
    return engine.orders.taker_side.conduct.known(node or "")


def _counted(count: int, noun: str, text: str) -> tuple[str, ...]:
    return (text.format(f"{count:,} {noun}{'s' if count > 1 else ''}"),) if count else ()


def _service_calls(services: ServiceMesh, node: str, now: float) -> tuple[int, str]:
    """Return the number of calls that a node answered, and why the adaptive router avoids it, empty if it does not."""
    answered, avoided = 0, ""
    for service, router in services.balancers.routers().items():
        metrics = router.metrics(node)
        if metrics is None:
            continue
        answered += metrics.success_count
        if router.breaker_state(now, node) is not BreakerState.CLOSED:
            avoided = f"calls of {service} fail"
    return answered, avoided
