"""Broadcasts in a large overlay: `BroadcastTree` of every node, links with delay, loss and bandwidth."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from node.virtual.server_model import VirtualTime
from p2p.mesh.broadcast_tree import BroadcastTree
from p2p.wire.messages import Branch, Graft, IHave, Prune
from tests.simulation.scale.overlay_graph import OverlayGraph, make_graph
from tests.simulation.scale.recorded_tree import RecordedTree, replayed

ENVELOPE = 180  # bytes of an envelope, frame and TLS record around a payload
CONTROL = 150  # the same around a control message
ID_BYTES = 18
AGE_BYTES = 2
RECORDED = 5  # nodes whose trees are measured by themselves, too


@dataclass
class BroadcastCase:
    """One run. Rates are of the whole network; bandwidth is that of a node's uplink, 0 for no limit."""

    name: str
    nodes: int = 200
    dials: int = 8
    max_links: int = 50
    rate: float = 50.0
    origins: int = 0  # 0: every node
    payload: int = 500
    loss: float = 0.0
    churn: float = 0.0  # part of the nodes that leave, and come again elsewhere, in a minute
    mbit: float = 0.0
    nat_share: float = 0.6
    mesh: bool = False
    lan: bool = False
    warm_up: float = 6.0  # seconds before broadcasts count
    measured: int = 300  # broadcasts
    drain: float = 6.0
    seed: int = 1


@dataclass
class BroadcastFigures:
    """Figures of one run. Times are seconds; `p50_x` and so on are multiples of the shortest paths' same quantile."""

    name: str
    nodes: int
    links: float
    rate: float
    copies: float
    control_messages: float
    control_ids: float
    pulls: float
    p50: float
    p99: float
    longest: float
    p50_x: float
    p99_x: float
    longest_x: float
    coverage: float
    kb_per_node: float  # sent for each broadcast
    cpu_us: float  # of a tree beside all others, for each node and broadcast
    cpu_alone_us: float  # the same of a tree by itself
    settled: float  # seconds after the start at which p99 stays within 2 times the shortest
    wall: float


@dataclass
class _Sent:
    origin: int
    at: float
    number: int
    counted: bool
    got: dict[int, float]
    present: set[int] | None = None


class BroadcastRun(VirtualTime):
    """A network of broadcast trees in virtual time."""

    def __init__(self, case: BroadcastCase, progress: Callable[[float], None] = lambda part: None):
        super().__init__()
        self.case = case
        self.rng = random.Random(f"broadcasts {case.seed}")
        self.progress = progress
        self.graph: OverlayGraph = make_graph(
            case.nodes,
            dials=case.dials,
            max_links=case.max_links,
            nat_share=case.nat_share,
            seed=case.seed,
            mesh=case.mesh,
            lan=case.lan,
        )
        # Collected, so that the model's own work is not counted as that of the tree.
        self._emitted: list[tuple[int, tuple[str, ...], Any]] = []
        self.names = [f"{i:05d}" for i in range(case.nodes)]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.trees: list[BroadcastTree[bytes]] = []
        self.wake: list[float] = [float("inf")] * case.nodes
        self.free_at = [0.0] * case.nodes
        self.broadcasts: dict[bytes, _Sent] = {}
        self.recent: deque[_Sent] = deque(maxlen=round(20 * case.rate) + 1)
        self.sent: Counter[str] = Counter()
        self.bytes = 0
        self.counting = False
        self.cpu = 0.0
        self.absent: set[int] = set()
        self.silent: set[int] = set()
        self.recorded: list[RecordedTree] = []
        for node in range(case.nodes):
            emit = partial(self._emit, node)
            if node % (case.nodes // RECORDED) == 0 and len(self.recorded) < RECORDED:
                self.recorded.append(RecordedTree(emit, lambda: self.now))
                self.trees.append(self.recorded[-1])
            else:
                self.trees.append(BroadcastTree(emit))
        for node, links in enumerate(self.graph.links):
            for other in links:
                self.trees[node].link_up(0.0, self.names[other], able=True)

    # Sending

    def _emit(self, node: int, peers: tuple[str, ...], message: Any) -> None:
        self._emitted.append((node, peers, message))

    def _send_emitted(self) -> None:
        for node, peers, message in self._emitted:
            self._send(node, peers, message)
        self._emitted.clear()

    def _send(self, node: int, peers: tuple[str, ...], message: Any) -> None:
        links, case, counting = self.graph.links[node], self.case, self.counting
        if isinstance(message, bytes):
            kind, size = "copies", case.payload + ENVELOPE
            counting = self.broadcasts[message].counted
        elif isinstance(message, IHave):
            kind = "ihave"
            size = CONTROL + ID_BYTES * len(message.ids) + AGE_BYTES * len(message.ages)
        elif isinstance(message, Graft):
            kind, size = "graft", CONTROL + ID_BYTES * len(message.ids)
        else:
            kind, size = "branch" if isinstance(message, Branch) else "prune", CONTROL
        if counting:
            self.sent[kind] += len(peers)
            if kind == "ihave":
                self.sent["ids"] += len(peers) * len(message.ids)
        if self.counting:
            self.bytes += size * len(peers)
        for peer in peers:
            other = self.number[peer]
            delay = links.get(other)
            if delay is None or (case.loss and self.rng.random() < case.loss):
                continue
            at = self.now
            if case.mbit:
                at = max(at, self.free_at[node]) + size * 8 / (case.mbit * 1e6)
                self.free_at[node] = at
            self.at(at + delay, self._arrived, node, other, message)

    def _schedule(self, node: int) -> None:
        at = self.trees[node].next_deadline()
        if at is not None and at < self.wake[node]:
            self.wake[node] = at
            self.at(at, self._woken, node)

    # Time

    def step(self) -> None:
        super().step()
        self._send_emitted()

    def _woken(self, node: int) -> None:
        if self.wake[node] == self.now and node not in self.silent:
            self.wake[node] = float("inf")
            self._measured(node, partial(self.trees[node].tick, self.now))

    def _arrived(self, source: int, node: int, message: Any) -> None:
        if node in self.graph.links[source] and node not in self.silent:
            self._measured(node, partial(self._receive, node, source, message))

    def _measured(self, node: int, work: Callable[[], object]) -> None:
        began = time.thread_time()
        work()
        if self.counting:
            self.cpu += time.thread_time() - began
        self._send_emitted()
        self._schedule(node)

    def _receive(self, node: int, source: int, message: Any) -> None:
        tree, via = self.trees[node], self.names[source]
        if isinstance(message, bytes):
            if message in tree.seen:
                tree.duplicate(self.now, message, via)
                return
            sent = self.broadcasts[message]
            sent.got[node] = self.now
            tree.add(self.now, message, message, self.case.payload, via, self.names[sent.origin])
        elif isinstance(message, IHave):
            tree.on_announcement(self.now, via, message.ids, message.ages)
        elif isinstance(message, Graft):
            tree.on_pull(self.now, via, message.ids, push=message.push, few_links=message.few_links)
        elif isinstance(message, Prune):
            tree.on_prune(self.now, via, refusal=message.refusal)
        else:
            tree.on_branch(via, message)

    def broadcast(self, origin: int, *, counted: bool) -> None:
        key = self.rng.randbytes(16)
        present = set(range(self.case.nodes)) - self.absent if self.case.churn else None
        sent = _Sent(origin, self.now, len(self.broadcasts), counted, {}, present)
        self.broadcasts[key] = sent
        self.recent.append(sent)
        self.trees[origin].add(self.now, key, key, self.case.payload, origin=self.names[origin])
        self._schedule(origin)

    # Churn

    def leave(self, node: int) -> None:
        """End all links of a node."""
        self.absent.add(node)
        for sent in self.recent:
            if sent.present is not None:
                sent.present.discard(node)
        for other in list(self.graph.links[node]):
            self.graph.unlink(node, other)
            self.trees[node].link_down(self.now, self.names[other])
            self.trees[other].link_down(self.now, self.names[node])
            self._schedule(other)

    def silence(self, nodes: set[int]) -> None:
        """Stop nodes without a word: their links are still up at the other ends."""
        self.silent |= nodes
        self.absent |= nodes

    def join(self, node: int) -> None:
        """Link a node to others as at the start, and give the others new links for those that they lost."""
        self.absent.discard(node)
        public = [
            i for i, nat in enumerate(self.graph.behind_nat) if not nat and i not in self.absent
        ]
        for other in self.graph.dial(node, self.case.dials, self.case.max_links, public):
            self._link_up(node, other)

    def _link_up(self, node: int, other: int) -> None:
        self.trees[node].link_up(self.now, self.names[other], able=True)
        self.trees[other].link_up(self.now, self.names[node], able=True)
        self._schedule(node)
        self._schedule(other)

    def redial(self, node: int) -> None:
        """Dial until the node has its links again."""
        public = [
            i for i, nat in enumerate(self.graph.behind_nat) if not nat and i not in self.absent
        ]
        lacking = self.case.dials - len(self.graph.links[node])
        if lacking > 0 and node not in self.absent:
            for other in self.graph.dial(node, lacking, self.case.max_links, public):
                self._link_up(node, other)


def run_case(
    case: BroadcastCase, progress: Callable[[float], None] = lambda part: None
) -> BroadcastFigures:
    """Run one case and return its figures."""
    began = time.perf_counter()
    run = BroadcastRun(case, progress)
    rng = run.rng
    origins = rng.sample(range(case.nodes), case.origins or case.nodes)
    span = case.measured / case.rate
    end = case.warm_up + span
    at = 0.0
    while True:
        at += rng.expovariate(case.rate)
        if at >= end:
            break
        plan_broadcast(run, at, rng.choice(origins), counted=at >= case.warm_up)
    if case.churn:
        _plan_churn(run, end)
    steps = 40
    for step in range(1, steps + 1):
        until = end * step / steps
        if not run.counting and until > case.warm_up:
            run.run(case.warm_up)
            run.counting = True
        run.run(until)
        progress(0.9 * step / steps)
    run.counting = False
    run.run(end + case.drain)
    return _figures(run, time.perf_counter() - began)


def plan_broadcast(run: BroadcastRun, at: float, origin: int, *, counted: bool) -> None:
    """Broadcast at a time, if the origin is there."""

    def action() -> None:
        if origin not in run.absent:
            run.broadcast(origin, counted=counted)

    run.at(at, action)


def _plan_churn(run: BroadcastRun, end: float) -> None:
    rng, case = run.rng, run.case
    at = 0.0
    while True:
        at += rng.expovariate(case.churn * case.nodes / 60.0)
        if at >= end:
            return
        node = rng.randrange(1, case.nodes)

        def leave(node: int = node) -> None:
            if node in run.absent:
                return
            neighbours = list(run.graph.links[node])
            run.leave(node)
            for other in neighbours:
                run.at(run.now + rng.uniform(1.0, 3.0), partial(run.redial, other))
            run.at(run.now + rng.uniform(2.0, 6.0), partial(run.join, node))

        run.at(at, leave)


def quantile(values: list[float], part: float) -> float:
    """Return the quantile of sorted values."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def _figures(run: BroadcastRun, wall: float) -> BroadcastFigures:
    case = run.case
    shortest: dict[int, list[float]] = {}
    took: list[float] = []
    ideal: list[float] = []
    expected = got = count = 0
    by_second: dict[int, list[tuple[float, float]]] = {}
    for sent in run.broadcasts.values():
        if not sent.counted and (case.churn or case.nodes > 2000):
            continue  # a search for shortest paths takes a second with 10,000 nodes
        if sent.origin not in shortest:
            shortest[sent.origin] = run.graph.shortest(sent.origin)
        path = shortest[sent.origin]
        pairs = [
            (at - sent.at, path[node])
            for node, at in sent.got.items()
            if sent.present is None or node in sent.present
        ]
        by_second.setdefault(int(sent.at), []).extend(pairs)
        if not sent.counted:
            continue
        count += 1
        present = sent.present
        if present is None:
            expected += case.nodes - 1
            got += len(pairs)
        else:
            stayed = present - run.absent - {sent.origin}
            expected += len(stayed)
            got += sum(node in sent.got for node in stayed)
        took += [pair[0] for pair in pairs]
        ideal += [pair[1] for pair in pairs if pair[1] < 1e9]
    counted = sum(sent.counted for sent in run.broadcasts.values())
    took.sort()
    ideal.sort()
    each = max(1, counted) * (case.nodes - 1)
    control = sum(run.sent[kind] for kind in ("ihave", "graft", "prune", "branch"))
    settled = 0.0
    for second, pairs in sorted(by_second.items()):
        late = sorted(pair[0] for pair in pairs)
        best = sorted(pair[1] for pair in pairs)
        if quantile(late, 0.99) > 2.0 * quantile(best, 0.99):
            settled = second + 1.0
    ratio = [quantile(took, part) / (quantile(ideal, part) or 1.0) for part in (0.5, 0.99)]
    return BroadcastFigures(
        name=case.name,
        nodes=case.nodes,
        links=sum(map(len, run.graph.links)) / case.nodes,
        rate=case.rate,
        copies=run.sent["copies"] / each,
        control_messages=control / each,
        control_ids=run.sent["ids"] / each,
        pulls=sum(tree.counters["pulled"] for tree in run.trees)
        / (case.nodes * len(run.broadcasts)),
        p50=quantile(took, 0.5),
        p99=quantile(took, 0.99),
        longest=took[-1] if took else 0.0,
        p50_x=ratio[0],
        p99_x=ratio[1],
        longest_x=(took[-1] / ideal[-1]) if took else 0.0,
        coverage=got / max(1, expected),
        kb_per_node=run.bytes / each / 1000,
        cpu_us=run.cpu / each * 1e6,
        cpu_alone_us=replayed(run.recorded, case.warm_up, case.warm_up + case.measured / case.rate)
        / (len(run.recorded) * max(1, counted))
        * 1e6,
        settled=settled,
        wall=wall,
    )
