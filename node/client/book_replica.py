"""A book at the reader's end: each message applied, its place in the stream and its checksum verified.

ClientError
└── BookFault               what came does not fit what is held: subscribe anew
    ├── SequenceGap         a message is missing
    └── ChecksumMismatch    the book is not the node's
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from node.client.exchange_client import ClientError
from node.streams.book_checksums import MODULUS, level_check, order_check
from node.streams.stream_messages import (
    BookL1,
    BookL2Snapshot,
    BookL3Snapshot,
    BookMessage,
    Level,
    RestingOrder,
    Resume,
)
from node.views.views import Side

E = TypeVar("E", Level, RestingOrder)
_Rank = tuple[Any, ...]


class BookFault(ClientError):
    """A message does not fit the replica's state."""


class SequenceGap(BookFault):
    """A message is missing."""

    def __init__(self, held: int | None, previous: int) -> None:
        super().__init__(f"the message follows {previous}, and {held} is what is held")
        self.held = held
        self.previous = previous


class ChecksumMismatch(BookFault):
    """The book is not the node's."""

    def __init__(self, sequence: int, told: int, found: int) -> None:
        super().__init__(f"checksum {told} of message {sequence}, but the book has {found}")
        self.sequence = sequence
        self.told = told
        self.found = found


class _Half(Generic[E]):
    """A side of the book, in order."""

    def __init__(self, side: Side) -> None:
        self.side: Final = side
        self.checksum = 0
        self._sign = -1 if side == "buy" else 1  # best first
        self._held: dict[str, tuple[_Rank, E, int]] = {}
        self._order: list[_Rank] = []
        self._by_rank: dict[_Rank, E] = {}

    def load(self, entries: list[E]) -> None:
        self.checksum = 0
        self._held.clear()
        self._by_rank.clear()
        for entry in entries:
            self._hold(entry)
        self._order = sorted(self._by_rank)

    def apply(self, entry: E) -> None:
        name = entry.id if isinstance(entry, RestingOrder) else entry.price
        known = self._held.pop(name, None)
        if known is not None:
            rank, _, check = known
            self.checksum = (self.checksum - check) % MODULUS
            del self._by_rank[rank]
        if entry.quantity == "0":
            if known is not None:
                self._leave(known[0])
            return
        rank = self._hold(entry)
        if known is None:
            insort(self._order, rank)
        elif known[0] != rank:
            self._leave(known[0])
            insort(self._order, rank)

    def _hold(self, entry: E) -> _Rank:
        price = self._sign * Decimal(entry.price)
        rank: _Rank
        if isinstance(entry, RestingOrder):
            node, _, number = entry.id.rpartition("-")
            name, rank = entry.id, (price, entry.time, node, int(number))
            check = order_check(self.side, entry)
        else:
            name, rank = entry.price, (price,)
            check = level_check(self.side, entry)
        self._held[name] = rank, entry, check
        self._by_rank[rank] = entry
        self.checksum = (self.checksum + check) % MODULUS
        return rank

    def _leave(self, rank: _Rank) -> None:
        del self._order[bisect_left(self._order, rank)]

    def __len__(self) -> int:
        return len(self._order)

    def best(self, count: int | None) -> list[E]:
        return [self._by_rank[rank] for rank in self._order[:count]]


class BookReplica(Generic[E]):
    """See the module's docstring. L1 and L2 books have `Level`s, L3 books `RestingOrder`s."""

    def __init__(self) -> None:
        self._bids: _Half[E] = _Half("buy")
        self._asks: _Half[E] = _Half("sell")
        self.epoch = ""
        self.sequence: int | None = None  # None: no snapshot has come yet
        self.time = ""  # of the last message

    @property
    def checksum(self) -> int:
        return (self._bids.checksum + self._asks.checksum) % MODULUS

    @property
    def position(self) -> Resume | None:
        """Position at which a new subscription continues."""
        return None if self.sequence is None else Resume(epoch=self.epoch, sequence=self.sequence)

    def bids(self, count: int | None = None) -> list[E]:
        """Best first; at most `count`."""
        return self._bids.best(count)

    def asks(self, count: int | None = None) -> list[E]:
        return self._asks.best(count)

    @property
    def best_bid(self) -> E | None:
        return next(iter(self._bids.best(1)), None)

    @property
    def best_ask(self) -> E | None:
        return next(iter(self._asks.best(1)), None)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._bids) + len(self._asks)

    def apply(self, message: BookMessage) -> None:
        """Take one message over.

        Raises:
            BookFault: it does not follow what is held, or the book is not the node's any more.
        """
        bids: list[Any]
        asks: list[Any]
        if isinstance(message, BookL1):
            self._follows(message.epoch, message.previous)
            self._bids.load([message.bid] if message.bid else [])  # type: ignore[list-item]
            self._asks.load([message.ask] if message.ask else [])  # type: ignore[list-item]
        elif isinstance(message, BookL2Snapshot | BookL3Snapshot):
            bids, asks = list(message.bids), list(message.asks)
            self._bids.load(bids)
            self._asks.load(asks)
        else:
            self._follows(message.epoch, message.previous)
            bids, asks = list(message.bids), list(message.asks)
            for entry in bids:
                self._bids.apply(entry)
            for entry in asks:
                self._asks.apply(entry)
        self.epoch, self.sequence, self.time = message.epoch, message.sequence, message.time
        if self.checksum != message.checksum:
            raise ChecksumMismatch(message.sequence, message.checksum, self.checksum)

    def _follows(self, epoch: str, previous: int | None) -> None:
        if previous is not None and (epoch != self.epoch or previous != self.sequence):
            raise SequenceGap(self.sequence, previous)
