"""Trace contexts of orders on their way from the node to the process that exports the copy."""

from __future__ import annotations

from node.annexes.export.order_traces import KEPT, OrderTraceLines, OrderTraces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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
