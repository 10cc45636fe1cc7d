"""A sink in memory, and what may go wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.sink import Delivery, Position, PositionMoved, SinkError
from node.annexes.export.tables import TABLES, Row

Store = dict[str, dict[tuple[object, ...], Row]]


class MemoryDatabase:
    """Contents of a sink, which stay when its connections end. `fault` is called before and after each delivery
    is stored, and may raise."""

    def __init__(self) -> None:
        self.tables: Store = {name: {} for name in TABLES}
        self.positions: dict[str, Position] = {}
        self.gaps: list[tuple[int, int]] = []
        self.deliveries = 0
        self.kept: dict[str, datetime] = {}
        self.fault: Callable[[str], None] = lambda when: None

    def connect(self) -> MemorySink:
        self.fault("connect")
        return MemorySink(self)

    def values(self, table: str) -> list[Row]:
        return list(self.tables[table].values())


class MemorySink:
    """Implements `node.annexes.export.sink.Sink`."""

    tables = TABLES
    versions = False

    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database

    def position(self, node: str) -> Position | None:
        return self._db.positions.get(node)

    def deliver(self, delivery: Delivery) -> list[AsideRow]:
        db = self._db
        aside = []
        db.fault("before")
        if db.positions.get(delivery.node) != delivery.before:
            raise PositionMoved("another process exports this journal")
        for name, rows in delivery.rows.items():
            table, store = TABLES[name], db.tables[name]
            for row in rows:
                if any(isinstance(value, str) and "\0" in value for value in row):  # as PostgreSQL
                    aside.append(AsideRow(name, row, "NUL"))
                    continue
                key = row[: table.key]
                old = store.get(key)
                if old is None or (table.latest and int(str(old[-1])) <= int(str(row[-1]))):
                    store[key] = row
        if delivery.gap is not None:
            db.gaps.append(delivery.gap)
        db.positions[delivery.node] = delivery.after
        db.deliveries += 1
        db.fault("after")
        return aside

    @contextmanager
    def moment(self, node: str) -> Iterator[Position | None]:
        yield self.position(node)

    def rows(self, table: str, node: str) -> Iterator[Row]:
        return iter([row for row in self._db.values(table) if row[0] == node])

    def kept_from(self, table: str) -> datetime | None:
        return self._db.kept.get(table)

    def forget(self, node: str) -> None:
        for store in self._db.tables.values():
            for key in [key for key in store if key[0] == node]:
                del store[key]
        self._db.positions.pop(node, None)

    def close(self) -> None:
        pass


def failing(*calls: int, when: str = "after") -> Callable[[str], None]:
    """A fault: the n-th time that is reached, the sink does not answer."""
    count = 0

    def fault(at: str) -> None:
        nonlocal count
        if at == when:
            count += 1
            if count in calls:
                raise SinkError("the sink does not answer")

    return fault
