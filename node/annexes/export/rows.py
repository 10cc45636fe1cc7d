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
    UnfitRecord,
    unfolded,
)
from exchange.orders.engine_context import stored_decimals
from node.annexes.export.market_rows import MarketRows
from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.tables import (
    ALL_TABLES,
    TABLES,
    AccountRow,
    ApiKeyRow,
    CreditLimitRow,
    DecisionRow,
    FillRow,
    HaltRow,
    OrderRow,
    PostingRow,
    Row,
    TradeRow,
    Value,
    moment,
)
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
        self._aside: list[AsideRow] = []
        self._node = node
        self._versions = versions
        self._feeds = MarketRows(node, self._put, self._scale) if "book" in tables else None
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
        self._how[UnfitRecord] = self._unfit
        if self._feeds is not None:
            self._how[PutBatch] = self._feeds.add_batch
            self._how[PutSnapshot] = self._feeds.add_snapshot

    def add(self, frame: int, records: Iterable[Record]) -> None:
        """Add the records of a frame. One of which no row can be made is set aside: others wrote some of its values."""
        for record in unfolded(records):
            how = self._how.get(type(record))
            if how is not None:
                self._try(how, record, frame)

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

    def _try(self, how: Callable[[Any, int], None], record: Any, frame: int) -> None:
        try:
            how(record, frame)
        except (ValueError, LookupError, ArithmeticError, TypeError) as error:
            self._aside.append(AsideRow(type(record).__name__, record, f"{error!r} ({frame=})"))

    def _unfit(self, record: UnfitRecord, frame: int) -> None:
        reason = f"{record.reason} ({frame=})"
        self._aside.append(AsideRow(record.kind, record.data, reason))

    def set_aside(self) -> list[AsideRow]:
        """Return the records of which no row can be made, and forget them."""
        found, self._aside = self._aside, []
        return found

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
            self._try(lambda posting, at: self._posting(posting, line, at), item, frame)
        else:
            self.add(frame, [item])

    def _put(self, table: str, row: Row) -> None:
        key = row[: ALL_TABLES[table].key]
        self._rows[table][(*key, row[-1]) if self._versions else key] = row
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
        row = OrderRow(
            node=self._node,
            number=order.number,
            account=order.account,
            market=view.market,
            side=view.side,
            type=view.type,
            time_in_force=view.tif,
            price=_number(view.price),
            quantity=Decimal(view.quantity),
            filled=Decimal(view.filled),
            remaining=Decimal(view.remaining),
            average_price=_number(view.average_price),
            status=view.status,
            reason=_text(view.reason),
            client_id=order.client_id,
            stop=_number(view.stop),
            trailing_offset=_number(view.trailing_offset),
            display_quantity=_number(view.display_quantity),
            post_only=order.post_only,
            hidden=order.hidden,
            reduce_only=order.reduce_only,
            linked_order=order.linked_order or None,
            order_group=order.group,
            expires=_later(order.expires),
            created=moment(order.time),
            updated=moment(order.updated or order.time),
            frame=frame,
        )
        self._put("orders", row)

    def _fill(self, fill: Fill, frame: int) -> None:
        scale = self._scales[fill.market]
        row = FillRow(
            node=self._node,
            taker=fill.taker,
            take=fill.take,
            role=fill.role,
            market=scale.symbol,
            order_number=fill.order,
            side=side_word(fill.side),
            price=Decimal(scale.price(fill.price)),
            quantity=Decimal(scale.amount(fill.quantity)),
            time=moment(fill.time),
            counterparty=fill.counterparty,
            counterparty_order=fill.counterparty_order,
            account=fill.account,
            fee=self._amount(fill.fee, fill.fee_asset),
            fee_asset=fill.fee_asset,
            frame=frame,
        )
        self._put("fills", row)

    def _transaction(self, transaction: Transaction, frame: int) -> None:
        for line, posting in enumerate(transaction.postings()):
            self._posting(posting, line, frame)

    def _posting(self, posting: Posting, line: int, frame: int) -> None:
        row = PostingRow(
            node=self._node,
            transaction=posting.transaction,
            line=line,
            holder=posting.holder,
            asset=posting.asset,
            amount=self._amount(posting.amount, posting.asset),
            balance=self._amount(posting.balance, posting.asset),
            time=moment(posting.time),
            kind=posting.kind,
            reference=_text(posting.reference),
            frame=frame,
        )
        self._put("postings", row)

    def _account(self, account: Account, frame: int) -> None:
        row = AccountRow(
            node=self._node,
            number=account.number,
            name=_text(account.name),
            created=moment(account.created),
            frozen=account.frozen,
            max_open_orders=account.max_open_orders,
            orders_per_minute=account.orders_per_minute,
            frame=frame,
        )
        self._put("accounts", row)

    def _api_key(self, key: ApiKey, frame: int) -> None:
        row = ApiKeyRow(
            node=self._node,
            key_id=key.key,
            account=key.account,
            permissions=" ".join(sorted(key.permissions)),
            label=_text(key.label),
            created=moment(key.created),
            revoked=_later(key.revoked),
            frame=frame,
        )
        self._put("api_keys", row)

    def _decision(self, decision: Decision, frame: int) -> None:
        scale = self._scales[decision.market]
        row = DecisionRow(
            node=self._node,
            taker=decision.taker,
            take=decision.take,
            market=scale.symbol,
            order_number=decision.order,
            price=Decimal(scale.price(decision.price)),
            quantity=Decimal(scale.amount(decision.quantity)),
            time=moment(decision.time),
            reason=_text(decision.reason),
            until=_later(decision.until),
            frame=frame,
        )
        self._put("decisions", row)

    def _credit(self, record: PutCredit, frame: int) -> None:
        limit = None if record.limit is None else self._amount(record.limit, record.asset)
        self._put(
            "credit_limits", CreditLimitRow(self._node, record.peer, record.asset, limit, frame)
        )

    def _halt(self, record: PutHalt, frame: int) -> None:
        reason = None if record.reason is None else _text(record.reason)
        symbol = self._scales[record.market].symbol
        self._put("halts", HaltRow(self._node, symbol, reason, frame))

    def _batch(self, record: PutBatch, frame: int) -> None:
        batch = record.batch
        for event in batch.events:
            if isinstance(event, Filled):
                scale = self._scales[batch.market]
                row = TradeRow(
                    node=self._node,
                    maker=record.owner,
                    taker=event.taker,
                    take=event.take,
                    market=scale.symbol,
                    maker_order=event.order,
                    side=side_word(-event.side),
                    price=Decimal(scale.price(event.price)),
                    quantity=Decimal(scale.amount(event.quantity)),
                    time=moment(event.time),
                    frame=frame,
                )
                self._put("trades", row)

    def _meta(self, record: PutMeta, frame: int) -> None:
        self.decimals.update(stored_decimals(Recovered(meta={record.name: record.value})))
