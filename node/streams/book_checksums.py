"""Checksums of books, equal at both ends after every message.

Each entry is written as one line of text, and the checksum is the sum of c * (2 * c + 1) over the CRC-32 c
of every line, modulo 2**32:

    L1, L2   buy:30000:0.5:2                                             side, price, quantity, orders
    L3       buy:<node id>-12:30000:0.5:2026-01-02T03:04:05.678901Z      side, id, price, quantity, time

A sum, because it does not depend on an order of the entries and follows a change by subtracting one line
and adding another: the whole book is covered, however deep, at the price of what changed. An empty book
has 0. Nodes that show the same L2 book have the same checksum. The product keeps two entries that swapped
something from cancelling out, which bare CRCs do now and then, being linear.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from node.streams.stream_messages import Level, RestingOrder

MODULUS: Final = 2**32


def line_check(line: str) -> int:
    """Contribution of one line to the checksum."""
    c = crc32(line.encode())
    return c * (2 * c + 1) % MODULUS


def level_check(side: str, level: Level) -> int:
    """A level's part of the checksum. `side` is "buy" or "sell"."""
    return line_check(f"{side}:{level.price}:{level.quantity}:{level.orders}")


def order_check(side: str, order: RestingOrder) -> int:
    return line_check(f"{side}:{order.id}:{order.price}:{order.quantity}:{order.time}")
