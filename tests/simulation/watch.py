"""Sees everything that happens in a run, and asks the invariants at every step.

Fills are kept in two parts for each node: on its disk, and in memory only (lost in a crash).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from exchange.core import Drained
from exchange.engine import Engine
from exchange.events import Batch, Event
from exchange.messages import FeedPart, TakeResult, unpack
from exchange.ports import Message
from exchange.records import Fill, Order, PutBatch, PutFill
from tests.simulation import invariants
from tests.simulation.invariants import FillKey, Offer, Spec, Violation


class Watch:
    def __init__(self, node_ids: list[str], public_keys: list[bytes]) -> None:
        self.node_ids = node_ids
        self.number_of = {node_id: i for i, node_id in enumerate(node_ids)}
        self._owner_of = dict(zip(public_keys, node_ids, strict=True))
        self.specs: dict[tuple[str, int], Spec] = {}
        n = len(node_ids)
        self.on_disk: list[dict[FillKey, Fill]] = [{} for _ in range(n)]
        self.in_memory: list[dict[FillKey, Fill]] = [{} for _ in range(n)]
        self._filled: Counter[tuple[str, int]] = Counter()  # by the owner's records
        self._value: Counter[tuple[str, int]] = Counter()
        self._filled_by_others: Counter[tuple[str, int]] = Counter()
        self.events: dict[tuple[str, str], dict[int, Event]] = defaultdict(dict)
        self._seen_batches: set[tuple[bytes, str, int, bytes]] = set()
        self._acknowledged: list[dict[tuple[str, int], Order]] = [{} for _ in range(n)]
        self._news: list[dict[tuple[str, str, int], list[tuple[int, int | None]]]] = [
            {} for _ in range(n)
        ]
        self._heard: list[set[tuple[str, str, bytes]]] = [set() for _ in range(n)]
        self._only_earlier = [False] * n
        self.decisions = 0
        self.grants = 0
        self.refusals = 0

    def _name(self, node: int, order: int) -> str:
        return f"order {order} of node {node} ({self.node_ids[node]})"

    # What should not happen at all

    def warning(self, text: str) -> None:
        raise Violation("one_event_per_number", f"a node warns: {text}")

    def refused(self, node: int, kind: str, origin: str) -> None:
        raise Violation(
            "honest_messages_are_valid",
            f"node {node} refuses a {kind} of node {self.number_of[origin]}",
        )

    # Life

    def started(self, node: int, engine: Engine) -> None:
        self.acknowledged_is_there(node, engine.order)

    def crashed(self, node: int) -> None:
        for fill in self.in_memory[node].values():
            self._count(node, fill, -1)
        self.in_memory[node].clear()
        self._news[node].clear()
        self._heard[node].clear()

    # Broadcasts

    def heard(self, node: int, kind: str, origin: str, payload: bytes) -> None:
        """The router hands a broadcast to the exchange."""
        invariants.heard_once(self._heard[node], node, kind, origin, payload)

    # Orders and answers

    def submitted(self, node: int, order: Order) -> None:
        self.specs[self.node_ids[node], order.number] = Spec(
            order.market, order.side, order.price, order.quantity
        )

    def acknowledged(self, node: int, command: str, order: Order) -> None:
        self._acknowledged[node].setdefault((command, order.number), order)

    def acknowledged_is_there(self, node: int, find: Callable[[int], Order | None]) -> None:
        for (command, number), order in self._acknowledged[node].items():
            invariants.survives(order, command, find(number), self._name(node, number))

    # Decisions

    def begin_matching(self, node: int, *, only_earlier: bool) -> None:
        self._only_earlier[node] = only_earlier

    def decision(
        self,
        engine: Engine,
        node: int,
        taker: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
    ) -> None:
        self.decisions += 1
        invariants.best_first(
            taker,
            self.node_ids[node],
            self._offers(engine, node, taker),
            (maker, maker_order),
            price,
            quantity,
            only_earlier=self._only_earlier[node],
        )

    def matched(self, engine: Engine, node: int, taker: Order) -> None:
        if taker.free:
            invariants.nothing_missed(
                taker,
                self.node_ids[node],
                self._offers(engine, node, taker),
                only_earlier=self._only_earlier[node],
            )

    def result(self, engine: Engine, node: int, now: float, maker: str, result: TakeResult) -> None:
        """Remember what an answer says about the maker's order until the maker's feed says it."""
        take = next((t for t in engine.pending_takes if t.take == result.take), None)
        if take is None or take.maker != maker:
            return
        if result.quantity:
            self.grants += 1
        else:
            self.refusals += 1
        left = result.quantity if result.quantity == take.quantity else None
        self._news[node].setdefault((take.market, maker, take.maker_order), []).append(
            (result.number, left)
        )

    def _offers(self, engine: Engine, node: int, taker: Order) -> list[Offer]:
        """What crosses `taker`, worked out from feeds, leases, own takes and answers."""
        own = self.node_ids[node]
        present = {own, *engine.present}
        asked: Counter[tuple[str, int]] = Counter()
        for take in engine.pending_takes:
            if take.market == taker.market:
                asked[take.maker, take.maker_order] += take.quantity
        offers = []
        for (owner, market), feed in engine.feeds.items():
            if market != taker.market or owner not in present or feed.fault is not None:
                continue
            for number, order in feed.state.orders.items():
                if order.side == taker.side or (
                    taker.price is not None and taker.side * order.price > taker.side * taker.price
                ):
                    continue
                available = order.shown - asked[owner, number]
                for at, gone in self._news[node].get((market, owner, number), ()):
                    if feed.number < at:
                        available = 0 if gone is None else available - gone
                if available > 0:
                    offers.append(
                        Offer(order.side, order.price, order.time, owner, number, available)
                    )
        return offers

    # Draining and committing

    def drained(self, node: int, engine: Engine, drained: Drained) -> None:
        written = [record.fill for record in drained.records if isinstance(record, PutFill)]
        if written != drained.fills:
            raise Violation("recorded_once", f"told {drained.fills}, wrote {written}")
        for fill in drained.fills:
            self._new_fill(node, fill)
        if drained.orders:
            pending: Counter[int] = Counter()
            for take in engine.pending_takes:
                pending[take.order] += take.quantity
            own = self.node_ids[node]
            for order in drained.orders:
                key = (own, order.number)
                invariants.adds_up(
                    order,
                    self._filled[key],
                    self._value[key],
                    pending[order.number],
                    self._name(node, order.number),
                )

    def _new_fill(self, node: int, fill: Fill) -> None:
        own = self.node_ids[node]
        invariants.recorded_once((self.on_disk[node], self.in_memory[node]), fill)
        self.in_memory[node][fill.taker, fill.take, fill.role] = fill
        self._count(node, fill, 1)
        spec = self.specs[own, fill.order]
        invariants.within_limit(fill, spec)
        if fill.role == "taker" and fill.counterparty != own:
            invariants.maker_first(self.on_disk[self.number_of[fill.counterparty]], own, fill)
        for key in ((own, fill.order), (fill.counterparty, fill.counterparty_order)):
            if key in self.specs:
                invariants.never_overfilled(
                    self.specs[key],
                    self._filled[key],
                    self._filled_by_others[key],
                    self._name(self.number_of[key[0]], key[1]),
                )

    def _count(self, node: int, fill: Fill, sign: int) -> None:
        own = (self.node_ids[node], fill.order)
        self._filled[own] += sign * fill.quantity
        self._value[own] += sign * fill.quantity * fill.price
        self._filled_by_others[fill.counterparty, fill.counterparty_order] += sign * fill.quantity

    def durable(self, node: int, drained: Drained) -> None:
        for record in drained.records:
            if isinstance(record, PutFill):
                fill = record.fill
                key = (fill.taker, fill.take, fill.role)
                self.on_disk[node][key] = self.in_memory[node].pop(key)
            elif isinstance(record, PutBatch) and record.owner == self.node_ids[node]:
                self._saw(record.batch)

    def leaves(self, message: Message) -> None:
        """The node sends this: from now on others may know what is in it."""
        if message.type in ("order", "trade"):
            batch = unpack(message.type, message.payload)
            assert isinstance(batch, Batch)
            self._saw(batch)
        elif message.type == "feed":
            part = unpack(message.type, message.payload)
            assert isinstance(part, FeedPart)
            for batch in part.batches:
                self._saw(batch)
            if part.checkpoint is not None:
                self._saw(part.checkpoint)

    def _saw(self, batch: Batch) -> None:
        key = (batch.key, batch.market, batch.first, batch.signature)
        if key in self._seen_batches:
            return
        self._seen_batches.add(key)
        owner = self._owner_of[batch.key]
        invariants.one_event_per_number(
            self.events[owner, batch.market], owner, batch.market, batch.first, batch.events
        )

    # The end

    @property
    def fills(self) -> int:
        return sum(map(len, self.on_disk))

    def final(self, find: Callable[[int], Callable[[int], Order | None]]) -> None:
        """Everything that holds when all is quiet, from what is on the disks."""
        fills = dict(zip(self.node_ids, self.on_disk, strict=True))
        invariants.both_sides(fills)
        invariants.conserved({node: own.values() for node, own in fills.items()})
        for node in range(len(self.node_ids)):
            self.acknowledged_is_there(node, find(node))
