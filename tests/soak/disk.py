"""Journal of a stopped node, compared with itself, with those of others, and with answers to clients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from exchange.journal.journal import Journal
from exchange.ledger.market_units import decimals_of
from exchange.model.instruments import Instrument, Instruments
from exchange.model.records import Fill, Order, Posting, Recovered
from node.annexes.bitfinex.order_ids import trade_id
from tests.simulation.invariants import FillKey, Violation, both_sides, conserved
from tests.soak.told import Known, Record, ToldFill


@dataclass
class Disk:
    recovered: Recovered
    orders: dict[int, Order]  # all of them
    fills: dict[FillKey, Fill]
    doubled: list[Fill]  # a second record of the same side
    postings: list[Posting]  # oldest first
    instruments: dict[str, Instrument]  # by key

    def contradictions(self) -> Iterator[str]:
        """In what the journal does not agree with itself."""
        yield from (f"recorded twice: {fill}" for fill in self.doubled)
        if self.recovered.takes:
            yield f"takes without an outcome: {self.recovered.takes[:3]}"
        filled: Counter[int] = Counter()
        value: Counter[int] = Counter()
        for fill in self.fills.values():
            filled[fill.order] += fill.quantity
            value[fill.order] += fill.quantity * fill.price
            order = self.orders.get(fill.order)
            if order is None:
                yield f"a fill of an unknown order: {fill}"
            elif (order.side, order.market, order.account) != (
                *(fill.side, fill.market, fill.account),
            ):
                yield f"a fill that is not its order's: {fill}, {order}"
            elif order.post_only and fill.role != "maker":
                yield f"a post-only order took: {fill}"
        for number, order in self.orders.items():
            if (order.filled, order.value) != (filled[number], value[number]):
                yield f"{order} has fills of {filled[number]} in all"
            if order.filled + order.pending + order.reserved > order.quantity:
                yield f"overfilled: {order}"
            if order.pending or order.reserved:
                yield f"something is under way: {order}"
            if order.tif == "fok" and order.filled not in (0, order.quantity):
                yield f"fill-or-kill filled in part: {order}"
            if order.tif in ("ioc", "fok") and order.stop == 0 and not order.done:
                yield f"an order that ends at once is open: {order}"
        yield from self._ledger()

    def _ledger(self) -> Iterator[str]:
        sums: Counter[tuple[int, str]] = Counter()
        balances: Counter[tuple[str, str]] = Counter()
        for posting in self.postings:
            sums[posting.transaction, posting.asset] += posting.amount
            balances[posting.holder, posting.asset] += posting.amount
            if balances[posting.holder, posting.asset] != posting.balance:
                yield f"a balance that does not follow: {posting}"
                return
        yield from (f"transaction {key} sums to {left}" for key, left in sums.items() if left)
        for key, balance in self.recovered.balances.items():
            if balances[key] != balance:
                yield f"{key} has {balance}, its lines say {balances[key]}"
        for (holder, asset), balance in balances.items():
            client = holder.startswith("account:") and holder != "account:0"
            if client and balance < 0:
                yield f"{holder} has {balance} {asset}"

    def balances(self, decimals: int) -> dict[tuple[str, str], int]:
        """By holder and asset, in units of 10 ** -`decimals`."""
        of = decimals_of(self.instruments.values())
        return {
            (holder, asset): units * 10 ** (decimals - of[asset])
            for (holder, asset), units in self.recovered.balances.items()
        }

    # What was told

    def against(self, record: Record) -> Iterator[str]:
        """In what the journal is not what this client was told."""
        name = record.name
        fills_of: dict[int, list[Fill]] = defaultdict(list)
        for fill in self.fills.values():
            fills_of[fill.order].append(fill)
        for number, known in record.orders.items():
            order = self.orders.get(number)
            if order is None:
                yield f"{name}: an acknowledged order vanished: {known}"
            else:
                yield from (
                    f"{name}: {text}: {known}, {order}"
                    for text in self._differs(known, order, fills_of)
                )
        by_trade: dict[tuple[str | int, int], Fill] = {}
        for (taker, take, _), fill in self.fills.items():
            by_trade[f"{taker}:{take}", fill.order] = fill
            by_trade[trade_id(taker, take), fill.order] = fill
        for key, told in record.fills.items():
            found = by_trade.get(key)
            if found is None or self._told(found, told.trade) != told:
                yield f"{name}: was told {told}, there is {found}"
        for client, wish in record.wishes.items():
            yield f"{name}: {client} was never answered: {wish}"
        yield from self._nobody_asked(record)

    def _told(self, fill: Fill, trade: str | int) -> ToldFill:
        instrument = self.instruments[fill.market]
        return ToldFill(
            trade,
            fill.order,
            Decimal(instrument.quantity_text(fill.quantity)),
            Decimal(instrument.price_text(fill.price)),
        )

    def _differs(
        self, known: Known, order: Order, fills_of: dict[int, list[Fill]]
    ) -> Iterator[str]:
        instrument = self.instruments[order.market]
        filled = Decimal(instrument.quantity_text(order.filled))
        quantity = Decimal(instrument.quantity_text(order.quantity))
        if instrument.symbol != known.first.market:
            yield "another market"
        if (order.side > 0) != (known.first.side == "buy"):
            yield "another side"
        if filled < known.filled:
            yield "fills that were told are lost"
        if known.ended is not None and (not order.done or filled != known.ended.filled):
            yield "it had ended otherwise"
        if known.cancelled and not (order.done or order.cancelled):
            yield "its cancel was granted and it is open"
        reducible = order.reduce_only or order.linked_order
        if quantity not in known.quantities and not reducible:
            yield "a quantity that nobody asked for"
        roles = {fill.role for fill in fills_of[order.number]}
        if known.wish is not None and known.wish.post_only and "taker" in roles:
            yield "a post-only order took"
        if known.wish is not None and known.wish.tif == "fok" and filled not in (0, quantity):
            yield "fill-or-kill filled in part"
        if known.prices and order.filled and order.price is not None:
            limit = max(known.prices) if order.side > 0 else min(known.prices)
            worst = max if order.side > 0 else min
            paid = Decimal(
                instrument.price_text(worst(fill.price for fill in fills_of[order.number]))
            )
            if order.side * (paid - limit) > 0:
                yield f"it paid {paid}"

    def _nobody_asked(self, record: Record) -> Iterator[str]:
        """Orders of the account that its client knows nothing of."""
        account = next((a.number for a in self.recovered.accounts if a.name == record.name), None)
        clients: Counter[str] = Counter()
        for number, order in self.orders.items():
            if order.account != account:
                continue
            if number not in record.orders and order.linked_order not in record.orders:
                yield f"{record.name}: nobody asked for {order}"
            if order.client_id is not None:
                clients[order.client_id] += 1
        for client, count in clients.items():
            if count > 1:
                yield f"{record.name}: {count} orders of client id {client}"


def between(disks: Mapping[str, Disk]) -> Iterator[str]:
    """In what journals of different nodes contradict each other. `disks` by node id."""
    try:
        both_sides({node: disk.fills for node, disk in disks.items()})
        conserved({node: disk.fills.values() for node, disk in disks.items()})
    except (Violation, KeyError) as error:
        yield f"{error!r}"


def read(data_dir: Path) -> Disk:
    """
    Raises:
        JournalError: it cannot be read.
    """
    with closing(Journal(data_dir / "journal")) as journal:
        recovered = journal.recover()
        past = journal.history()
        orders = {order.number: order for order in past.orders(limit=-1)}
        orders |= {order.number: order for order in recovered.orders}
        fills: dict[FillKey, Fill] = {}
        doubled = []
        for fill in past.fills(limit=-1):
            key = (fill.taker, fill.take, fill.role)
            if key in fills:
                doubled.append(fill)
            fills[key] = fill
        postings = past.ledger(limit=-1)[::-1]
    by_key = {instrument.key: instrument for instrument in Instruments.default()}
    return Disk(recovered, orders, fills, doubled, postings, by_key)
