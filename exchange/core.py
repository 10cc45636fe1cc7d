"""What the parts of one node's exchange share: its markets, and what is to leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from exchange.feed import Feed, Writer
from exchange.market import Market, Owners, Trade
from exchange.ports import Keys, Message
from exchange.records import Fill, Order, PutSnapshot, Record

MAX_DRIFT_US = 5_000_000  # others' order times further ahead than this do not move ours


class Refused(Exception):
    """A command that was not carried out. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Drained(msgspec.Struct):
    """What came of the calls since the last `drain`.

    `records` first, all of them, then `messages` in order; `levels`, `trades`, `orders` and `fills`
    tell readers what changed.
    """

    records: list[Record]
    messages: list[Message]
    levels: list[tuple[str, int, int]]  # (market, side, price)
    trades: list[tuple[str, Trade]]
    orders: list[Order]  # copies
    fills: list[Fill]


class Core:
    """Markets and feeds by name, the clock, and everything collected for the next `drain`."""

    def __init__(
        self,
        keys: Keys,
        markets: Iterable[str],
        *,
        network: str,
        epoch_us: int,
        visible: Callable[[str], bool],
        warn: Callable[[str], None],
    ) -> None:
        self.keys = keys
        self.node_id = keys.node_id
        self.network = network
        self.epoch_us = epoch_us
        self.warn = warn
        self.stale: str | None = None  # why this node must not write its feeds any more
        self.listening = False  # after a restart: whether it must not write them yet
        self.forgotten = range(0)  # takes of this node that the journal knows nothing of, if any
        self.owners = Owners(keys.node_id)
        self.feeds: dict[tuple[str, str], Feed] = {}
        self.markets: dict[str, Market] = {}
        for key in markets:
            feed = self.feeds[self.node_id, key] = Feed(self.node_id, key)
            self.markets[key] = Market(key, self.owners, Writer(feed, keys, network), visible)
        self.records: list[Record] = []
        self.messages: list[Message] = []
        self.trades: list[tuple[str, Trade]] = []
        self.fills: list[Fill] = []
        self.orders: dict[int, Order] = {}  # own orders that changed
        self.meta: dict[str, int] = {}

    @property
    def writes(self) -> bool:
        """Whether this node may write its feeds and settle anything."""
        return self.stale is None and not self.listening

    def us(self, now: float) -> int:
        """The wall clock at `now`, in microseconds since the epoch."""
        return self.epoch_us + int(now * 1_000_000)

    def add_trade(self, market: Market, trade: Trade) -> None:
        market.tape.append(trade)
        self.trades.append((market.key, trade))

    def save_snapshot(self, feed: Feed) -> None:
        """Record a feed's snapshot if it has moved."""
        if feed.snapshot_moved and feed.snapshot is not None:
            feed.snapshot_moved = False
            self.records.append(PutSnapshot(feed.owner, feed.market, feed.snapshot))
