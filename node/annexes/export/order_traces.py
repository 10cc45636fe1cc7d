"""Trace contexts of orders, for the headers of messages on the bus.

The journal has none: a trace ends sooner than a record. The node, with `TRACING=true`, writes a line for each order to
the standard input of the process that exports the copy, when it accepts the order: before the order's commit. Both keep
the latest `KEPT`. The rest goes without a header; no row depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2p.ground.bounded_map import BoundedMap

KEPT: Final = 10_000  # orders
LONGEST: Final = 80  # characters of a line
Write = Callable[[bytes], None]


class OrderTraceLines:
    """Lines of a node for the process that exports the copy. `connect` names the process of now."""

    def __init__(self) -> None:
        self._kept: BoundedMap[int, bytes] = BoundedMap(KEPT)
        self._write: Write | None = None

    def note(self, order: int, traceparent: str) -> None:
        """Note the context of an order."""
        line = f"{order} {traceparent}\n".encode("ascii")
        self._kept[order] = line
        if self._write is not None:
            self._write(line)

    def connect(self, write: Write) -> None:
        """Write all kept lines, then each new one."""
        self._write = write
        write(b"".join(self._kept.values()))


class OrderTraces:
    """Contexts from those lines, in the process that exports the copy. One thread feeds, others read."""

    def __init__(self) -> None:
        self._kept: BoundedMap[int, str] = BoundedMap(KEPT)
        self._partial = b""

    def feed(self, data: bytes) -> None:
        """Take a part of the node's lines."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-LONGEST:]
        for line in lines:
            order, _, traceparent = line.decode("ascii", "replace").partition(" ")
            if order.isdigit():
                self._kept[int(order)] = traceparent

    def of(self, order: int) -> str:
        """Return the context of an order; "" if it is not known."""
        return self._kept.get(order, "")
