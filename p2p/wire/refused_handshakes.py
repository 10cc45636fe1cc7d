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
_SHOWN: Final = 200  # characters of a reason

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
        self._warned: dict[tuple[str, Code], tuple[float, str]] = {}  # (host, code), oldest first

    def note(self, host: str, refusal: HandshakeRefused, now: float) -> None:
        """Count a refusal; warn about it if a handshake cannot succeed there."""
        self.counts[str(refusal.code), "us" if refusal.by_us else "peer"] += 1
        remedy = _REMEDIES.get(refusal.code)
        if remedy is None and not refusal.by_us:
            remedy = _BY_PEERS.get(refusal.code)
        if remedy is None:
            return
        self._expire(now)
        key = (host, refusal.code)
        if key in self._warned or len(self._warned) >= MOST:
            return
        who = "refused by this node" if refusal.by_us else "it refused this node"
        text = f"no link with {host}: {who}: {refusal.reason[:_SHOWN]}; {remedy}"
        self._warned[key] = (now, text)
        log.warning("%s", text)

    def warnings(self, now: float) -> list[str]:
        """List the refusals of the last hour that an operator can mend."""
        self._expire(now)
        return [text for _, text in self._warned.values()]

    def _expire(self, now: float) -> None:
        for key in [key for key, (time, _) in self._warned.items() if now - time > LIFETIME]:
            del self._warned[key]
