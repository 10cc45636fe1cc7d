"""Modules to put faults into, with the tests that have to notice them."""

from __future__ import annotations

from dataclasses import dataclass

UNIT = "tests/unit"


@dataclass(frozen=True, slots=True)
class Subject:
    modules: tuple[str, ...]
    tests: tuple[str, ...]


_TAKES = (f"{UNIT}/exchange/takes", f"{UNIT}/exchange/engine", f"{UNIT}/exchange/orders")
_BOOK = (f"{UNIT}/exchange/market", f"{UNIT}/exchange/engine", f"{UNIT}/exchange/orders")

SUBJECTS: dict[str, Subject] = {
    "settlement": Subject(
        (
            "exchange/takes/take_protocol.py",
            "exchange/takes/taker_side.py",
            "exchange/takes/maker_side.py",
        ),
        _TAKES,
    ),
    "book": Subject(("exchange/market/order_book.py",), _BOOK),
    "matching": Subject(("exchange/orders/matching.py",), (*_TAKES, f"{UNIT}/exchange/market")),
    "replication": Subject(
        (
            "exchange/feeds/replication.py",
            "exchange/feeds/missing_feeds.py",
            "exchange/feeds/request_budget.py",
        ),
        (f"{UNIT}/exchange/feeds",),
    ),
    "ledger": Subject(
        ("exchange/ledger/ledger.py", "exchange/ledger/balances.py"),
        (f"{UNIT}/exchange/ledger", f"{UNIT}/exchange/takes/test_credit.py"),
    ),
    "breaker": Subject(
        ("p2p/adaptive/circuit_breaker.py", "p2p/adaptive/adaptive_router.py"),
        (f"{UNIT}/p2p/adaptive",),
    ),
    "hints": Subject(
        ("p2p/adaptive/health_hints.py", "p2p/adaptive/hedging.py", "p2p/adaptive/cost_policy.py"),
        (f"{UNIT}/p2p/adaptive",),
    ),
    "budgets": Subject(
        (
            "p2p/mesh/message_budget.py",
            "p2p/mesh/broadcast_tree.py",
            "p2p/mesh/missing_broadcasts.py",
        ),
        (f"{UNIT}/p2p/mesh",),
    ),
}

# Mutants that no test can notice, because the program does the same: (module, part of its description).
EQUIVALENT: frozenset[tuple[str, str]] = frozenset(
    {
        # An equal deadline is set again.
        ("p2p/mesh/missing_broadcasts.py", "Lt is LtE, in MissingBroadcasts.announced"),
        # Gaps are closed in a queue that is longer by one.
        ("exchange/market/order_book.py", "GtE is Gt, in OrderBook.remove"),
    }
)
