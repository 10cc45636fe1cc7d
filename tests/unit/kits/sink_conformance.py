"""Conformance kit for sinks: `check_sink(connect)` with a function that opens a connection to an empty engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from node.annexes.export.sink import CatchUp, Delivery, Position, PositionMoved, Sink
from node.annexes.export.tables import Row, Table, Value

NODE, OTHER = "node-a", "node-b"
TIME = datetime(2026, 11, 23, 6, 0, 0, 123456, UTC)
_VALUES: dict[str, Value] = {
    "text": "text with 'quotes', a \t tab, \\ and \N{SNOWMAN}",
    "integer": 2**62,
    "number": Decimal("123456789012345678901234567890.00000000000001"),
    "time": TIME,
    "boolean": True,
}


def sample(table: Table, number: int, frame: int, *, node: str = NODE, empty: bool = False) -> Row:
    """A row with the key `number`. `empty`: nothing where nothing may be."""
    values: list[Value] = [node]
    for at, (_, kind) in enumerate(table.columns[1:-1], 1):
        if at < table.key:
            values.append(number if kind == "integer" else f"{number}")
        else:
            values.append(None if empty and not (table.dated and kind == "time") else _VALUES[kind])
    return (*values, frame)


def check_sink(connect: Callable[[], Sink]) -> None:
    """Check an engine.

    Raises:
        AssertionError: a rule of `node.annexes.export.sink.Sink` is broken.
    """
    _check_positions(connect)
    _check_rows(connect)
    _check_refusals(connect)
    _check_nodes(connect)


def _moved(before: Position | None, frame: int, **rows: list[Row]) -> Delivery:
    return Delivery(NODE, before, Position(frame, frame * 3, {"USD": frame}), rows)


def _check_positions(connect: Callable[[], Sink]) -> None:
    sink = connect()
    assert sink.position(NODE) is None
    under_way = Position(0, 0, {}, CatchUp(7, {"fills": 3}))
    sink.deliver(Delivery(NODE, None, under_way, {}))
    assert sink.position(NODE) == under_way
    name, table = next((name, table) for name, table in sink.tables.items() if not table.latest)
    for wrong in (None, Position(), Position(1, 3, {"USD": 1})):
        with pytest.raises(PositionMoved):
            sink.deliver(_moved(wrong, 2, **{name: [sample(table, 1, 2)]}))
    sink.close()
    sink = connect()
    assert sink.position(NODE) == under_way
    with sink.moment(NODE):
        assert list(sink.rows(name, NODE)) == [], "a refused delivery stores nothing"
    sink.deliver(_moved(under_way, 1))
    assert sink.position(NODE) == Position(1, 3, {"USD": 1})
    sink.close()


def _check_rows(connect: Callable[[], Sink]) -> None:
    sink = connect()
    for name, table in sink.tables.items():
        before = sink.position(NODE)
        whole, bare = sample(table, 1, 5), sample(table, 2, 5, empty=True)
        sink.deliver(Delivery(NODE, before, Position(5), {name: [whole, bare]}))
        again = sample(table, 1, 6, empty=True)
        sink.deliver(Delivery(NODE, Position(5), Position(6), {name: [again]}))
        earlier = sample(table, 2, 4)
        sink.deliver(Delivery(NODE, Position(6), Position(7), {name: [earlier]}))
        with sink.moment(NODE) as position:
            assert position == Position(7)
            found = sorted(sink.rows(name, NODE), key=lambda row: str(row[: table.key]))
        expected = [again if table.latest else whole, bare]
        assert found == expected, name
    sink.close()


def _check_refusals(connect: Callable[[], Sink]) -> None:
    """A row whose values the engine refuses is returned, and the rows around it are stored."""
    sink = connect()
    for name, table in sink.tables.items():
        kinds = [kind for _, kind in table.columns]
        if "text" not in kinds[1:]:
            continue
        rows = [sample(table, number, 8) for number in (3, 4, 5)]
        rows[1] = (
            NODE,
            *("\0" if k == "text" else v for k, v in list(zip(kinds, rows[1], strict=True))[1:]),
        )
        before = sink.position(NODE)
        refused = sink.deliver(Delivery(NODE, before, Position(8), {name: rows}))
        with sink.moment(NODE) as position:
            assert position == Position(8)
            found = set(sink.rows(name, NODE))
        assert {rows[0], rows[2]} <= found, name
        assert [aside.row for aside in refused] == ([] if rows[1] in found else [rows[1]]), name
    sink.close()


def _check_nodes(connect: Callable[[], Sink]) -> None:
    sink = connect()
    name, table = next(iter(sink.tables.items()))
    row = sample(table, 1, 1, node=OTHER)
    sink.deliver(Delivery(OTHER, None, Position(1), {name: [row]}, gap=(1, 1)))
    sink.forget(NODE)
    assert sink.position(NODE) is None
    with sink.moment(NODE):
        assert list(sink.rows(name, NODE)) == []
        assert list(sink.rows(name, OTHER)) == [row]
    sink.deliver(_moved(None, 1))
    sink.close()
