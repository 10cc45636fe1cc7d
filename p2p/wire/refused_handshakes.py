"""Handshakes that failed: counts, and a warning where they cannot succeed as the two nodes are configured.

A node of another network, or of a version that does not fit, dials again and again. So a host is warned about once an hour,
and strangers cannot fill the log: there are at most `MOST` warnings an hour. Peers' words in them are printable and bounded.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from p2p.base.errors import Code, HandshakeRefused

log = logging.getLogger(__name__)

LIFETIME: Final = 3600.0  # seconds that a warning stands
MOST: Final = 32  # warnings that stand
_SHOWN: Final = 400  # characters of a reason

# Refusals that stay until an operator changes something, with what to change. Others are everyday: full nodes, second
# links, addresses where another node is now, and programs that are no nodes.
_REMEDIES: Final = {
    Code.WRONG_NETWORK: "both nodes need the same P2P_NETWORK, and PEER_ALLOW, where it is set, has to name the other",
    Code.WRONG_VERSION: "update the older of the two nodes",
}
_BY_PEERS: Final = {Code.ABUSE: "ask its operator to end the ban"}


class RefusedHandshakes:
    """See the module's docstring. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # (code, "us" or "peer")
        self._warned: dict[tuple[str, str], tuple[float, str]] = {}  # (host, kind), oldest first

    def note(self, host: str, refusal: HandshakeRefused, now: float) -> None:
        """Count a refusal; warn about it if a handshake cannot succeed there."""
        self.counts[str(refusal.code), "us" if refusal.by_us else "peer"] += 1
        remedy = _REMEDIES.get(refusal.code)
        if remedy is None and not refusal.by_us:
            remedy = _BY_PEERS.get(refusal.code)
        if remedy is not None:
            who = "refused by this node" if refusal.by_us else "it refused this node"
            self._warn(host, str(refusal.code), f"{who}: {refusal.reason}; {remedy}", now)
        elif refusal.by_us:
            self.note_failure(host, refusal.reason, now)

    def note_failure(self, host: str, reason: str, now: float) -> None:
        """Warn about a connection that broke before the handshake, if one of the two nodes is without TLS. `reason` is in
        this node's own words."""
        if "P2P_SECURITY" in reason:
            self._warn(host, "security", reason, now)

    def _warn(self, host: str, kind: str, why: str, now: float) -> None:
        self._expire(now)
        if (host, kind) in self._warned or len(self._warned) >= MOST:
            return
        text = f"no link with {host}: {why[:_SHOWN]}"
        self._warned[host, kind] = (now, text)
        log.warning("%s", text)

    def warnings(self, now: float) -> list[str]:
        """List the refusals of the last hour that an operator can mend."""
        self._expire(now)
        return [text for _, text in self._warned.values()]

    def _expire(self, now: float) -> None:
        for key in [key for key, (time, _) in self._warned.items() if now - time > LIFETIME]:
            del self._warned[key]
