"""Messages of the channels about the node itself: status, peers, feeds, services, router and halts.

Each says the whole present state, so a reader that is behind gets the newest alone. Router decisions are
the exception: they follow each other, and their first message has the latest ones.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from node.views.account_views import HaltView
from node.views.node_views import (
    DiagnosticsView,
    FeedView,
    PeerView,
    RouterEventView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
)

NodeChannel = Literal[
    "status", "diagnostics", "peers", "topology", "feeds", "services", "router", "decisions"
]
# For the operator, and keys of the house that may read, as the REST operations of the same name are.
NODE_CHANNELS: Final = (
    "status",
    "diagnostics",
    "peers",
    "topology",
    "feeds",
    "services",
    "router",
    "decisions",
)


class StatusState(msgspec.Struct, kw_only=True, tag="status", tag_field="event"):
    """State of the node, as `GET /v1/status`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    status: StatusView


class DiagnosticsState(msgspec.Struct, kw_only=True, tag="diagnostics", tag_field="event"):
    """Figures of the running node, as `GET /v1/diagnostics`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    diagnostics: DiagnosticsView


class PeersState(msgspec.Struct, kw_only=True, tag="peers", tag_field="event"):
    """All known peers, as `GET /v1/peers`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    peers: list[PeerView]


class TopologyState(msgspec.Struct, kw_only=True, tag="topology", tag_field="event"):
    """Links of this node and of its neighbours, as `GET /v1/topology`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    topology: TopologyView


class FeedsState(msgspec.Struct, kw_only=True, tag="feeds", tag_field="event"):
    """Feeds and how far behind they are, as `GET /v1/feeds`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    feeds: list[FeedView]


class ServicesState(msgspec.Struct, kw_only=True, tag="services", tag_field="event"):
    """Services of the network, as `GET /v1/services`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    services: list[ServiceView]


class RouterState(msgspec.Struct, kw_only=True, tag="router", tag_field="event"):
    """Routes and hints of the adaptive router, as `GET /v1/router`; `events` is empty, see `decisions`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    router: RouterView


class Decisions(msgspec.Struct, kw_only=True, tag="decisions", tag_field="event"):
    """Decisions of the adaptive router since the last message, oldest first; without `previous` the latest."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    omitted: int  # picks left out because there were too many at once
    decisions: list[RouterEventView]


class HaltsState(msgspec.Struct, kw_only=True, tag="halts", tag_field="event"):
    """Halted markets, as `GET /v1/halts`."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    halts: list[HaltView]


NodeMessage = (
    StatusState
    | DiagnosticsState
    | PeersState
    | TopologyState
    | FeedsState
    | ServicesState
    | RouterState
    | Decisions
    | HaltsState
)
