"""Mutants that no test can notice, because the program does the same: (module, part of its description)."""

from __future__ import annotations

EQUIVALENT: frozenset[tuple[str, str]] = frozenset(
    {
        # An equal deadline is set again.
        ("p2p/mesh/missing_broadcasts.py", "Lt is LtE, in MissingBroadcasts.announced"),
        # Gaps are closed in a queue that is longer by one.
        ("exchange/market/order_book.py", "GtE is Gt, in OrderBook.remove"),
    }
)
