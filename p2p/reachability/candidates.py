"""Candidate addresses: verification of one external address by dial-backs from several servers. No I/O.

A round asks `CONFIRMING` servers (fewer if there are not as many), one after the other. A success is what this node saw
itself: the nonce of its request arrived at its listener. A failure is the server's word, so that a majority decides. An
address that fails is withdrawn at once and tried again with growing waits; a verified one is checked every quarter of an
hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from p2p.base.network_group import network_group
from p2p.reachability.observed_address import CONFIRMING

Source = Literal["operator", "mapped", "observed"]

RECHECK: Final = 900.0  # seconds between rounds of a verified address
# Seconds after a failed round (servers dial once a minute), doubling to RECHECK
RETRY_FIRST: Final = 70.0
NEXT_SERVER: Final = 1.0  # seconds between the servers of one round
ANSWER_TIME: Final = 20.0  # seconds for a dial-back, upload included


@dataclass(slots=True)
class CandidateAddress:
    """Verification of one address. Times are monotonic seconds."""

    host: str
    port: int
    source: Source
    next_check: float = 0.0
    asked: dict[str, float] = field(default_factory=dict)  # servers of the round, by time
    results: dict[str, tuple[str, bool]] = field(default_factory=dict)  # by server: group, success
    pending: tuple[str, bytes, float] | None = None  # server, nonce, since when
    arrived: bool = False  # the nonce of the pending request
    retry: float = RETRY_FIRST

    @property
    def key(self) -> tuple[str, int]:
        return (self.host, self.port)

    @property
    def verified(self) -> bool | None:
        """True: reachable. None: not known yet. The operator's word needs no proof."""
        if self.source == "operator":
            return True
        votes = self._votes()
        reached = sum(votes.values())
        return None if not votes else reached > 0 and 2 * reached >= len(votes)

    @property
    def confirmed(self) -> bool:
        verdict = self.verified
        agreeing = sum(vote is verdict for vote in self._votes().values())
        return self.source == "operator" or agreeing >= CONFIRMING

    def _votes(self) -> dict[str, bool]:
        """Return one vote for each group of servers: a success proves more than any failure."""
        votes: dict[str, bool] = {}
        for group, success in self.results.values():
            votes[group] = votes.get(group, False) or success
        return votes

    def due(self, servers: dict[str, str], now: float) -> str | None:
        """Return the server to ask now, None for none. `servers`: IP address by node id."""
        if self.source == "operator" or now < self.next_check:
            return None
        if self.pending is not None:
            if now - self.pending[2] < ANSWER_TIME:
                return None
            self.pending = None  # no answer and no dial-back: no result
        asked = {network_group(servers[each]) for each in self.asked if each in servers}
        free = [node for node in servers if node not in self.asked]
        # A server of another network counts for more.
        free.sort(key=lambda node: network_group(servers[node]) in asked)
        if free and len(self.asked) < CONFIRMING:
            return free[0]
        if self.asked:
            self._end_round(now)
        return None

    def request(self, server: str, nonce: bytes, now: float) -> None:
        """Record a request to a server."""
        self.pending, self.arrived = (server, nonce, now), False
        self.asked[server] = now

    def probe_arrived(self, nonce: bytes) -> bool:
        """Record a probe at the listener; returns True if this candidate's request caused it."""
        if self.pending is None or self.pending[1] != nonce:
            return False
        self.arrived = True
        return True

    def answered(self, server: str, address: str, dialled: bool | None, now: float) -> bool:
        """Record the server's answer: it connected, could not, or (None) did not try. Returns True if the verdict
        changed.
        """
        if self.pending is None or self.pending[0] != server:
            return False
        before = self.verified
        arrived, self.pending = self.arrived, None
        if arrived:
            self.results[server] = (network_group(address), True)
        elif dialled is False:
            self.results[server] = (network_group(address), False)
        self.next_check = now + NEXT_SERVER
        return self.verified is not before

    def check_soon(self, now: float) -> None:
        """Begin a round now. The verdict stays until there is another."""
        self.asked.clear()
        self.next_check = min(self.next_check, now)

    def _end_round(self, now: float) -> None:
        # Results of servers that are gone do not outlive the round.
        self.results = {node: self.results[node] for node in self.asked if node in self.results}
        self.asked.clear()
        if self.verified:
            self.retry = RETRY_FIRST
            self.next_check = now + RECHECK
        else:
            self.next_check = now + self.retry
            self.retry = min(2 * self.retry, RECHECK)
