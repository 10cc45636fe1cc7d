"""Presences handed on between neighbours: a newcomer need not wait for the next renewal of each owner.

Theory of operation. In a large network an owner renews its presence once a minute, and a neighbour can be asked for the
broadcasts of the last half minute only. So a node keeps the newest signed presence of each owner while its lease runs
(`PresenceTable`), and its digests state how many it keeps. A node with clearly fewer owners present requests them in parts
(`PresenceExchange`), from all such neighbours in turn. Each presence is handed on with what is left of its lease.

Rules of this file:
- A lease that was handed on ends no later than at the node that handed it on: the receiver subtracts the time of the
  round trip from what is left, and hands on what is left then. It is never longer than the signed lease either.
- Nothing replaces a later presence or a goodbye, and a presence that was handed on is not broadcast again.
- The number that a neighbour states is a claim. At worst it costs one round of requests in ROUND_INTERVAL seconds.
- Only answers to own requests are read, and only neighbours are answered, within a budget of bytes.
- What is kept is bounded in count and bytes. A presence beyond the bounds comes with its owner's next renewal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass

from exchange.feeds.exchange_messages import (
    KeptPresence,
    Presence,
    PresencePart,
    PresenceRequest,
    pack,
)
from exchange.feeds.presence import MAX_KNOWN, STRETCH_FROM
from exchange.model.ports import Send
from p2p.ground.tokens import TokenTable

MAX_PARTS = 1024  # of all owners, by the first bytes of their keys; a power of two
PART_OWNERS = 64  # in one part, about
MAX_IN_PART = 128  # presences in one answer: about 20 ms of signature checks
MAX_PRESENCE_BYTES = 2048  # of a presence that is kept: heads of about 80 markets
MAX_KEPT_BYTES = 16 * 1024 * 1024
ENOUGH = 0.9  # of the owners that a neighbour states: no request
MAX_UNDER_WAY = 8  # requests
ANSWER_TIMEOUT = 3.0  # seconds
MAX_TRIES = 3  # requests for one part in a round
ROUND_INTERVAL = 60.0  # seconds from the start of a round to that of the next
ANSWER_RATE = 1024 * 1024  # bytes a second of answers to one neighbour ...
ANSWER_BURST = 4 * 1024 * 1024  # ... and at once
ANSWER_COST = 1024  # bytes that an answer counts for beside its own


@dataclass(frozen=True, slots=True)
class _Kept:
    presence: Presence
    size: int  # bytes, packed
    until: float
    group: int


class PresenceTable:
    """Newest presence of each owner whose lease runs."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._groups: dict[int, dict[str, None]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def stated(self) -> int:
        """Number for digests: 0 in a small network, where renewals come soon enough."""
        return len(self) if len(self) > STRETCH_FROM else 0

    def put(self, owner: str, presence: Presence, until: float) -> None:
        """Keep a presence in place of the owner's last one, unless it exceeds a bound."""
        self.drop(owner)
        size = len(pack(presence))
        if (
            size > MAX_PRESENCE_BYTES
            or len(self._kept) >= MAX_KNOWN
            or self.bytes + size > MAX_KEPT_BYTES
        ):
            return
        group = int.from_bytes(presence.key[:2], "big") % MAX_PARTS
        self._kept[owner] = _Kept(presence, size, until, group)
        self._groups.setdefault(group, {})[owner] = None
        self.bytes += size

    def drop(self, owner: str) -> None:
        """Forget the presence of an owner: it has left, or its lease ended."""
        kept = self._kept.pop(owner, None)
        if kept is None:
            return
        self.bytes -= kept.size
        group = self._groups[kept.group]
        del group[owner]
        if not group:
            del self._groups[kept.group]

    def part(self, now: float, part: int, parts: int) -> list[KeptPresence]:
        """Return one of `parts` parts (a power of two): presences with the rest of their leases."""
        found: list[KeptPresence] = []
        for number in range(part, MAX_PARTS, parts):
            for owner in self._groups.get(number, ()):
                kept = self._kept[owner]
                left = int((kept.until - now) * 1000)
                if left > 0:
                    found.append(KeptPresence(left, kept.presence))
                    if len(found) == MAX_IN_PART:
                        return found
        return found


@dataclass(slots=True)
class _Request:
    node: str
    at: float


class PresenceExchange:
    """Requests for presences, and answers. `present`: number of other owners whose lease runs here; `neighbours`: a live
    view of the linked nodes.
    """

    def __init__(
        self, table: PresenceTable, neighbours: Container[str], present: Callable[[], int]
    ) -> None:
        self._table = table
        self._neighbours = neighbours
        self._present = present
        self._sources: dict[str, None] = {}  # neighbours that state more; next in turn first
        self._parts = 0  # of the round under way
        self._waiting: deque[int] = deque()  # parts to request
        self._tries: dict[int, int] = {}
        self._under_way: dict[int, _Request] = {}  # by part
        self._next_round = float("-inf")
        self._answers = TokenTable(ANSWER_RATE, ANSWER_BURST)
        self._out: list[Send] = []

    @property
    def busy(self) -> bool:
        """Report if requests wait or are under way."""
        return bool(self._waiting or self._under_way)

    def take_outgoing(self) -> list[Send]:
        """Return the messages to send, and forget them."""
        out, self._out = self._out, []
        return out

    def neighbour_down(self, node: str) -> None:
        """Request from others what a neighbour was asked for whose link is gone."""
        self._sources.pop(node, None)
        for part in [p for p, request in self._under_way.items() if request.node == node]:
            del self._under_way[part]
            self._waiting.append(part)

    # Requests

    def stated(self, now: float, node: str, count: int) -> None:
        """Note how many presences a neighbour states that it keeps."""
        enough = (
            not self.busy and self._present() >= ENOUGH * count
        )  # a round is brought to its end
        if node not in self._neighbours or count <= STRETCH_FROM or enough:
            self._sources.pop(node, None)
            return
        self._sources[node] = None
        if not self.busy and now >= self._next_round:
            self._next_round = now + ROUND_INTERVAL
            self._parts = 1
            while self._parts < MAX_PARTS and self._parts * PART_OWNERS < count:
                self._parts *= 2
            self._waiting.extend(range(self._parts))
            self._tries.clear()

    def tick(self, now: float) -> None:
        """Send the requests that are due."""
        for part, request in list(self._under_way.items()):
            if now >= request.at + ANSWER_TIMEOUT:
                del self._under_way[part]
                self._sources.pop(request.node, None)
                self._waiting.append(part)
        while self._waiting and len(self._under_way) < MAX_UNDER_WAY:
            if not self._sources:
                self._waiting.clear()
                return
            part = self._waiting.popleft()
            tries = self._tries[part] = self._tries.get(part, 0) + 1
            if tries > MAX_TRIES:
                continue
            node = next(iter(self._sources))
            del self._sources[node]
            self._sources[node] = None
            self._under_way[part] = _Request(node, now)
            payload = pack(PresenceRequest(part, self._parts))
            self._out.append(Send(node, "presence_request", payload))

    def on_part(self, now: float, node: str, part: PresencePart) -> list[tuple[Presence, float]]:
        """Return the presences of an answer with the seconds that are left of their leases; none if it was not
        requested."""
        request = self._under_way.get(part.part)
        if request is None or request.node != node or part.parts != self._parts:
            return []
        del self._under_way[part.part]
        took = now - request.at
        found = [(kept.presence, kept.left / 1000 - took) for kept in part.kept[:MAX_IN_PART]]
        self.tick(now)
        return [(presence, left) for presence, left in found if left > 0]

    # Answers

    def on_request(self, now: float, node: str, request: PresenceRequest) -> None:
        """Answer a neighbour's request, within its budget."""
        part, parts = request.part, request.parts
        if node not in self._neighbours or self._answers.tokens(now, node) <= 0.0:
            return
        if not 0 <= part < parts <= MAX_PARTS or parts & (parts - 1):
            return
        payload = pack(PresencePart(part, parts, self._table.part(now, part, parts)))
        self._answers.overdraw(now, node, ANSWER_COST + len(payload))
        self._out.append(Send(node, "presences", payload))
