"""Records of a journal as rows of the drop copy, without I/O. Secrets of API keys are in no row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from exchange.market.candles import LATEST
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
    Record,
    Recovered,
    Transaction,
)
from exchange.orders.engine_context import stored_decimals
from node.export.tables import TABLES, Row, Value
from node.views.order_mapping import OrderMapping, side_word
from node.views.scales import Scale

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def moment(us: int) -> datetime:
    """Return microseconds since the epoch as a time, no later than the year 9999: others sign what they like."""
    return _EPOCH + timedelta(microseconds=max(0, min(us, LATEST)))


def _later(us: int) -> datetime | None:
    return moment(us) if us else None


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(text: str) -> str:
    """Databases take no NUL in a text."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class RowBuilder:
    """Rows of one node, collected until `take`. `decimals`: those in which assets are counted, by asset."""

    def __init__(self, node: str, decimals: dict[str, int]) -> None:
        self.decimals = dict(decimals)
        self.count = 0  # rows since `take`
        self._node = node
        self._mapping = OrderMapping(Instruments.default(), node, self._units)
        self._scales: dict[str, Scale] = self._mapping.scales
        self._rows: dict[str, dict[tuple[Value, ...], Row]] = {name: {} for name in TABLES}
        self._how: dict[type, Callable[[Any, int], None]] = {
            Order: self._order,
            Fill: self._fill,
            Transaction: self._transaction,
            Account: self._account,
            ApiKey: self._api_key,
            Decision: self._decision,
            PutCredit: self._credit,
            PutHalt: self._halt,
            PutBatch: self._batch,
            PutMeta: self._meta,
        }

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
        self._rows[table][row[: TABLES[table].key]] = row
        self.count += 1

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
