"""Startup fence: after a restart, no writing to own feeds before the neighbours have sent their digests.

Theory of operation. A data directory restored from an old copy would write different events under
numbers that the network has seen. Nothing in the directory shows its age, but the digests of the
neighbours do, and they arrive with the links. So a restarted node first only replicates: it follows,
serves and shows the feeds of others, and neither accepts orders nor decides takes until the fence is
down. The fence goes down when
- the grace period has passed and every linked neighbour has sent a digest, and
- no node claims to hold more of an own feed; a claim is followed until it is proven, disproven, or the
  longest wait is over.
A neighbour that holds exactly the own feeds as they are here ends nothing sooner: a stranger can send this
node's own digest back, while the neighbours that hold more have no link yet.
"""

from __future__ import annotations

from exchange.feeds.exchange_messages import FeedDigest

FENCE_GRACE = 2.0  # seconds after the start in which a link may come up
FENCE_GRACE_ALONE = 0.5  # for a journal without feeds of others: the node is likely alone
FENCE_MAX = 10.0  # whatever neighbours claim or fail to send


class StartupFence:
    """State of the fence. `now` is monotonic seconds."""

    def __init__(self, *, grace: float = FENCE_GRACE, longest: float = FENCE_MAX) -> None:
        self._grace = min(grace, longest)
        self._longest = longest
        self._since: float | None = None
        self._awaited: dict[str, None] = {}  # neighbours whose heads have not arrived
        self._doubted = False

    def begin(self, now: float) -> None:
        """Start the clock: the node has started."""
        self._since = now

    def neighbour_up(self, node: str) -> None:
        """Await the digest of a new neighbour."""
        self._awaited[node] = None

    def neighbour_down(self, node: str) -> None:
        """Stop waiting for a neighbour whose link is gone."""
        self._awaited.pop(node, None)

    def on_digest(self, node: str, digest: FeedDigest, *, same: bool) -> None:
        """Process a neighbour's digest. `same`: it has the summary of this node."""
        if same or digest.heads is not None:
            self._awaited.pop(node, None)

    def is_down(self, now: float, *, doubt: bool) -> bool:
        """Report if the own feeds may be written. `doubt`: a node claims to hold more of them; only its
        proof, which may take long, or the longest wait removes the doubt."""
        self._doubted = self._doubted or doubt
        if self._since is None:
            return False
        waited = now - self._since
        if waited >= self._longest:
            return True
        return waited >= self._grace and not (self._doubted or self._awaited)
