"""Rows as messages of a bus, and back, without I/O.

Two streams of each node: `exchange.copy.<network>.<node>.<table>[.<market>]` has the rows of the drop copy,
`exchange.market.<network>.<node>.<kind>.<market>` public market data. The last message of a delivery is the position,
under `position`.

Rules of this file:
- A message id names the thing that happened, not the node that reports it: for market data the feed and its number. So several nodes give one
  event the same id.
- An id says the frame only in tables in which a later row replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.sink import Delivery, Position
from node.annexes.export.tables import MARKET_TABLES, TABLES, ColumnKind, Row, Table

POSITION: Final = "position"
GAPS: Final = "gaps"
MOST: Final = 1 << 20  # bytes of a message, by a server's default
SUBJECT: Final = 1000  # bytes of a subject; a server takes 4,096 with the line around it
MARKET: Final = "market_"  # begins the names of tables whose kind is the rest
_TYPES: Final[dict[ColumnKind, Any]] = {
    "text": str | None,
    "integer": int | None,
    "number": Decimal | None,
    "time": datetime | None,
    "boolean": bool | None,
}
# Columns with the number of an own order.
_OWN_ORDER: Final = {"orders": "number", "fills": "order_number", "decisions": "order_number"}

_encode = msgspec.json.Encoder().encode


class Message(NamedTuple):
    subject: str
    id: str
    data: bytes
    order: int = 0  # own order that a row is about; 0: none


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Subjects and tables of a stream. `part`: "copy" or "market"."""

    part: str
    tables: Mapping[str, Table]
    network: str

    def stream(self, node: str) -> str:
        return f"EXCHANGE_{self.part.upper()}_{self.network}_{token(node)}"

    def root(self, node: str) -> str:
        return f"exchange.{self.part}.{self.network}.{token(node)}"

    def subject(self, node: str, table: str, market: str = "") -> str:
        """Return the subject of a table, or of a market's rows in it."""
        return _subject(self.root(node), table, market)

    def filter(self, node: str, table: str) -> str:
        """Return the subject under which all rows of a table are found."""
        _, market = _shape(self.tables[table])
        return self.subject(node, table) + ("" if market is None else ".*")

    def messages(
        self, delivery: Delivery, skipped: frozenset[str], most: int = MOST
    ) -> tuple[list[Message], list[AsideRow]]:
        """Return a delivery's rows in the order of their frames, without those whose ids are in `skipped`; and the rows
        that no message of `most` bytes can have.
        """
        found = [
            (int(str(row[-1])), number, table, row)
            for number, table in enumerate(self.tables.values())
            for row in delivery.rows.get(table.name, ())
        ]
        found.sort(key=lambda item: item[:2])
        messages: list[Message] = []
        aside: list[AsideRow] = []
        for _, _, table, row in found:
            try:
                message = self._message(table, row)
            except ValueError as error:
                aside.append(AsideRow(table.name, row, str(error)))
                continue
            size = len(message.data) + len(message.subject) + len(message.id)
            if size > most or len(message.subject) > SUBJECT:
                aside.append(AsideRow(table.name, row, f"{size} bytes are too many for a message"))
            elif not message.id.isprintable():
                aside.append(AsideRow(table.name, row, "an id with control characters"))
            else:
                messages.append(message)
        if delivery.gap is not None:
            first, last = delivery.gap
            fields = {"node": delivery.node, "first_frame": first, "last_frame": last}
            id_ = f"{delivery.node}:{GAPS}:{first}"
            messages.append(
                Message(self.subject(delivery.node, GAPS), id_, msgspec.json.encode(fields))
            )
        return [message for message in messages if message.id not in skipped], aside

    def _message(self, table: Table, row: Row) -> Message:
        names, market = _shape(table)
        values = [f"{value:f}" if type(value) is Decimal else value for value in row]
        fields = dict(zip(names, values, strict=True))
        market_text = "" if market is None else str(row[market])
        subject = _subject(self.root(str(row[0])), table.name, market_text)
        column = _OWN_ORDER.get(table.name, "")
        order = fields[column] if column else 0
        return Message(
            subject, _id(table, row), _encode(fields), order if type(order) is int else 0
        )

    def position(self, node: str, position: Position) -> Message:
        """Return the message that ends a delivery."""
        return Message(self.subject(node, POSITION), "", msgspec.json.encode(position))


def copy_plan(network: str) -> StreamPlan:
    """Return the stream of the drop copy."""
    return StreamPlan("copy", TABLES, network)


def market_plan(network: str) -> StreamPlan:
    """Return the stream of public market data."""
    return StreamPlan("market", MARKET_TABLES, network)


def read_position(data: bytes) -> Position:
    """Decode a position.

    Raises:
        msgspec.DecodeError: the message is another one.
    """
    return msgspec.json.decode(data, type=Position)


def read_row(table: Table, data: bytes) -> Row:
    """Decode a row.

    Raises:
        msgspec.DecodeError: the message is no row of the table.
    """
    fields = msgspec.json.decode(data, type=dict[str, Any])
    return tuple(msgspec.convert(fields.get(name), _TYPES[kind]) for name, kind in table.columns)


def latest_rows(table: Table, rows: Iterable[Row]) -> list[Row]:
    """Return the rows that a table has after rows were delivered in this order."""
    kept: dict[Row, Row] = {}
    for row in rows:
        key = row[: table.key]
        old = kept.get(key)
        if old is None or (table.latest and int(str(old[-1])) <= int(str(row[-1]))):
            kept[key] = row
    return list(kept.values())


def _id(table: Table, row: Row) -> str:
    if table.name in MARKET_TABLES:
        kind = table.name.removeprefix(MARKET)
        return ":".join([kind, *map(str, row[1 : table.key])])
    key = ":".join(map(str, row[1 : table.key]))
    return f"{row[0]}:{table.name}:{key}" + (f":{row[-1]}" if table.latest else "")


@cache
def _shape(table: Table) -> tuple[tuple[str, ...], int | None]:
    """Return the columns, and the position of the market's among them."""
    names = table.names
    return names, names.index("market") if "market" in names else None


@lru_cache(4096)
def _subject(root: str, table: str, market: str) -> str:
    return ".".join([root, table.removeprefix(MARKET), *([token(market)] if market else [])])


@lru_cache(64)
def token(text: str) -> str:
    """A part of a subject: without dots, spaces and wildcards."""
    return quote(text, safe="").replace(".", "%2E") or "-"
