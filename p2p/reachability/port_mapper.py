"""Port mapping: asks the router to forward a port, by PCP and then by NAT-PMP, and keeps it so. No I/O.

The driver calls `due` a few times a second, sends what it returns to the router, and passes its answers to `received`. A mapping is renewed at half its lifetime. Between renewals a small request shows the router's epoch: an epoch
that has gone back, or did not keep pace with the clock, means that the router has restarted and lost the mapping, which is
then made again at once; until that has failed it counts as in force, so that a short restart changes nothing for others.
A router that stops answering has lost it as well.

    PCP --no answer, or not spoken--> NAT-PMP --no answer--> pause, then PCP again
     |                                   |
     +------------- granted -------------+--> renewed at half the lifetime, watched in between

Lifetimes are the router's choice: one of 0 is no grant, a very short one is not renewed more often than every
`LEAST_RENEWAL`, and a very long one is still renewed twice a day.
"""

from __future__ import annotations

import random
from typing import Final, Literal

import msgspec

from p2p.base.host_port import format_host_port
from p2p.base.network_group import is_local
from p2p.reachability import mapping_messages as wire
from p2p.reachability.mapping_messages import MappingAnswer

LIFETIME: Final = 7200  # seconds requested (RFC 6887 suggests two hours)
LEAST_RENEWAL: Final = 15.0  # seconds between renewals
MOST_RENEWAL: Final = 43_200.0
TRIES: Final = 4  # requests until a protocol counts as not answering ...
FIRST_WAIT: Final = 0.5  # ... with waits from here, doubling
WATCH: Final = 20.0  # seconds between looks at the epoch
YOUNG: Final = 60.0  # seconds; an epoch below this is of a router that has just started
PAUSES: Final = (15.0, 60.0, 300.0, 900.0)  # seconds until the next attempt; the last one repeats

Protocol = Literal["PCP", "NAT-PMP", "UPnP"]


class PortMapping(msgspec.Struct, frozen=True):
    """Mapping in force. `until`: monotonic seconds."""

    host: str
    port: int
    protocol: Protocol
    lifetime: int
    until: float
    made: int = 0  # times that it was made, not only renewed


class PortMapper:
    """Mapping of one TCP port of this machine (`client`: its address towards the router).

    `nonce`: 12 bytes that cannot be guessed. `rng` spreads the requests.
    """

    def __init__(self, client: str, port: int, nonce: bytes, rng: random.Random) -> None:
        """With an IPv6 client the router opens its firewall for the port (RFC 6887, 4), by PCP alone."""
        self.mapping: PortMapping | None = None
        self._made = 0
        self.problem = ""  # the router's last refusal, for people
        self._client = client
        self._port = port
        self._rng = rng
        self._nonce = nonce
        self._protocol: Protocol = "PCP"
        self._pcp_alone = ":" in client
        self._suggested = ("", port)
        self._host = ""  # external address by NAT-PMP
        self._goal: Literal["map", "watch"] = "map"
        self._announces = True  # the router answers ANNOUNCE
        self._tries = 0
        self._failures = 0
        self._next = 0.0
        self._renew = 0.0
        self._epoch: tuple[int, float] | None = None  # and when it was received

    @property
    def failed(self) -> bool:
        """True after the router has refused, or answered neither way, since the last mapping."""
        return self.mapping is None and self._failures > 0

    def due(self, now: float) -> bytes | None:
        """Return the datagram to send now."""
        if self.mapping is not None and now >= self.mapping.until:
            self.mapping = None
        if now < self._next:
            return None
        if self._goal == "watch" and now >= self._renew:
            self._goal, self._tries = "map", 0
        if self._tries >= TRIES:
            self._unanswered(now)
            if now < self._next:
                return None
        self._next = now + FIRST_WAIT * 2**self._tries * self._rng.uniform(1.0, 1.1)
        self._tries += 1
        return self._request()

    def _request(self) -> bytes:
        if self._protocol == "PCP":
            if self._goal == "watch" and self._announces:
                return wire.pcp_announce(self._client)
            return wire.pcp_map(self._client, self._nonce, self._port, self._suggested, LIFETIME)
        if self._goal == "watch" or not self._host:
            return wire.pmp_address()
        return wire.pmp_map(self._port, self._suggested[1], LIFETIME)

    def _unanswered(self, now: float) -> None:
        """Go on after a protocol did not answer."""
        self._tries = 0
        if self._goal == "watch":
            # The router is away, or restarts: map again. The mapping is given up when that fails.
            self._goal = "map"
        elif self._pcp_alone:
            self._fail(now, "the router does not answer by PCP")
        elif self._protocol == "PCP":
            self._protocol = "NAT-PMP"
        else:
            self._fail(now, "the router answers neither PCP nor NAT-PMP")

    def _fail(self, now: float, problem: str) -> None:
        self.problem = problem
        self._protocol, self._host = "PCP", ""
        self._goal, self._tries = "map", 0
        self.mapping, self._epoch = None, None
        self._made += 1
        pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1
        self._next = now + pause * self._rng.uniform(0.9, 1.1)

    def received(self, data: bytes, now: float) -> None:
        """Process a datagram from the router. Anything that is not an answer to this mapper is ignored."""
        if self._protocol == "PCP" and not self._pcp_alone and wire.wants_nat_pmp(data):
            self._protocol, self._tries, self._next = "NAT-PMP", 0, now
            return
        if self._protocol == "PCP":
            answer = wire.read_pcp(data, self._nonce)
        else:
            answer = wire.read_pmp(data)
        if answer is None:
            return
        switches = self._protocol == "PCP" and not self._pcp_alone
        if answer.result == wire.UNSUPPORTED_VERSION and switches:
            self._protocol, self._tries, self._next = "NAT-PMP", 0, now
        elif answer.result != wire.SUCCESS:
            self._refused(answer, now)
        elif self._restarted(answer.epoch, now) and not answer.external_port:
            self._made += 1
            self._goal, self._tries, self._next = "map", 0, now
            self._host = answer.external_host
        elif answer.external_port:
            self._granted(answer, now)
        else:
            self._seen(answer, now)

    def _refused(self, answer: MappingAnswer, now: float) -> None:
        if self._protocol == "PCP" and self._goal == "watch":
            # The mapping itself is requested instead, which shows the epoch too
            self._announces = False
            self._watch(now)
            return
        if self._protocol == "PCP":
            # Some routers refuse by PCP what they grant by NAT-PMP.
            reason = wire.PCP_RESULTS.get(answer.result, f"code {answer.result}")
            self.problem = f"the router refuses by PCP: {reason}"
            if self.mapping is None and not self._pcp_alone:
                self._protocol, self._tries, self._next = "NAT-PMP", 0, now
                return
        else:
            reason = wire.PMP_RESULTS.get(answer.result, f"code {answer.result}")
        self._fail(now, f"the router refuses by {self._protocol}: {reason}")

    def _granted(self, answer: MappingAnswer, now: float) -> None:
        host = answer.external_host or self._host
        if answer.internal_port != self._port:
            return
        if not answer.lifetime or not host:
            self._fail(now, "the router grants no lifetime")
            return
        until = now + max(float(answer.lifetime), 2 * LEAST_RENEWAL)
        self.mapping = PortMapping(
            host, answer.external_port, self._protocol, answer.lifetime, until, self._made
        )
        self._suggested = (host, answer.external_port)
        self.problem, self._failures = "", 0
        renewal = min(max(answer.lifetime / 2, LEAST_RENEWAL), MOST_RENEWAL)
        # So soon after a restart the epoch would not show another one; the renewal makes the mapping again.
        self._renew = now + (min(renewal, YOUNG / 2) if answer.epoch < YOUNG else renewal)
        self._watch(now)

    def _seen(self, answer: MappingAnswer, now: float) -> None:
        """Process an answer about the epoch or the external address."""
        changed = bool(self._host) and answer.external_host not in ("", self._host)
        if answer.external_host:
            self._host = answer.external_host
        if self._protocol == "NAT-PMP" and (self.mapping is None or changed):
            self._goal, self._tries, self._next = "map", 0, now  # the mapping is next
        elif self._goal == "watch":
            self._watch(now)

    def _watch(self, now: float) -> None:
        self._goal, self._tries = "watch", 0
        self._next = min(now + WATCH, self._renew)

    def _restarted(self, epoch: int, now: float) -> bool:
        """Return True if the router's epoch does not fit the one before (RFC 6887, section 8.5)."""
        before, self._epoch = self._epoch, (epoch, now)
        if before is None:
            return False
        server, client = epoch - before[0], now - before[1]
        if server < -1:
            return True
        return client + 2 < server - server / 16 or server + 2 < client - client / 16

    def delete(self) -> bytes | None:
        """Return the datagram that deletes the mapping, None without one."""
        mapping, self.mapping = self.mapping, None
        if mapping is None:
            return None
        if mapping.protocol == "PCP":
            return wire.pcp_map(self._client, self._nonce, self._port, ("", 0), 0)
        return wire.pmp_map(self._port, 0, 0)

    def describe(self) -> str:
        """Return the state in words."""
        if self.mapping is None:
            return self.problem or "asking the router"
        return describe(self.mapping)


def describe(mapping: PortMapping) -> str:
    """Return a mapping in words."""
    where = f"{format_host_port(mapping.host, mapping.port)} by {mapping.protocol}"
    return f"{where}, which is behind another NAT" if is_local(mapping.host) else where
