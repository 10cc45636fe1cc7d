"""Sees everything that happens in a run, and asks the invariants at every step.

Fills are kept in two parts for each node: on its disk, and in memory only (lost in a crash).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from exchange.engine.engine import Engine
from exchange.feeds.exchange_messages import FeedPart, TakeResult, unpack
from exchange.model.commands import NewOrder
from exchange.model.events import Batch, Event
from exchange.model.ports import Message
from exchange.model.records import Decision, Fill, Order, PutBatch, unfolded
from exchange.orders.engine_context import Drained
from p2p.mesh.routed_messages import Received
from tests.simulation import invariants, money, promises
from tests.simulation.books import Books
from tests.simulation.invariants import FillKey, Offer, Violation
from tests.simulation.operators import Operator
from tests.simulation.promises import Spec, Version
from tests.simulation.register import Register

REFUSED = 5.1  # seconds for which an order whose owner refused may be left alone


class Watch:
    """`patient`: nobody is cut off from anybody for as long as a reservation is kept. `hostile`: numbers of the
    dishonest nodes, whose own doings are not judged."""

    def __init__(
        self,
        node_ids: list[str],
        public_keys: list[bytes],
        operators: list[Operator],
        *,
        patient: bool = True,
        hostile: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.node_ids = node_ids
        self.hostile = hostile
        self.books = [
            Books(node, node_id, operator)
            for node, (node_id, operator) in enumerate(zip(node_ids, operators, strict=True))
        ]
        self.registers = [Register(node) for node in range(len(node_ids))]
        self._patient = patient
        self._given_up: set[tuple[str, int]] = set()  # takes of which a reservation ran out
        # (market, price, trade) of what each node saw, in that order
        self._trades: list[list[tuple[str, int, tuple[str, int]]]] = [[] for _ in node_ids]
        self.number_of = {**{node_id: i for i, node_id in enumerate(node_ids)}, **hostile}
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
        self._refused: list[dict[tuple[str, str, int], float]] = [{} for _ in range(n)]
        self._heard: list[set[tuple[str, str, bytes]]] = [set() for _ in range(n)]
        self._only_earlier = [False] * n
        # Orders that a call may let go on: untriggered ones, and those that an answer frees. They leave
        # when they are matched.
        self._due: list[set[int]] = [set() for _ in range(n)]
        self.decisions = 0
        self.grants = 0
        self.refusals = 0

    def _name(self, node: int, order: int) -> str:
        return f"order {order} of node {node} ({self.node_ids[node]})"

    # What should not happen at all

    def warning(self, text: str, kind: str = "", owner: str = "") -> None:
        if any(node_id in text for node_id in self.hostile):
            return
        raise Violation("one_event_per_number", f"a node warns: {text}")

    def refused(self, node: int, kind: str, received: Received) -> None:
        """A message is not valid. An honest node never sends one, nor passes on a broadcast that others refuse."""
        origin = received.origin
        if (received.via if received.broadcast else origin) in self.hostile:
            return
        raise Violation(
            "honest_messages_are_valid",
            f"node {node} refuses a {kind} of node {self.number_of[origin]}",
        )

    # Life

    def started(self, node: int, engine: Engine) -> None:
        self.acknowledged_is_there(node, engine.order_store.get)
        self.money_is_there(node, engine)
        self._due[node] = {
            order.number for order in engine.order_store.open_orders if order.untriggered
        }

    def money_is_there(self, node: int, engine: Engine) -> None:
        """Money, and who may do what with it."""
        self.books[node].started(engine)
        self.registers[node].started(engine)

    def crashed(self, node: int) -> None:
        self.books[node].crashed()
        self._refused[node].clear()
        for fill in self.in_memory[node].values():
            self._count(node, fill, -1)
        self.in_memory[node].clear()
        self._news[node].clear()
        self._heard[node].clear()

    # Broadcasts

    def heard(self, node: int, kind: str, origin: str, payload: bytes) -> None:
        """The router hands a broadcast to the exchange."""
        if self.hostile:
            return  # they play old ones again
        invariants.heard_once(self._heard[node], node, kind, origin, payload)

    # Orders and answers

    def submitted(self, node: int, new: NewOrder, placed: list[Order]) -> None:
        """Accepted: one order, or the two of a pair."""
        for order in placed:
            known = self.specs.get((self.node_ids[node], order.number))
            # After a crash a number may be given again, and even the same time, if that follows the last one seen.
            if known is not None and known.time == order.time and known.new == new:
                continue  # it was submitted a second time
            self.registers[node].accepted(order)
            if order.untriggered:
                self._due[node].add(order.number)
            begins = order.stop - order.side * order.trailing_offset
            self.specs[self.node_ids[node], order.number] = Spec(
                new,
                order.number,
                order.time,
                order.linked_order,
                order is not placed[0],
                [begins] if order.trailing_offset and order.stop else [],
                len(self._trades[node]),
                [Version.of(order)],
            )

    def amended(self, node: int, order: Order) -> None:
        self.specs[self.node_ids[node], order.number].amended(order)

    def acknowledged(self, node: int, command: str, order: Order) -> None:
        self.specs[self.node_ids[node], order.number].settled(order)
        if command == "amend":
            self._acknowledged[node].pop((command, order.number), None)
        self._acknowledged[node].setdefault((command, order.number), order)

    def acknowledged_is_there(self, node: int, find: Callable[[int], Order | None]) -> None:
        for (command, number), order in self._acknowledged[node].items():
            spec = self.specs[self.node_ids[node], number]
            promises.survives(order, command, find(number), spec, self._name(node, number))

    # Decisions

    def begin_matching(self, node: int, *, only_earlier: bool) -> None:
        self._only_earlier[node] = only_earlier

    def decision(
        self,
        engine: Engine,
        node: int,
        now: float,
        taker: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
    ) -> None:
        self.decisions += 1
        own = self.node_ids[node]
        # None yet while it is being placed, or that of one whose number a crash has freed.
        spec = self.specs.get((own, taker.number))
        if spec is not None and spec.time == taker.time:
            promises.good_till_date(engine.us(now), spec, f"{quantity} at {price} of {maker}")
        if taker.reduce_only and not taker.account and maker != own:
            self._fits_position(engine, node, taker, quantity)
        invariants.best_first(
            taker,
            self.node_ids[node],
            self._offers(engine, node, now, taker),
            (maker, maker_order),
            price,
            quantity,
            only_earlier=self._only_earlier[node],
        )

    def _fits_position(self, engine: Engine, node: int, taker: Order, quantity: int) -> None:
        operator = self.books[node].operator
        worth = operator.worth(taker.market)
        under_way = 0
        for order in engine.order_store.open_orders:
            its = operator.worth(order.market)
            same = order.reduce_only and order.side == taker.side and its.base == worth.base
            if same and not order.account:
                under_way += (order.pending + order.reserved) * its.base_units
        position = engine.ledger.balance(money.HOUSE, worth.base)
        money.fits_position(node, taker, quantity * worth.base_units, position, under_way)

    def matched(self, engine: Engine, node: int, now: float, taker: Order) -> None:
        self._due[node].discard(taker.number)
        if taker.free:
            invariants.nothing_missed(
                taker,
                self.node_ids[node],
                self._offers(engine, node, now, taker),
                only_earlier=self._only_earlier[node],
            )

    def result(self, engine: Engine, node: int, now: float, maker: str, result: TakeResult) -> None:
        """Remember what an answer says about the maker's order until the maker's feed says it."""
        take = next((t for t in engine.orders.takes.pending if t.take == result.take), None)
        if take is None or take.maker != maker or result.reason == "reserved":
            return
        self._due[node].add(take.order)
        order = (take.market, maker, take.maker_order)
        if result.reason not in ("", "gone", "void", "late"):
            self._refused[node][order] = now + REFUSED  # its feed says nothing of that
            self.refusals += 1
            return
        if result.quantity:
            self.grants += 1
        else:
            self.refusals += 1
        left = result.quantity if result.quantity == take.quantity else None
        self._news[node].setdefault(order, []).append((result.number, left))

    def _offers(self, engine: Engine, node: int, now: float, taker: Order) -> list[Offer]:
        """Return the orders that cross `taker`, computed from feeds, leases, own takes and answers."""
        own = self.node_ids[node]
        limit = taker.price if taker.price is not None else taker.worst_price or None
        limited = bool(engine.ledger.credit)
        refused = self._refused[node]
        present = {own, *engine.present}
        asked: Counter[tuple[str, int]] = Counter()
        for take in engine.orders.takes.pending:
            if take.market == taker.market:
                asked[take.maker, take.maker_order] += take.quantity
        offers = []
        for (owner, market), feed in engine.feeds.items():
            if market != taker.market or owner not in present or feed.fault or feed.replaced:
                continue
            for number, order in feed.state.orders.items():
                if order.side == taker.side or (
                    limit is not None and taker.side * order.price > taker.side * limit
                ):
                    continue
                available = order.shown - asked[owner, number]
                for at, gone in self._news[node].get((market, owner, number), ()):
                    if feed.number < at:
                        available = 0 if gone is None else available - gone
                if available > 0:
                    doubtful = (
                        (limited and owner != own)
                        or (owner == own and _next_slice(engine, number, taker))
                        or now < refused.get((market, owner, number), 0.0)
                        or owner in self.hostile
                    )
                    offers.append(
                        Offer(
                            order.side,
                            order.price,
                            order.time,
                            owner,
                            number,
                            available,
                            doubtful=doubtful,
                        )
                    )
        if not self._only_earlier[node]:
            offers += _hidden(engine, taker, limit, own, self._due[node])
        return offers

    # Draining and committing

    def drained(self, node: int, engine: Engine, drained: Drained) -> None:
        if len(drained.fills) != drained.fill_count:
            raise Violation("recorded_once", f"told {drained.fills}, counted {drained.fill_count}")
        for market, trade in drained.trades:
            event = trade.event
            self._trades[node].append((market, event.price, (event.taker, event.take)))
        for record in drained.records:
            if isinstance(record, Decision) and record.reason == "expired":
                self._given_up.add((record.taker, record.take))
        for fill in drained.fills:
            self._new_fill(node, fill, drained)
        self.books[node].drained(engine, drained)
        for order in drained.orders:
            (self._due[node].add if order.untriggered else self._due[node].discard)(order.number)
        if drained.orders:
            pending: Counter[int] = Counter()
            reserving: Counter[int] = Counter()
            for take in engine.orders.takes.pending:
                if take.phase != "given_up":
                    pending[take.order] += take.quantity
                if take.phase in ("reserve", "granted"):
                    reserving[take.order] += take.quantity
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
                if order.tif == "fok":
                    promises.all_or_nothing(order, order.quantity, given_up=self._cut_off(own))
                    promises.given_up_at_once(order, reserving[order.number])

    def _cut_off(self, own: str) -> bool:
        return not self._patient and any(taker == own for taker, _ in self._given_up)

    def _new_fill(self, node: int, fill: Fill, drained: Drained) -> None:
        own = self.node_ids[node]
        invariants.recorded_once((self.on_disk[node], self.in_memory[node]), fill)
        self.in_memory[node][fill.taker, fill.take, fill.role] = fill
        self._count(node, fill, 1)
        spec = self.specs[own, fill.order]
        self._as_promised(node, fill, spec)
        self.registers[node].traded(fill, self._filled[own, fill.order])
        if fill.role == "maker" or fill.counterparty == own:
            taker = self.specs.get((fill.taker, fill.counterparty_order))
            if taker is None or taker.new.tif != "fok":  # for that it may have been kept in time
                promises.good_till_date(fill.time, spec, fill)
            if spec.new.reduce_only and not fill.account:
                posting = self.books[node].house_posting(drained, fill)
                if posting is not None:
                    money.reduces_only(node, fill, posting)
        if fill.role == "taker" and fill.counterparty not in (own, *self.hostile):
            invariants.maker_first(self.on_disk[self.number_of[fill.counterparty]], own, fill)
        for key in ((own, fill.order), (fill.counterparty, fill.counterparty_order)):
            if key in self.specs:
                invariants.never_overfilled(
                    self.specs[key].quantity,
                    self._filled[key],
                    self._filled_by_others[key],
                    self._name(self.number_of[key[0]], key[1]),
                )

    def _as_promised(self, node: int, fill: Fill, spec: Spec) -> None:
        own = self.node_ids[node]
        promises.within_limit(fill, spec)
        promises.post_only_rests(fill, spec)
        promises.one_of_a_pair(fill, spec, self._filled[own, spec.linked_order])
        if spec.new.stop is not None or spec.new.trailing_offset is not None or spec.stop_of_pair:
            by_itself = {
                (f.taker, f.take)
                for fills in (self.on_disk[node], self.in_memory[node])
                for f in fills.values()
                if f.order == fill.order
            }
            prices = [
                price
                for market, price, trade in self._trades[node][spec.seen_from :]
                if market == fill.market and trade not in by_itself
            ]
            promises.stop_waits(fill, spec, prices)

    def _count(self, node: int, fill: Fill, sign: int) -> None:
        own = (self.node_ids[node], fill.order)
        self._filled[own] += sign * fill.quantity
        self._value[own] += sign * fill.quantity * fill.price
        self._filled_by_others[fill.counterparty, fill.counterparty_order] += sign * fill.quantity

    def durable(self, node: int, drained: Drained) -> None:
        self.books[node].durable(drained)
        for record in unfolded(drained.records):
            if isinstance(record, Fill):
                fill = record
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
        owner = self._owner_of.get(batch.key)
        if owner is None:  # a dishonest one
            return
        for event in batch.events:
            spec = self.specs.get((owner, getattr(event, "order", 0)))
            if spec is not None:
                promises.shown_as_promised(event, spec)
        invariants.one_event_per_number(
            self.events[owner, batch.market], owner, batch.market, batch.first, batch.events
        )

    # The end

    @property
    def fills(self) -> int:
        return sum(map(len, self.on_disk))

    def final(self, find: Callable[[int], Callable[[int], Order | None]]) -> None:
        """Everything that holds when all is quiet, from what is on the disks."""
        fills = {
            node: {key: fill for key, fill in own.items() if fill.counterparty not in self.hostile}
            for node, own in zip(self.node_ids, self.on_disk, strict=True)
        }
        invariants.both_sides(fills)
        invariants.conserved({node: own.values() for node, own in fills.items()})
        for node in range(len(self.node_ids)):
            self.acknowledged_is_there(node, find(node))
        self._final_feeds()
        for books in self.books:
            books.final()
        balances = {books.node_id: books.balances() for books in self.books}
        money.positions_mirror(balances, self.hostile)
        deposited: dict[str, Fraction] = {}
        for books in self.books:
            for asset, amount in books.deposited().items():
                deposited[asset] = deposited.get(asset, Fraction(0)) + amount
        money.accounts_hold_the_deposits(balances, deposited, self.hostile)

    def _final_feeds(self) -> None:
        for (owner, market), events in self.events.items():
            hidden = {
                number: spec
                for (node, number), spec in self.specs.items()
                if node == owner and spec.new.hidden
            }
            promises.hidden_trades_only(events, hidden)
            made = [
                fill
                for fill in self.on_disk[self.number_of[owner]].values()
                if fill.role == "maker" and fill.market == market
            ]
            promises.feeds_tell_the_trades(owner, events, made)


def _next_slice(engine: Engine, number: int, taker: Order) -> bool:
    """Report if an own iceberg's slice is newer than the plan of `taker`, a fill-or-kill order. Such a slice
    is behind all others at its price, except those of clocks that are far ahead."""
    found = engine.order_store.get(number)
    shown = 0 if found is None or not found.display_quantity else found.priority or found.time
    return taker.tif == "fok" and shown > taker.time


def _hidden(
    engine: Engine, taker: Order, limit: int | None, own: str, due: set[int]
) -> list[Offer]:
    """Own hidden orders that cross `taker`.

    What one call lets go on, stops that it triggers and orders that an answer frees, does so one after
    the other. A taker does not see the hidden ones behind it: each of those matches what rests, the
    taker too, when its turn comes.
    """
    since = taker.priority or taker.time
    return [
        Offer(
            order.side,
            order.price,
            order.priority or order.time,
            own,
            order.number,
            order.free,
            hidden=True,
            doubtful=order.number in due
            and (
                (order.priority or order.time) > since
                or order.number in engine.order_store.work_queue
            ),
        )
        for order in engine.order_store.open_orders
        if order.hidden
        and order.price is not None
        and order.free
        and order.side != taker.side
        and order.market == taker.market
        and (limit is None or taker.side * order.price <= taker.side * limit)
    ]
