"""Engine context: state that the parts of one node's exchange share, and the output of the next drain."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from exchange.feeds.exchange_messages import FeedName
from exchange.feeds.feed import Feed, Writer
from exchange.feeds.feed_index import FeedIndex
from exchange.ledger.accounts import Accounts
from exchange.ledger.ledger import STRANGERS, Ledger
from exchange.market.market import Market, OwnerIndex, Trade
from exchange.market.market_rules import Halts
from exchange.market.market_specs import MarketSpecs
from exchange.model.ports import Message, SigningKeys
from exchange.model.records import Fill, LocalTrade, Order, PutSnapshot, Record, Recovered, unfolded

MAX_DRIFT_US = 5_000_000  # order times of others further ahead do not move ours

_TRANSACTION = "next_transaction"  # names in the journal
_DECIMALS = "decimals:"  # before an asset: decimals in which its amounts are counted


def stored_decimals(past: Recovered) -> dict[str, int]:
    """Return the decimals in which the journal counts each asset."""
    return {
        name.removeprefix(_DECIMALS): value
        for name, value in past.meta.items()
        if name.startswith(_DECIMALS)
    }


class CommandRejected(Exception):
    """Rejection of a command, which has changed nothing. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Drained(msgspec.Struct, dict=True):
    """Output of the engine since the last drain.

    Make all `records` durable first, then send the `messages` in order. `levels`, `trades`, `orders`,
    `fills` and `balances` are the changes for readers.
    """

    records: list[Record]
    messages: list[Message]
    levels: list[tuple[str, int, int]]  # (market, side, price)
    trades: list[tuple[str, Trade]]
    orders: list[Order]  # copies; finished ones, which do not change again, as they are
    balances: list[tuple[int, str, int, int]] = []  # (account, asset, total, held)

    @cached_property
    def fills(self) -> list[Fill]:
        """Own sides of the trades, in order. Made when a reader asks for them."""
        return [record for record in unfolded(self.records) if isinstance(record, Fill)]

    @property
    def fill_count(self) -> int:
        """Length of `fills`."""
        kinds = [type(record) for record in self.records]
        return kinds.count(Fill) + 2 * kinds.count(LocalTrade)


class ChangedMarkets:
    """Markets that changed since the last drain, and those that stay crossed or have holds.

    A node may have hundreds of markets, of which few change between two drains. All lists are in the order of the
    node's markets.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.changed: list[Market] = []  # since the last `take`, in no order; for reading only
        self._unsettled: dict[str, Market] = {}

    def add(self, market: Market) -> None:
        """Note a change (`Market.mark`)."""
        self.changed.append(market)

    def register(self, market: Market) -> None:
        """Add a market of the node; it counts as changed."""
        self._places[market.key] = len(self._places)
        market.mark()

    def take(self) -> list[Market]:
        """Return the markets that changed since the last call."""
        changed, self.changed = self.changed, []
        for market in changed:
            market.marked = False
            self._unsettled[market.key] = market
        return self._in_order(changed)

    def unsettled(self) -> list[Market]:
        """Return the markets with holds, or with resting orders that could trade with each other."""
        for market in self.changed:
            self._unsettled[market.key] = market
        if not self._unsettled:
            return []
        self._unsettled = {
            key: market
            for key, market in self._unsettled.items()
            if market.held_owners or market.crossed
        }
        return self._in_order(list(self._unsettled.values()))

    def _in_order(self, markets: list[Market]) -> list[Market]:
        if len(markets) > 1:
            markets.sort(key=lambda market: self._places[market.key])
        return markets


@dataclass(frozen=True)
class TradingRules:
    """Choices of a node's operator about trades with others.

    `credit_strangers`: see `Ledger`. `unreliable_last`: among equal prices, orders of makers that are unreliable
    (`exchange.takes.maker_conduct`) are taken last.
    """

    credit_strangers: int = STRANGERS
    unreliable_last: bool = False


DEFAULT_RULES: Final = TradingRules()


class EngineContext:
    """Markets and feeds by name, the clock, and the records and messages for the next drain."""

    def __init__(
        self,
        keys: SigningKeys,
        markets: Iterable[str],
        *,
        network: str,
        epoch_us: int,
        visible: Callable[[str], bool],
        warn: Callable[[str, str, str], None],
        specs: MarketSpecs,
        rules: TradingRules = DEFAULT_RULES,
    ) -> None:
        self.keys = keys
        self.node_id = keys.node_id
        self.network = network
        self.epoch_us = epoch_us
        self._warn = warn
        self.stale: str | None = None  # reason why this node must not write its feeds any more
        self.fenced = False  # after a restart: this node must not write its feeds yet
        self.expiring = False  # orders are left whose date has come: nothing may be filled
        self.forgotten = range(0)  # own takes that the journal of an old copy may lack
        self.specs = specs
        self.rules = rules
        self.ledger = Ledger(specs.decimals, rules.credit_strangers)
        self.accounts = Accounts()
        self.halts = Halts()
        self.owners = OwnerIndex(keys.node_id)
        self.feeds = FeedIndex()
        self.working: dict[FeedName, Feed] = {}  # feeds with work to do in slices, a slice a tick
        self.markets: dict[str, Market] = {}
        self.changes = ChangedMarkets()
        for key in markets:
            feed = self.feeds[self.node_id, key] = Feed(self.node_id, key)
            writer = Writer(feed, keys, network)
            units, market_rules = specs.units[key], specs.rules.get(key)
            market = Market(
                key, self.owners, writer, visible, units, market_rules, on_change=self.changes.add
            )
            self.markets[key] = market
            self.changes.register(market)
        self.records: list[Record] = []
        self.messages: list[Message] = []
        self.trades: list[tuple[str, Trade]] = []
        self.orders: dict[int, Order] = {}  # own orders that changed
        self.meta: dict[str, int] = {}
        self.counters: dict[str, int] = {}  # counters, with their last drained values
        self.visible = visible
        self.watched: set[str] = set()  # markets with untriggered orders
        self.unseen: deque[tuple[Market, Trade]] = deque()  # their trades, not yet processed

    def warn(self, text: str, kind: str = "", owner: str = "") -> None:
        """Warn about this node; with `kind` and `owner`, about what another node does."""
        self._warn(text, kind, owner)

    def restore_money(self, now: float, past: Recovered) -> None:
        """Restore balances, limits and accounts from the journal. Balances are counted in smaller units
        from now on where an instrument needs that."""
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
        """Make a counter durable if it has changed."""
        if self.counters.get(name) != value:
            self.counters[name] = self.meta[name] = value

    def drain_money(self) -> list[tuple[int, str, int, int]]:
        """Move the records of ledger and accounts to `records`. Returns the changed balances as
        (account, asset, total, held)."""
        ledger, accounts = self.ledger, self.accounts
        self.count(_TRANSACTION, ledger.next_transaction)
        for source in (ledger.records, accounts.records):
            if source:
                self.records.extend(source)
                source.clear()
        balances = [(*changed.key, changed.balance, changed.held) for changed in ledger.changed]
        ledger.changed.clear()
        return balances

    @property
    def writes(self) -> bool:
        """True while this node may write its feeds and settle trades."""
        return self.stale is None and not self.fenced

    def us(self, now: float) -> int:
        """Return the wall clock at `now`, in microseconds since the epoch."""
        return self.epoch_us + int(now * 1_000_000)

    def seconds(self, us: int) -> float:
        """Return the time of the engine's clock for a wall clock's time."""
        return (us - self.epoch_us) / 1_000_000

    def add_trade(self, market: Market, trade: Trade) -> None:
        """Add a public trade to the tape, and to the queue of the conditional orders."""
        market.tape.append(trade)
        self.trades.append((market.key, trade))
        if market.key in self.watched:
            self.unseen.append((market, trade))

    def save_snapshot(self, feed: Feed) -> None:
        """Record a feed's snapshot if it has moved, and let the feed do the rest beside trading."""
        if feed.working:
            self.working[feed.owner, feed.market] = feed
        if feed.snapshot_moved and feed.snapshot is not None:
            feed.snapshot_moved = False
            self.records.append(PutSnapshot(feed.owner, feed.market, feed.snapshot))
