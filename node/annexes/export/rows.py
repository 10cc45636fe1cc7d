"""Records of a journal as rows of the drop copy, without I/O. Secrets of API keys are in no row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from exchange.model.decimals import plain
from exchange.model.events import Filled
from exchange.model.instruments import Instruments
from exchange.model.records import (
    Account,
    ApiKey,
    Decision,
    Fill,
    Order,
    Posting,
    PutBatch,
    PutCredit,
    PutHalt,
    PutMeta,
    PutSnapshot,
    Record,
    Recovered,
    Transaction,
)
from exchange.orders.engine_context import stored_decimals
from node.annexes.export.market_rows import MarketRows
from node.annexes.export.tables import ALL_TABLES, TABLES, Row, Value, moment
from node.views.order_mapping import OrderMapping, side_word
from node.views.scales import Scale


def _later(us: int) -> datetime | None:
    return moment(us) if us else None


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(text: str) -> str:
    """Databases take no NUL in a text."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class RowBuilder:
    """Rows of one node, collected until `take`. `decimals`: those in which assets are counted, by asset.

    `versions`: rows of every commit; otherwise the last one of each key.
    """

    def __init__(
        self,
        node: str,
        decimals: dict[str, int],
        tables: Collection[str] = TABLES,
        *,
        versions: bool = False,
    ) -> None:
        self.decimals = dict(decimals)
        self.count = 0  # rows since `take`
        self._node = node
        self._versions = versions
        self._feeds = MarketRows(self._put, self._scale) if "book" in tables else None
        self._mapping = OrderMapping(Instruments.default(), node, self._units)
        self._scales: dict[str, Scale] = self._mapping.scales
        self._rows: dict[str, dict[tuple[Value, ...], Row]] = {name: {} for name in tables}
        how: dict[type, tuple[str, Callable[[Any, int], None]]] = {
            Order: ("orders", self._order),
            Fill: ("fills", self._fill),
            Transaction: ("postings", self._transaction),
            Account: ("accounts", self._account),
            ApiKey: ("api_keys", self._api_key),
            Decision: ("decisions", self._decision),
            PutCredit: ("credit_limits", self._credit),
            PutHalt: ("halts", self._halt),
            PutBatch: ("trades", self._batch),
        }
        self._how = {kind: add for kind, (table, add) in how.items() if table in tables}
        self._how[PutMeta] = self._meta
        if self._feeds is not None:
            self._how[PutBatch] = self._feeds.add_batch
            self._how[PutSnapshot] = self._feeds.add_snapshot

    def add(self, frame: int, records: Iterable[Record]) -> None:
        """Add the records of a frame."""
        for record in records:
            how = self._how.get(type(record))
            if how is not None:
                how(record, frame)

    def add_state(self, frame: int, state: Recovered) -> None:
        """Add what a state after `frame` has that no archive has: open orders, accounts, keys and limits."""
        records: list[Record] = [order for order in state.orders if not order.done]
        records += [*state.accounts, *state.keys, *state.decisions]
        records += [PutCredit(peer, asset, most) for (peer, asset), most in state.credit.items()]
        records += [PutHalt(market, reason) for market, reason in state.halts.items()]
        if self._feeds is not None:
            for feed in state.feeds:
                if feed.snapshot is not None:
                    records.append(PutSnapshot(feed.owner, feed.market, feed.snapshot))
                records += [PutBatch(feed.owner, batch) for batch in feed.batches]
        self.add(frame, records)

    def take(self) -> dict[str, list[Row]]:
        """Return the rows by table, each key once, and begin anew."""
        rows = {name: list(found.values()) for name, found in self._rows.items() if found}
        for found in self._rows.values():
            found.clear()
        self.count = 0
        return rows

    def add_archived(self, frame: int, item: Order | Fill | Posting, line: int = 0) -> None:
        """Add what the archive has. `line`: position of a posting in its transaction."""
        if isinstance(item, Posting):
            self._posting(item, line, frame)
        else:
            self.add(frame, [item])

    def _put(self, table: str, frame: int, *values: Value) -> None:
        row = (self._node, *values, frame)
        key = row[: ALL_TABLES[table].key]
        self._rows[table][(*key, frame) if self._versions else key] = row
        self.count += 1

    def _scale(self, market: str) -> Scale:
        return self._scales[market]

    def _units(self, asset: str) -> int:
        return self.decimals.get(asset, 0)

    def _amount(self, units: int, asset: str) -> Decimal:
        return Decimal(plain(units, self._units(asset)))

    # By record

    def _order(self, order: Order, frame: int) -> None:
        view = self._mapping.order(order)
        self._put(
            "orders",
            frame,
            order.number,
            order.account,
            view.market,
            view.side,
            view.type,
            view.tif,
            _number(view.price),
            Decimal(view.quantity),
            Decimal(view.filled),
            Decimal(view.remaining),
            _number(view.average_price),
            view.status,
            _text(view.reason),
            order.client_id,
            _number(view.stop),
            _number(view.trailing_offset),
            _number(view.display_quantity),
            order.post_only,
            order.hidden,
            order.reduce_only,
            order.linked_order or None,
            order.group,
            _later(order.expires),
            moment(order.time),
            moment(order.updated or order.time),
        )

    def _fill(self, fill: Fill, frame: int) -> None:
        scale = self._scales[fill.market]
        self._put(
            "fills",
            frame,
            fill.taker,
            fill.take,
            fill.role,
            scale.symbol,
            fill.order,
            side_word(fill.side),
            Decimal(scale.price(fill.price)),
            Decimal(scale.amount(fill.quantity)),
            moment(fill.time),
            fill.counterparty,
            fill.counterparty_order,
            fill.account,
            self._amount(fill.fee, fill.fee_asset),
            fill.fee_asset,
        )

    def _transaction(self, transaction: Transaction, frame: int) -> None:
        for line, posting in enumerate(transaction.postings()):
            self._posting(posting, line, frame)

    def _posting(self, posting: Posting, line: int, frame: int) -> None:
        self._put(
            "postings",
            frame,
            posting.transaction,
            line,
            posting.holder,
            posting.asset,
            self._amount(posting.amount, posting.asset),
            self._amount(posting.balance, posting.asset),
            moment(posting.time),
            posting.kind,
            _text(posting.reference),
        )

    def _account(self, account: Account, frame: int) -> None:
        self._put(
            "accounts",
            frame,
            account.number,
            _text(account.name),
            moment(account.created),
            account.frozen,
            account.max_open_orders,
            account.orders_per_minute,
        )

    def _api_key(self, key: ApiKey, frame: int) -> None:
        self._put(
            "api_keys",
            frame,
            key.key,
            key.account,
            " ".join(sorted(key.permissions)),
            _text(key.label),
            moment(key.created),
            _later(key.revoked),
        )

    def _decision(self, decision: Decision, frame: int) -> None:
        scale = self._scales[decision.market]
        self._put(
            "decisions",
            frame,
            decision.taker,
            decision.take,
            scale.symbol,
            decision.order,
            Decimal(scale.price(decision.price)),
            Decimal(scale.amount(decision.quantity)),
            moment(decision.time),
            _text(decision.reason),
            _later(decision.until),
        )

    def _credit(self, record: PutCredit, frame: int) -> None:
        limit = None if record.limit is None else self._amount(record.limit, record.asset)
        self._put("credit_limits", frame, record.peer, record.asset, limit)

    def _halt(self, record: PutHalt, frame: int) -> None:
        reason = None if record.reason is None else _text(record.reason)
        self._put("halts", frame, self._scales[record.market].symbol, reason)

    def _batch(self, record: PutBatch, frame: int) -> None:
        batch = record.batch
        for event in batch.events:
            if isinstance(event, Filled):
                scale = self._scales[batch.market]
                self._put(
                    "trades",
                    frame,
                    record.owner,
                    event.taker,
                    event.take,
                    scale.symbol,
                    event.order,
                    side_word(-event.side),
                    Decimal(scale.price(event.price)),
                    Decimal(scale.amount(event.quantity)),
                    moment(event.time),
                )

    def _meta(self, record: PutMeta, frame: int) -> None:
        self.decimals.update(stored_decimals(Recovered(meta={record.name: record.value})))
