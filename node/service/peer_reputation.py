"""Facts about a peer from all parts of the node, for its reputation (`p2p.peers.reputation`)."""

from __future__ import annotations

from exchange.engine.engine import Engine
from p2p.adaptive.circuit_breaker import BreakerState
from p2p.overlay import Overlay
from p2p.peers.peer_records import Peer
from p2p.peers.reputation import PeerFacts
from p2p.services.service_mesh import ServiceMesh


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
        failures=peer.failures,
        last_error=peer.last_error or "",
    )


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
