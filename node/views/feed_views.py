"""Shape of feeds as the API shows them: whose they are, and how far behind this node is."""

from __future__ import annotations

from typing import Literal

import msgspec

Way = Literal["own", "direct", "grenache", "relayed", "absent"]


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
