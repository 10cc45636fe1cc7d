"""After a restart: hear what the others hold of the own feeds before anything is written to them.

A data directory restored from an old copy would write other events under numbers that the network
has seen. Nothing in the directory shows that it is old, but the neighbours' digests do, and they
come with the link. So a restarted node listens first: it follows, answers and shows the others'
feeds, and neither takes orders nor decides on takes until it may.
"""

from __future__ import annotations

from collections.abc import Iterable

from exchange.feeds.exchange_messages import FeedDigest, FeedHead

LISTEN = 2.0  # seconds after the start in which a link may come up
LISTEN_STRANGER = 0.5  # the same for a node whose journal knows nobody: it is likely alone
LISTEN_MAX = 10.0  # whatever neighbours claim, or fail to say


class StartupFence:
    """Whether the time of listening is over. `now` is monotonic seconds."""

    def __init__(self, *, grace: float = LISTEN, longest: float = LISTEN_MAX) -> None:
        self._grace = min(grace, longest)
        self._longest = longest
        self._since: float | None = None
        self._silent: dict[str, None] = {}  # neighbours that have not said what they hold
        self._confirmed = False
        self._doubted = False

    def begin(self, now: float) -> None:
        """The node has started."""
        self._since = now

    def neighbour_up(self, node: str) -> None:
        self._silent[node] = None

    def neighbour_down(self, node: str) -> None:
        self._silent.pop(node, None)

    def heard(self, node: str, digest: FeedDigest, own: Iterable[FeedHead], *, same: bool) -> None:
        """What a neighbour holds. `own`: the ends of the own feeds here; `same`: its feeds are ours."""
        if not same and digest.heads is None:
            return
        self._silent.pop(node, None)
        if same or set(own) <= set(digest.heads or ()):
            self._confirmed = True

    def over(self, now: float, *, doubt: bool) -> bool:
        """Whether the own feeds may be written. `doubt`: somebody claims to hold more of them. It is
        asked for a proof, which may be long on its way: nothing else takes the doubt away."""
        self._doubted = self._doubted or doubt
        if self._since is None:
            return False
        listened = now - self._since
        if listened >= self._longest:
            return True
        return not self._doubted and (
            self._confirmed or (listened >= self._grace and not self._silent)
        )
