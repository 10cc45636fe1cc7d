"""Feeds of the network as this node holds them, those that are behind first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exchange.engine.engine import Engine
from exchange.model.instruments import Instrument
from node.views.node_views import FeedView, Way
from p2p.wire.link import PeerLink

MAX_FEEDS: Final = 1000  # rows of one answer


def feed_views(
    engine: Engine, instruments: Mapping[str, Instrument], links: Mapping[str, PeerLink]
) -> list[FeedView]:
    """Return the feeds with events, at most `MAX_FEEDS`. `instruments` by their key."""
    present = set(engine.present)
    announced = engine.announced_feeds()
    given_up = {(feed.owner, feed.market): feed.reason for feed in engine.given_up}

    def way(owner: str) -> Way:
        link = links.get(owner)
        if owner == engine.node_id:
            return "own"
        if link is not None:
            return "grenache" if link.peer.carrier == "grenache" else "direct"
        return "relayed" if owner in present else "absent"

    views = []
    for owner, market in {*engine.feeds, *announced, *given_up}:
        feed = engine.feeds.get((owner, market))
        held = 0 if feed is None else feed.number
        newest = max(held, announced.get((owner, market), 0))
        reason = given_up.get((owner, market))
        if not newest and reason is None:
            continue
        instrument = instruments.get(market)
        views.append(
            FeedView(
                owner=owner,
                market=market if instrument is None else instrument.symbol,
                number=held,
                announced=newest,
                behind=newest - held,
                open_orders=0 if feed is None else len(feed.state.orders),
                way=way(owner),
                given_up=reason,
            )
        )
    views.sort(key=lambda view: (-view.behind, view.owner, view.market))
    return views[:MAX_FEEDS]
