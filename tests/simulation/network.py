"""Virtual links between nodes: delay, loss, duplication, reordering, breaks, silence, partitions.

An edge is a pair of nodes that want a link; it is dialled again and again while both run and no
partition separates them. In stream mode a link behaves as TCP does: in order, nothing lost while it
lasts, everything under way lost when it breaks, and each end learns of the break in its own time. In
datagram mode single messages are lost, doubled and delayed apart from each other as well, which no
TCP link does: the protocols must bear it.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from node.virtual.server_model import VirtualTime
from tests.simulation.clock import Trace

NOTICE_SILENCE = (
    2.0,
    8.5,
)  # seconds until an end gives a silent link up: p2p.base.limits.DEAD_AFTER
REDIAL = (0.1, 1.5)

Edge = tuple[int, int]  # lower number first


def edge_of(a: int, b: int) -> Edge:
    return (min(a, b), max(a, b))


class End(Protocol):
    """Methods of a node that the network calls."""

    running: bool
    boots: int  # how often it has started

    def link_up(self, peer: int) -> None: ...

    def link_down(self, peer: int) -> None: ...

    def message(self, peer: int, packed: bytes) -> None: ...


@dataclass(slots=True)
class Conditions:
    """Conditions of links. Seconds and probabilities."""

    datagrams: bool
    delay: tuple[float, float]  # base delay of an edge is drawn from here
    jitter: float  # mean of what each message adds
    loss: float = 0.0  # datagram mode only, as are the next two
    doubled: float = 0.0
    straggler: float = 0.0  # delayed by up to two seconds


@dataclass(slots=True)
class Link:
    number: int
    edge: Edge
    boots: tuple[int, int]  # the processes that dialled and answered
    open: bool = True  # carries messages
    muted: int | None = None  # what this end sends does not arrive
    up: set[int] = field(default_factory=set)  # ends that believe in it
    free_at: dict[int, float] = field(
        default_factory=dict
    )  # by sender: arrival of its last message


class Network:
    def __init__(
        self,
        clock: VirtualTime,
        trace: Trace,
        rng: random.Random,
        conditions: Conditions,
        edges: Iterable[Edge],
    ) -> None:
        self._clock = clock
        self._trace = trace
        self._rng = rng
        self._conditions = conditions
        self.calm = False  # the quiet period: no loss, nobody flaps
        self.hostile: set[Edge] = set()  # edges to dishonest nodes
        self._refused_until: dict[Edge, float] = {}
        self.ends: list[End] = []
        self.edges = sorted(edges)
        self._base = {edge: rng.uniform(*conditions.delay) for edge in self.edges}
        self._links: dict[Edge, Link] = {}  # the newest of each edge, broken ones included
        self._believed: dict[tuple[int, int], Link] = {}  # (end, peer)
        self._numbers = itertools.count(1)
        self._side: dict[int, int] = {}  # partition: node -> group
        self.messages = 0
        self.lost = 0
        self.on_send: Callable[[int, int, str], None] = lambda a, b, kind: None

    def add_hostile(self, edge: Edge) -> None:
        """Add an edge between an honest and a dishonest node, before the start."""
        self.hostile.add(edge)
        self.edges.append(edge)
        self._base[edge] = self._rng.uniform(*self._conditions.delay)

    def start(self, ends: list[End]) -> None:
        self.ends = ends
        for edge in self.edges:
            self._clock.after(self._rng.uniform(0.0, 0.3), lambda edge=edge: self._dial(edge))

    # Links coming and going

    def _separated(self, edge: Edge) -> bool:
        a, b = edge
        return self._side.get(a, 0) != self._side.get(b, 0)

    def _dial(self, edge: Edge) -> None:
        link = self._links.get(edge)
        a, b = edge
        if (
            (link is None or not link.open)
            and self.ends[a].running
            and self.ends[b].running
            and not self._separated(edge)
            and self._refused_until.get(edge, 0.0) <= self._clock.now
        ):
            self._connect(edge)
        self._clock.after(self._rng.uniform(*REDIAL), lambda: self._dial(edge))

    def _connect(self, edge: Edge) -> None:
        link = self._links[edge] = Link(
            next(self._numbers), edge, (self.ends[edge[0]].boots, self.ends[edge[1]].boots)
        )
        first, second = edge if self._rng.random() < 0.5 else edge[::-1]
        # The end that finishes the handshake first may speak before the other is done.
        delay = self._base[edge] * self._rng.uniform(0.5, 1.5)
        link.free_at[first] = self._clock.now + delay
        self._up(link, first)
        self._clock.after(delay, lambda: self._up(link, second))

    def _up(self, link: Link, end: int) -> None:
        if not link.open:
            return
        peer = sum(link.edge) - end
        if not self.ends[end].running or self.ends[end].boots != link.boots[link.edge.index(end)]:
            return
        before = self._believed.get((end, peer))
        if before is not None:  # a silent old one that this end had not given up
            self._down(before, end)
            if not link.open or not self.ends[end].running:
                return
        self._believed[end, peer] = link
        link.up.add(end)
        self._trace.note("up", end, peer, link.number)
        self.ends[end].link_up(peer)

    def _down(self, link: Link, end: int) -> None:
        peer = sum(link.edge) - end
        if self._believed.get((end, peer)) is not link:
            return
        del self._believed[end, peer]
        link.up.discard(end)
        self._trace.note("down", end, peer, link.number)
        if self.ends[end].running:
            self.ends[end].link_down(peer)

    def break_link(self, edge: Edge, *, silently: bool) -> None:
        """Break a link; messages under way are lost. `silently`: the ends notice it by timeouts only."""
        link = self._links.get(edge)
        if link is None or not link.open:
            return
        self._trace.note("silence" if silently else "break", *edge, link.number)
        link.open = False
        for end in edge:
            delay = self._rng.uniform(*NOTICE_SILENCE) if silently else self._rng.uniform(0.0, 0.05)
            self._clock.after(delay, lambda end=end: self._down(link, end))

    def refuse(self, edge: Edge, *, seconds: float) -> None:
        """One end cuts the link and takes no other for a while."""
        self._refused_until[edge] = self._clock.now + seconds
        self.break_link(edge, silently=False)

    def mute(self, edge: Edge, sender: int) -> None:
        """From now on nothing arrives of what `sender` sends, until the other end gives the link up."""
        link = self._links.get(edge)
        if link is None or not link.open or link.muted is not None:
            return
        self._trace.note("mute", *edge, sender)
        link.muted = sender
        self._clock.after(
            self._rng.uniform(*NOTICE_SILENCE),
            lambda: self._links.get(edge) is link and self.break_link(edge, silently=False),
        )

    def gone(self, end: int, *, silently: bool) -> None:
        """The process of `end` died: its own beliefs are gone, the others learn in their time."""
        for edge in self.edges:
            if end in edge:
                link = self._links.get(edge)
                peer = sum(edge) - end
                self._believed.pop((end, peer), None)
                if link is not None:
                    link.up.discard(end)
                self.break_link(edge, silently=silently)

    def close(self, end: int) -> None:
        """An orderly end: the others learn it after everything that was sent to them."""
        for edge in self.edges:
            link = self._links.get(edge)
            if end not in edge or link is None or not link.open:
                continue
            peer = sum(edge) - end
            self._believed.pop((end, peer), None)
            link.up.discard(end)
            last = max(link.free_at.get(end, 0.0), self._clock.now + self._base[edge])
            self._clock.at(last, lambda link=link, peer=peer: self._closed(link, peer))

    def _closed(self, link: Link, end: int) -> None:
        link.open = False
        self._down(link, end)

    def partition(self, groups: dict[int, int], *, silently: bool) -> None:
        """Only nodes of one group reach each other from now on."""
        self._side = groups
        for edge in self.edges:
            if self._separated(edge):
                self.break_link(edge, silently=silently)

    def heal(self) -> None:
        self._side = {}

    @property
    def whole(self) -> bool:
        """Report if every edge has a link that both ends consider up, those of dishonest nodes aside."""
        return all(
            (link := self._links.get(edge)) is not None and link.open and len(link.up) == 2
            for edge in self.edges
            if edge not in self.hostile
        )

    # Messages

    def send(self, sender: int, to: int, kind: str, packed: bytes) -> None:
        self.messages += 1
        link = self._believed.get((sender, to))
        if link is None:
            return
        self._trace.note("send", sender, to, kind, zlib.crc32(packed))
        rng, conditions = self._rng, self._conditions
        if link.open and link.muted != sender:
            delay = self._base[link.edge] + rng.expovariate(1 / conditions.jitter)
            if not conditions.datagrams or self.calm:
                at = max(link.free_at.get(sender, 0.0), self._clock.now + delay)
                link.free_at[sender] = at
                self._clock.at(at, lambda: self._arrive(link, sender, to, packed))
            else:
                self._send_datagram(link, sender, to, packed, delay)
        else:
            self.lost += 1
        self.on_send(sender, to, kind)

    def _send_datagram(self, link: Link, sender: int, to: int, packed: bytes, delay: float) -> None:
        rng, conditions = self._rng, self._conditions
        # Nothing before the other end is up: there a datagram would be a stranger's.
        start = max(0.0, link.free_at.get(sender, 0.0) - self._clock.now)
        copies = 1 + (rng.random() < conditions.doubled)
        for _ in range(copies):
            if rng.random() < conditions.loss:
                self.lost += 1
                continue
            late = rng.uniform(0.0, 2.0) if rng.random() < conditions.straggler else 0.0
            self._clock.after(
                start + delay * rng.uniform(0.3, 3.0) + late,
                lambda: self._arrive(link, sender, to, packed),
            )

    def _arrive(self, link: Link, sender: int, to: int, packed: bytes) -> None:
        believed = self._believed.get((to, sender))
        # A straggler of an earlier link still gets through in datagram mode.
        if believed is None or (believed is not link and not self._conditions.datagrams):
            self.lost += 1
            return
        if believed is link and not link.open:
            self.lost += 1
            return
        self.ends[to].message(sender, packed)


def topology(kind: str, n: int, rng: random.Random) -> list[Edge]:
    """Edges of a connected network of nodes 0..n-1."""
    if kind == "mesh":
        return list(itertools.combinations(range(n), 2))
    chain = list(itertools.pairwise(range(n)))
    if kind == "chain":
        return chain
    if kind == "ring":
        return sorted({*chain, (0, n - 1)}) if n > 2 else chain
    edges = {(rng.randrange(i), i) for i in range(1, n)}  # a random tree and some more
    for _ in range(n):
        a, b = sorted(rng.sample(range(n), 2))
        edges.add((a, b))
    return sorted(edges)
