"""Trace contexts of orders on their way from the node to the process that exports the copy."""

from __future__ import annotations

from decimal import Decimal

from node.annexes.export.nats_messages import copy_plan
from node.annexes.export.order_traces import KEPT, OrderTraceLines, OrderTraces
from node.annexes.export.sink import Delivery, Position
from node.annexes.export.tables import TABLES, Row, Value

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def row(table: str, **values: Value) -> Row:
    return tuple(values.get(name) for name in TABLES[table].names)


def test_lines_that_arrive_in_pieces_give_each_order_its_context() -> None:
    lines, traces = OrderTraceLines(), OrderTraces()
    lines.note(1, PARENT)
    written: list[bytes] = []
    lines.connect(written.append)  # the process was not there for the first one
    lines.note(2, PARENT.replace("01", "00"))
    for byte in b"".join(written):
        traces.feed(bytes([byte]))
    assert traces.of(1) == PARENT
    assert traces.of(2) == PARENT.replace("01", "00")
    assert traces.of(3) == ""


def test_a_process_that_is_started_again_gets_the_latest_contexts_and_no_more() -> None:
    lines, traces = OrderTraceLines(), OrderTraces()
    lost: list[bytes] = []
    lines.connect(lost.append)
    for number in range(1, KEPT + 3):
        lines.note(number, PARENT)
    lines.connect(traces.feed)
    assert [traces.of(number) for number in (1, 2, 3)] == ["", "", PARENT]
    traces.feed(b"x" * 1_000_000)
    traces.feed(b"\nno number\n\xff 1\n")
    lines.note(KEPT + 3, PARENT)
    assert traces.of(KEPT + 3) == PARENT


def test_messages_name_the_own_order_that_they_are_about() -> None:
    def message(table: str, **values: Value) -> int:
        found = {table: [row(table, node="n", frame=1, **values)]}
        ((made,), _) = copy_plan("main").messages(
            Delivery("n", None, Position(1), found), frozenset()
        )
        return made.order

    assert message("orders", number=4, market="BTC-USD", price=Decimal(1)) == 4
    assert message("fills", taker="n", take=7, market="BTC-USD", order_number=5) == 5
    assert message("decisions", taker="m", take=7, market="BTC-USD", order_number=6) == 6
    assert message("decisions", taker="m", take=7, market="BTC-USD", order_number=None) == 0
    assert message("trades", maker="m", taker="n", take=7, market="BTC-USD", maker_order=9) == 0
