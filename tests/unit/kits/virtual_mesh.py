"""Several routers linked in memory, on a virtual clock: every run of one seed is the same."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from math import inf

from node.virtual.server_model import VirtualTime
from p2p.base.errors import RemoteProtocolError
from p2p.base.identity import Identity
from p2p.base.limits import RELAY_RATE
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received, RelayEncryption, RouterSettings
from p2p.wire.messages import EVERYONE, Codec, Envelope

NEWS = "news"  # a broadcast type that every node takes
NOTE = "note"  # a message to one node


def anyone(origin: str, payload: bytes) -> bool:
    """Take the word of a broadcast for its origin."""
    return True


@cache
def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


class VirtualMesh(VirtualTime):
    """Nodes 0..n-1. Links keep order; what is under way on a link that goes down is lost."""

    def __init__(
        self, n: int, *, seed: int = 0, latency: tuple[float, float] = (0.001, 0.01)
    ) -> None:
        super().__init__(100.0)
        self.rng = random.Random(seed)
        self.latency = latency
        self.loss = 0.0  # of single messages, which TCP does not do: worse than life
        self.ids = [identity(i).node_id for i in range(n)]
        self.number = {node_id: i for i, node_id in enumerate(self.ids)}
        self.codec = Codec()
        self.links: dict[tuple[int, int], int] = {}  # (low, high) → epoch
        self._epochs = itertools.count(1)
        self._free_at: dict[tuple[int, int], float] = {}
        self.heard: list[Counter[bytes]] = [Counter() for _ in range(n)]  # broadcasts, by payload
        self.notes: list[list[Received]] = [[] for _ in range(n)]
        self.payload_copies = 0  # broadcast payloads put on a link
        self.sent: Counter[str] = Counter()  # messages put on a link, by type
        self.cut: list[tuple[int, int, RemoteProtocolError]] = []
        self.tap: Callable[[int, int, bytes], None] | None = None
        self.notices = False  # links to nodes that understand refusals
        self.segments = True  # links to nodes that relay encrypted sessions
        self.encryption: dict[int, RelayEncryption] = {}  # of those that encrypt
        self.relay_rates: dict[int, float] = {}
        self.routers = [self._make_router(i) for i in range(n)]
        self._due = [inf] * n  # next deadline of each router

    def _make_router(self, i: int) -> MessageRouter:
        router = MessageRouter(
            identity(i),
            rng=random.Random(f"router {i}"),
            wall_ms=lambda: int(self.now * 1000),
            fragile=True,
            settings=RouterSettings(
                relay_rate=self.relay_rates.get(i, RELAY_RATE), encryption=self.encryption.get(i)
            ),
        )

        def on_news(received: Received) -> bool:
            self.heard[i][received.payload] += 1
            return True

        def on_note(received: Received) -> bool:
            self.notes[i].append(received)
            return True

        router.handle(NEWS, on_news, origin=anyone)
        router.handle(NOTE, on_note, origin=anyone)
        return router

    # Links

    def link(self, a: int, b: int) -> None:
        low, high = sorted((a, b))
        if (low, high) in self.links or a == b:
            return
        self.links[low, high] = next(self._epochs)
        self.routers[low].link_up(
            self.now, self.ids[high], branches=True, segments=self.segments, notices=self.notices
        )
        self.routers[high].link_up(
            self.now, self.ids[low], branches=True, segments=self.segments, notices=self.notices
        )
        self._collect(low)
        self._collect(high)

    def unlink(self, a: int, b: int) -> None:
        low, high = sorted((a, b))
        if self.links.pop((low, high), None) is None:
            return
        for end, other in ((low, high), (high, low)):
            self._free_at.pop((end, other), None)
            self.routers[end].link_down(self.now, self.ids[other])
            self._collect(end)

    def link_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            self.link(a, b)

    def full_mesh(self) -> None:
        self.link_all(itertools.combinations(range(len(self.ids)), 2))

    def chain(self) -> None:
        self.link_all(itertools.pairwise(range(len(self.ids))))

    def component(self, i: int) -> list[int]:
        """The nodes that links connect with `i`, itself included."""
        found, ahead = {i}, [i]
        while ahead:
            node = ahead.pop()
            for pair in self.links:
                if node in pair:
                    other = pair[0] + pair[1] - node
                    if other not in found:
                        found.add(other)
                        ahead.append(other)
        return sorted(found)

    # Traffic

    def broadcast(self, i: int, payload: bytes) -> None:
        self.routers[i].broadcast(self.now, NEWS, payload)
        self._collect(i)

    def send(self, a: int, b: int, payload: bytes, *, queue_for: float | None = None) -> str:
        way = self.routers[a].send(self.now, self.ids[b], NOTE, payload, queue_for=queue_for)
        self._collect(a)
        return way.value

    def inject(self, a: int, b: int, envelope: Envelope) -> None:
        """Put any message on the link from `a` to `b`, as a dishonest `a` could."""
        self._put(a, b, self.codec.encode(envelope))

    def collect(self) -> None:
        """Take what the routers have to send, after a test used one directly."""
        for i in range(len(self.ids)):
            self._collect(i)

    def _collect(self, i: int) -> None:
        for outgoing in self.routers[i].take_outgoing():
            packed = self.codec.encode(outgoing.envelope)
            for peer in outgoing.peers:
                other = self.number[peer]
                self.sent[outgoing.envelope.type] += 1
                self.payload_copies += outgoing.envelope.to == EVERYONE
                if self.tap is not None:
                    self.tap(i, other, packed)
                self._put(i, other, packed)
        self._due[i] = self._deadline(i)

    def _deadline(self, i: int) -> float:
        deadline = self.routers[i].next_deadline()
        return inf if deadline is None else deadline

    def _put(self, a: int, b: int, packed: bytes) -> None:
        low, high = sorted((a, b))
        epoch = self.links.get((low, high))
        if epoch is None or (self.loss and self.rng.random() < self.loss):
            return
        at = max(self._free_at.get((a, b), 0.0), self.now + self.rng.uniform(*self.latency))
        self._free_at[a, b] = at
        self.at(at, self._arrive, a, b, epoch, packed)

    # Time

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        due = self._due = [self._deadline(i) for i in range(len(self.routers))]
        while (at := min(timer := min(due), self.next_due)) < end:
            if self.next_due <= at:
                self.step()
                continue
            self.now = max(self.now, at)
            i = due.index(timer)
            self.routers[i].tick(self.now)
            self._collect(i)
            assert due[i] > self.now  # or a driver would spin
        self.now = end

    def _arrive(self, a: int, b: int, epoch: int, packed: bytes) -> None:
        if self.links.get((min(a, b), max(a, b))) != epoch:
            return
        try:
            self.routers[b].receive(self.now, self.ids[a], self.codec.decode(packed))
        except RemoteProtocolError as error:
            self.cut.append((b, a, error))
            self.unlink(a, b)
        self._collect(b)
