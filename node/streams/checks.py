"""Checksums of books: what both ends must agree about after every message.

Each entry is written as one line of text, and the checksum is the sum of the lines' CRC-32, modulo 2**32:

    L1, L2   buy:30000:0.5:2                                             side, price, quantity, orders
    L3       buy:<node id>-12:30000:0.5:2026-01-02T03:04:05.678901Z      side, id, price, quantity, time

A sum, because it does not depend on an order of the entries and follows a change by subtracting one line
and adding another: the whole book is covered, however deep, at the price of what changed. An empty book
has 0. Nodes that show the same L2 book have the same checksum.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from node.streams.messages import Level, RestingOrder

MODULUS: Final = 2**32


def level_check(side: str, level: Level) -> int:
    """A level's part of the checksum. `side` is "buy" or "sell"."""
    return crc32(f"{side}:{level.price}:{level.quantity}:{level.orders}".encode())


def order_check(side: str, order: RestingOrder) -> int:
    return crc32(f"{side}:{order.id}:{order.price}:{order.quantity}:{order.time}".encode())
