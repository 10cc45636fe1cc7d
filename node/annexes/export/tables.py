"""Tables of the drop copy and of public market data. Columns and keys are those of every sink, whatever its engine.

A table is the type of its rows: fields are columns, their types decide the columns' kinds. The first column is the node,
the last the frame that wrote the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, get_args, get_type_hints

from exchange.market.candles import LATEST

ColumnKind = Literal["text", "integer", "number", "time", "boolean"]
Value = str | int | Decimal | datetime | bool | None
Row = tuple[Value, ...]
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_KINDS: Final[dict[type, ColumnKind]] = {
    str: "text", int: "integer", Decimal: "number", datetime: "time", bool: "boolean",
}  # fmt: skip


def moment(us: int) -> datetime:
    """Return microseconds since the epoch as a time, no later than the year 9999: others sign what they like."""
    return _EPOCH + timedelta(microseconds=max(0, min(us, LATEST)))


class OrderRow(NamedTuple):
    """Last state of an own order."""

    node: str
    number: int
    account: int
    market: str
    side: str
    type: str
    time_in_force: str
    price: Decimal | None
    quantity: Decimal
    filled: Decimal
    remaining: Decimal
    average_price: Decimal | None
    status: str
    reason: str
    client_id: str | None
    stop: Decimal | None
    trailing_offset: Decimal | None
    display_quantity: Decimal | None
    post_only: bool
    hidden: bool
    reduce_only: bool
    linked_order: int | None
    order_group: int | None
    expires: datetime | None
    created: datetime
    updated: datetime
    frame: int


class FillRow(NamedTuple):
    """Fill of an own order."""

    node: str
    taker: str
    take: int
    role: str
    market: str
    order_number: int
    side: str
    price: Decimal
    quantity: Decimal
    time: datetime
    counterparty: str
    counterparty_order: int
    account: int
    fee: Decimal
    fee_asset: str
    frame: int


class PostingRow(NamedTuple):
    """Line of a ledger transaction."""

    node: str
    transaction: int
    line: int
    holder: str
    asset: str
    amount: Decimal
    balance: Decimal
    time: datetime
    kind: str
    reference: str
    frame: int


class AccountRow(NamedTuple):
    """Last state of an account."""

    node: str
    number: int
    name: str
    created: datetime
    frozen: bool
    max_open_orders: int | None
    orders_per_minute: int | None
    frame: int


class ApiKeyRow(NamedTuple):
    """Last state of an API key, without its secret."""

    node: str
    key_id: str
    account: int
    permissions: str
    label: str
    created: datetime
    revoked: datetime | None
    frame: int


class DecisionRow(NamedTuple):
    """Decision of this node, as the maker, on a take."""

    node: str
    taker: str
    take: int
    market: str
    order_number: int
    price: Decimal
    quantity: Decimal
    time: datetime
    reason: str
    until: datetime | None
    frame: int


class CreditLimitRow(NamedTuple):
    """Credit of a peer in an asset; without a limit the node's default holds."""

    node: str
    peer: str
    asset: str
    credit_limit: Decimal | None
    frame: int


class HaltRow(NamedTuple):
    """Halt of a market; without a reason the market trades."""

    node: str
    market: str
    reason: str | None
    frame: int


class TradeRow(NamedTuple):
    """Public trade of any node, as this node received it."""

    node: str
    maker: str
    taker: str
    take: int
    market: str
    maker_order: int
    side: str
    price: Decimal
    quantity: Decimal
    time: datetime
    frame: int


class BookRow(NamedTuple):
    """Event of a feed, as line 0. Line 1, event "snapshot", restarts the feed with `orders` orders, which follow as
    lines of the same number."""

    node: str
    owner: str
    feed: str
    number: int
    line: int
    market: str
    event: str
    order_number: int | None
    side: str | None
    price: Decimal | None
    quantity: Decimal | None
    orders: int | None
    reason: str | None
    time: datetime | None
    frame: int


class MarketTradeRow(NamedTuple):
    """Trade of a feed."""

    node: str
    owner: str
    feed: str
    number: int
    market: str
    order_number: int
    taker: str
    take: int
    side: str
    price: Decimal
    quantity: Decimal
    time: datetime
    frame: int


@dataclass(frozen=True)
class Table:
    """A table.

    `latest`: a later row with the same key replaces the earlier one; otherwise rows never change. `dated`: every row
    has a `time`, by which an engine may split the table and drop old parts.
    """

    name: str
    row: Any  # type of the rows
    key: int  # number of columns, from the first
    latest: bool = False
    dated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        fields: tuple[str, ...] = self.row._fields
        return fields

    @cached_property
    def columns(self) -> tuple[tuple[str, ColumnKind], ...]:
        """Names and kinds of the columns."""
        hints = get_type_hints(self.row)
        return tuple((name, _KINDS[(get_args(hint) or (hint,))[0]]) for name, hint in hints.items())


def _by_name(*tables: Table) -> dict[str, Table]:
    return {table.name: table for table in tables}


TABLES: Final = _by_name(
    Table("orders", OrderRow, 2, latest=True),
    Table("fills", FillRow, 4, dated=True),
    Table("postings", PostingRow, 3, dated=True),
    Table("accounts", AccountRow, 2, latest=True),
    Table("api_keys", ApiKeyRow, 2, latest=True),
    Table("decisions", DecisionRow, 3, latest=True),
    Table("credit_limits", CreditLimitRow, 3, latest=True),
    Table("halts", HaltRow, 2, latest=True),
    Table("trades", TradeRow, 4, dated=True),
)
# Tables whose earlier rows the journal's archive has, when their frames are gone from the log.
ARCHIVED: Final = ("orders", "fills", "postings")
# Public market data: what the feeds of all nodes say, numbered as there. `feed` is the market with its steps; a feed is
# one owner's for one market.
MARKET_TABLES: Final = _by_name(
    Table("book", BookRow, 5), Table("market_trades", MarketTradeRow, 4)
)
ALL_TABLES: Final = {**TABLES, **MARKET_TABLES}
