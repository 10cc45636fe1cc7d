"""What the parts of one node's exchange share: its markets, and what is to leave it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from exchange.feeds.feed import Feed, Writer
from exchange.feeds.feed_index import FeedIndex
from exchange.ledger.accounts import Accounts
from exchange.ledger.ledger import Ledger
from exchange.market.market import Market, OwnerIndex, Trade
from exchange.market.market_rules import Halts
from exchange.market.market_specs import MarketSpecs
from exchange.model.ports import Message, SigningKeys
from exchange.model.records import Fill, Order, PutSnapshot, Record, Recovered

MAX_DRIFT_US = 5_000_000  # others' order times further ahead than this do not move ours


_TRANSACTION = "next_transaction"  # names in the journal
_DECIMALS = "decimals:"  # before an asset: in which units it is counted


def stored_decimals(past: Recovered) -> dict[str, int]:
    """In which units the journal counts each asset."""
    return {
        name.removeprefix(_DECIMALS): value
        for name, value in past.meta.items()
        if name.startswith(_DECIMALS)
    }


class CommandRejected(Exception):
    """A command that was not carried out. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Drained(msgspec.Struct):
    """What came of the calls since the last `drain`.

    `records` first, all of them, then `messages` in order; `levels`, `trades`, `orders`, `fills` and
    `balances` tell readers what changed.
    """

    records: list[Record]
    messages: list[Message]
    levels: list[tuple[str, int, int]]  # (market, side, price)
    trades: list[tuple[str, Trade]]
    orders: list[Order]  # copies
    fills: list[Fill]
    balances: list[tuple[int, str, int, int]] = []  # (account, asset, total, held) as they are now


class EngineContext:
    """Markets and feeds by name, the clock, and everything collected for the next `drain`."""

    def __init__(
        self,
        keys: SigningKeys,
        markets: Iterable[str],
        *,
        network: str,
        epoch_us: int,
        visible: Callable[[str], bool],
        warn: Callable[[str], None],
        specs: MarketSpecs,
    ) -> None:
        self.keys = keys
        self.node_id = keys.node_id
        self.network = network
        self.epoch_us = epoch_us
        self.warn = warn
        self.stale: str | None = None  # why this node must not write its feeds any more
        self.fenced = False  # after a restart: whether it must not write them yet
        self.forgotten = range(0)  # takes of this node that the journal knows nothing of, if any
        self.specs = specs
        self.ledger = Ledger(specs.decimals)
        self.accounts = Accounts()
        self.halts = Halts()
        self.owners = OwnerIndex(keys.node_id)
        self.feeds = FeedIndex()
        self.markets: dict[str, Market] = {}
        for key in markets:
            feed = self.feeds[self.node_id, key] = Feed(self.node_id, key)
            writer = Writer(feed, keys, network)
            units, rules = specs.units[key], specs.rules.get(key)
            self.markets[key] = Market(key, self.owners, writer, visible, units, rules)
        self.records: list[Record] = []
        self.messages: list[Message] = []
        self.trades: list[tuple[str, Trade]] = []
        self.fills: list[Fill] = []
        self.orders: dict[int, Order] = {}  # own orders that changed
        self.meta: dict[str, int] = {}
        self.counters: dict[str, int] = {}  # numbers that only grow, as they were last drained
        self.watched: set[str] = set()  # markets with orders that wait for a trade
        self.unseen: deque[tuple[Market, Trade]] = deque()  # trades of those, still to be looked at

    def restore_money(self, now: float, past: Recovered) -> None:
        """Balances, limits and accounts of the journal. Balances are counted in smaller units from now
        on where an instrument asks for it."""
        self.ledger.restore(past.balances, past.credit, past.meta.get(_TRANSACTION, 1))
        self.accounts.restore(past.accounts, past.keys, past.nonces)
        stored = stored_decimals(past)
        for asset, digits in self.specs.decimals.items():
            if asset in stored and stored[asset] < digits:
                self.ledger.rescale(self.us(now), asset, stored[asset], digits)
            if stored.get(asset) != digits:
                self.meta[_DECIMALS + asset] = digits
        self.counters[_TRANSACTION] = self.ledger.next_transaction

    def count(self, name: str, value: int) -> None:
        """Make a counter durable if it has moved."""
        if self.counters.get(name) != value:
            self.counters[name] = self.meta[name] = value

    def drain_money(self) -> list[tuple[int, str, int, int]]:
        """Take over the records of ledger and accounts. (account, asset, total, held) that changed."""
        ledger, accounts = self.ledger, self.accounts
        self.count(_TRANSACTION, ledger.next_transaction)
        for source in (ledger.records, accounts.records):
            if source:
                self.records.extend(source)
                source.clear()
        balances = [(*purse.key, purse.balance, purse.held) for purse in ledger.changed]
        ledger.changed.clear()
        return balances

    @property
    def writes(self) -> bool:
        """Whether this node may write its feeds and settle anything."""
        return self.stale is None and not self.fenced

    def us(self, now: float) -> int:
        """The wall clock at `now`, in microseconds since the epoch."""
        return self.epoch_us + int(now * 1_000_000)

    def add_trade(self, market: Market, trade: Trade) -> None:
        market.tape.append(trade)
        self.trades.append((market.key, trade))
        if market.key in self.watched:
            self.unseen.append((market, trade))

    def save_snapshot(self, feed: Feed) -> None:
        """Record a feed's snapshot if it has moved."""
        if feed.snapshot_moved and feed.snapshot is not None:
            feed.snapshot_moved = False
            self.records.append(PutSnapshot(feed.owner, feed.market, feed.snapshot))
