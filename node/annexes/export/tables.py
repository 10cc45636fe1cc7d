"""Tables of the drop copy and of public market data. Columns and keys are those of every sink, whatever its engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from exchange.market.candles import LATEST

ColumnKind = Literal["text", "integer", "number", "time", "boolean"]
Value = str | int | Decimal | datetime | bool | None
Row = tuple[Value, ...]
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def moment(us: int) -> datetime:
    """Return microseconds since the epoch as a time, no later than the year 9999: others sign what they like."""
    return _EPOCH + timedelta(microseconds=max(0, min(us, LATEST)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table. The first columns are its key; the first of all is the node, the last the frame that wrote the row.

    `latest`: a later row with the same key replaces the earlier one; otherwise rows never change. `dated`: every row
    has a `time`, by which an engine may split the table and drop old parts.
    """

    name: str
    columns: tuple[tuple[str, ColumnKind], ...]
    key: int  # number of columns
    latest: bool = False
    dated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)


def _table(name: str, columns: str, *, latest: bool = False, dated: bool = False) -> Table:
    """`columns`: "name:kind ...", those of the key before a "|"."""
    kinds: dict[str, ColumnKind] = {
        "t": "text", "i": "integer", "n": "number", "s": "time", "b": "boolean",
    }  # fmt: skip
    key, _, rest = columns.partition("|")
    parsed = [item.partition(":")[::2] for item in ["node:t", *key.split(), *rest.split()]]
    fields = (*((field, kinds[kind]) for field, kind in parsed), ("frame", kinds["i"]))
    return Table(name, fields, 1 + len(key.split()), latest, dated)


TABLES: Final = {
    table.name: table
    for table in (
        _table(
            "orders",
            "number:i | account:i market:t side:t type:t time_in_force:t price:n quantity:n filled:n remaining:n "
            "average_price:n status:t reason:t client_id:t stop:n trailing_offset:n display_quantity:n post_only:b "
            "hidden:b reduce_only:b linked_order:i order_group:i expires:s created:s updated:s",
            latest=True,
        ),
        _table(
            "fills",
            "taker:t take:i role:t | market:t order_number:i side:t price:n quantity:n time:s counterparty:t "
            "counterparty_order:i account:i fee:n fee_asset:t",
            dated=True,
        ),
        _table(
            "postings",
            "transaction:i line:i | holder:t asset:t amount:n balance:n time:s kind:t reference:t",
            dated=True,
        ),
        _table(
            "accounts",
            "number:i | name:t created:s frozen:b max_open_orders:i orders_per_minute:i",
            latest=True,
        ),
        _table(
            "api_keys",
            "key_id:t | account:i permissions:t label:t created:s revoked:s",
            latest=True,
        ),
        _table(
            "decisions",
            "taker:t take:i | market:t order_number:i price:n quantity:n time:s reason:t until:s",
            latest=True,
        ),
        _table("credit_limits", "peer:t asset:t | credit_limit:n", latest=True),
        _table("halts", "market:t | reason:t", latest=True),
        _table(
            "trades",
            "maker:t taker:t take:i | market:t maker_order:i side:t price:n quantity:n time:s",
            dated=True,
        ),
    )
}
# Tables whose earlier rows the journal's archive has, when their frames are gone from the log.
ARCHIVED: Final = ("orders", "fills", "postings")
# Public market data: what the feeds of all nodes say, numbered as there. `feed` is the market with its steps; a feed is
# one owner's for one market. A row of `book` is an event, as line 0; line 1, event "snapshot", restarts the feed with
# `orders` orders, which follow as lines of the same number.
MARKET_TABLES: Final = {
    table.name: table
    for table in (
        _table(
            "book",
            "owner:t feed:t number:i line:i | market:t event:t order_number:i side:t price:n quantity:n orders:i "
            "reason:t time:s",
        ),
        _table(
            "market_trades",
            "owner:t feed:t number:i | market:t order_number:i taker:t take:i side:t price:n quantity:n time:s",
        ),
    )
}
ALL_TABLES: Final = {**TABLES, **MARKET_TABLES}
