"""Shape of the router's view: what was measured of each candidate."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from node.service.routing_service import route_views
from p2p.adaptive import AdaptiveRouter


def mesh(router: AdaptiveRouter[str]) -> Any:
    return SimpleNamespace(
        balancers=SimpleNamespace(routers=lambda: {"job_service": router}),
        directory=SimpleNamespace(providers=lambda service: ("seen", "new")),
        caller=SimpleNamespace(governor=lambda service, node: None),
    )


def test_a_candidate_shows_its_counters_and_how_long_ago_it_answered() -> None:
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    router.on_send(10.0, "seen")
    router.on_result(10.02, "seen", 0.02, "ok")
    views = {view.node: view for view in route_views(mesh(router), 12.5)}
    assert views["seen"].last_seen_s == 2.48
    assert (views["seen"].total_calls, views["seen"].avg_latency_ms) == (1, 20.0)
    assert views["new"].last_seen_s is None
