"""Orders and trades as integers below 2**53, which is what JSON numbers carry everywhere.

Order ids all have sixteen digits, because clients break ties between orders of one price by comparing
the ids, some as numbers and some as texts. Of this node's own orders the id is the number plus `OWN`;
of others' it is a hash of node id and number, which is the same after a restart.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from exchange.market.market import OwnerIndex
from exchange.market.order_book import OrderBook
from exchange.model.peer_values import MAX_ORDER

OWN: Final = 10**15
_OTHERS: Final = OWN + MAX_ORDER  # others' ids begin here
_SPACE: Final = 2**53 - _OTHERS
MAX_REMEMBERED: Final = 20_000  # ids; then those of orders that have left the book are dropped


def trade_id(taker: str, take: int) -> int:
    """The integer id of a trade: the same on every node."""
    digest = blake2b(f"{taker}:{take}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 11


def own_order_id(number: int) -> int:
    return OWN + number


def own_number(order_id: int) -> int:
    """The number of this node's order with that id; below 1 or above `MAX_ORDER` if there is none."""
    return order_id - OWN


class OrderIds:
    """Ids of the orders of one market's book, by their keys in it.

    Two orders whose hashes are the same get neighbouring ids, which they keep while they rest.
    """

    def __init__(self, owners: OwnerIndex, book: OrderBook) -> None:
        self._owners = owners
        self._book = book
        self._most = MAX_REMEMBERED
        self._ids: dict[int, int] = {}
        self._keys: dict[int, int] = {}

    def id_of(self, key: int) -> int:
        found = self._ids.get(key)
        if found is None:
            owner, number = self._owners.split(key)
            if key == number:  # our own
                return own_order_id(number)
            digest = blake2b(f"{owner}:{number}".encode(), digest_size=8).digest()
            found = _OTHERS + int.from_bytes(digest) % _SPACE
            while found in self._keys:
                found = found + 1 if found + 1 < 2**53 else _OTHERS
            self._ids[key] = found
            self._keys[found] = key
            if len(self._ids) > self._most:
                self._forget()
        return found

    def _forget(self) -> None:
        """Only orders that are in the book can be looked at again."""
        book = self._book
        self._ids = {key: found for key, found in self._ids.items() if key in book}
        self._keys = {found: key for key, found in self._ids.items()}
        self._most = max(MAX_REMEMBERED, 2 * len(self._ids))
