"""exchange-node that forgets in seconds: heavy feeds of absent owners and ids of broadcasts, which the real one keeps
for a quarter of an hour and ten minutes."""

from __future__ import annotations

import sys

from p2p.base import limits

limits.SEEN_TTL = 3.0  # type: ignore[misc]

from exchange.engine import feed_ingest  # noqa: E402
from exchange.feeds.feed_limits import FeedLimits  # noqa: E402
from node.cli.main import main  # noqa: E402

ABSENT_AFTER = 3.0

if __name__ == "__main__":
    feed_ingest.FeedLimits = lambda: FeedLimits(absent_after=ABSENT_AFTER)  # type: ignore[assignment]
    sys.exit(main())
