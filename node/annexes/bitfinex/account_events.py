"""Channel 0: events of an account, sent to all connections authenticated for it.

    ps ws os    positions (none), wallets and open orders: once, when the connection begins
    on ou oc    an order is new, changed, over
    te tu       a trade of it, first without its fee, then with it
    wu bu       a wallet changed, and the value of all of them
    n           how the connection's own inputs went

An account's news are put into words once, for all of its connections. A connection that leaves
too much of it unread is cut: unlike a book's, these messages cannot be left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from decimal import Context, Decimal
from typing import Final, NamedTuple

import msgspec

from exchange.model.decimals import plain
from exchange.model.records import Fill, Order
from node.annexes.bitfinex import limits
from node.annexes.bitfinex.account_arrays import STATUS_FILLS, order_text, wallet_text
from node.annexes.bitfinex.account_reads import fill_text, fills_by_order, wallet_texts
from node.annexes.bitfinex.public_arrays import array
from node.annexes.bitfinex.public_channels import ChannelStream
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.market_data import MarketData
from node.service.trading import AccountNews, Trading
from node.streams.stream import ReaderTooSlow

_CENT: Final = Decimal("0.01")
_WIDE: Final = Context(prec=60)
VALUED_IN: Final = "USD"  # the value of all wallets is in it, as on Bitfinex

ORDER_KINDS: Final = frozenset({"ps", "os", "on", "ou", "oc", "te", "tu"})
WALLET_KINDS: Final = frozenset({"ws", "wu", "bu"})


class Event(NamedTuple):
    """An account message: its kind, the symbol or asset it is about, and its data as JSON text."""

    kind: str
    about: str
    text: str


class InputOutcome(str):
    """A notification about one of the connection's own inputs (`*-req`).

    Neither sequence counts it. It carries the private number as that is, and no public one: audits of
    clients (`seqAudit` of bitfinex-api-node, its plugin for bfx-api-node-core) expect exactly that.
    """

    __slots__ = ()


class FailedOutcome(InputOutcome):
    """The same of an input that failed, which carries no number at all."""

    __slots__ = ()


class Filter:
    """Filter of a connection's events: `trading`, `trading-tBTCUSD`, `wallet`, `wallet-exchange-BTC`,
    `balance`, `notify`. None of them wants all. A key or token gets the kinds that it may read, and the
    outcomes of its own inputs."""

    def __init__(self, words: Collection[str], readable: frozenset[str]) -> None:
        self._words = frozenset(words)
        self._readable = readable

    def wants(self, kind: str, about: str) -> bool:
        words = self._words
        if kind != "n" and kind not in self._readable:
            return False
        if not words:
            return True
        if kind in ORDER_KINDS:
            return "trading" in words or f"trading-{about}" in words
        if kind in ("bu", "n"):
            return {"bu": "balance", "n": "notify"}[kind] in words
        return "wallet" in words or f"wallet-exchange-{about}" in words


class AccountEventStream(ChannelStream):
    """Channel 0 of one connection."""

    pace = 0.0

    def __init__(self, feed: AccountFeed, wanted: Filter, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._feed = feed
        self._wanted = wanted
        self._waiting: deque[str] = deque()
        self._overrun = False
        self._worth_changed = False
        self._numbered = 0

    @property
    def identity(self) -> tuple[object, ...]:
        return ("account",)

    def close(self) -> None:
        self._feed.detach(self)

    def write(self, flags: int) -> list[str]:
        """
        Raises: TooSlow: the reader is too far behind.
        """
        if self._overrun:
            raise ReaderTooSlow
        bodies = list(self._waiting)
        self._waiting.clear()
        if self._worth_changed:
            self._worth_changed = False
            bodies.append(f'"bu",{self._feed.worth()}')
        return bodies

    def numbers(self, body: str, public: Callable[[], int]) -> str:
        if isinstance(body, FailedOutcome):
            return ""
        if isinstance(body, InputOutcome):
            return f",{self._numbered}"
        self._numbered += 1
        return f",{public()},{self._numbered}"

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._wanted.wants(event.kind, event.about):
                self._add(f'"{event.kind}",{event.text}')

    def begin(self, orders: Sequence[Event], wallets: Sequence[Event]) -> None:
        """The snapshots."""
        if self._wanted.wants("ps", ""):
            self._add('"ps",[]')
        for kind, events in (("ws", wallets), ("os", orders)):
            texts = [e.text for e in events if self._wanted.wants(kind, e.about)]
            if texts or self._wanted.wants(kind, ""):
                self._add(f'"{kind}",{array(texts)}')
        self.tell_worth()

    def tell_worth(self) -> None:
        """With the next messages, as it is then: it is made of all wallets, so once is enough."""
        if self._wanted.wants("bu", ""):
            self._worth_changed = True
            self.mark()

    def remember(self, order: Order, text: str) -> None:
        """Keep the text of an order that was just placed, for the account's event about it."""
        self._feed.remember(order, text)

    def notify(self, notification: str, *, failed: bool) -> None:
        """Send the outcome of an input."""
        if self._wanted.wants("n", ""):
            body = f'"n",{notification}'
            self._add(FailedOutcome(body) if failed else InputOutcome(body))

    def calculate(self, names: Collection[str]) -> None:
        """Send the requested state again: `balance`, `wallet_exchange_BTC`. It is always up to date."""
        if "balance" in names:
            self.tell_worth()
        wallets = {f"wallet_exchange_{event.about}": event for event in self._feed.wallets()}
        self.tell(
            wallets[name]._replace(kind="wu") for name in dict.fromkeys(names) if name in wallets
        )

    def _add(self, body: str) -> None:
        if len(self._waiting) >= limits.PRIVATE_WAITING:
            self._overrun = True
            self._waiting.clear()
        if not self._overrun:
            self._waiting.append(body)
        self.mark()


class AccountFeed:
    """Events of one account in the dialect's form."""

    def __init__(
        self, trading: Trading, symbols: Symbols, market_data: MarketData, account: int
    ) -> None:
        self._trading = trading
        self._symbols = symbols
        self._market_data = market_data
        self._account = account
        self._streams: dict[AccountEventStream, None] = {}
        self._fills: dict[int, list[Fill]] = {}  # of the open orders, oldest first
        self._texts: dict[int, tuple[Order, str]] = {}  # of orders placed since the last news
        self._stop = trading.listen(account, self._hear)
        for order in trading.open_orders_of(account):
            self._fills[order.number] = []

    async def load(self) -> None:
        """Fetch the fills that open orders had before."""
        orders = self._trading.open_orders_of(self._account)
        earlier = await fills_by_order(self._trading, self._account, orders)
        for number, fills in earlier.items():
            since = self._fills.get(number)
            if since is not None:
                heard = {(fill.taker, fill.take, fill.role) for fill in since}
                since[:0] = [f for f in fills if (f.taker, f.take, f.role) not in heard]

    def attach(
        self, words: Collection[str], wake: Callable[[], None], readable: frozenset[str]
    ) -> AccountEventStream:
        """A stream for a connection, with the snapshots in it."""
        stream = AccountEventStream(self, Filter(words, readable), wake)
        self._streams[stream] = None
        orders = [
            Event("os", pair.symbol, order_text(order, pair, self._fills.get(order.number, ())))
            for order in self._trading.open_orders_of(self._account)
            if (pair := self._symbols.find(order.market)) is not None
        ]
        stream.begin(orders, self.wallets())
        return stream

    def detach(self, stream: AccountEventStream) -> None:
        self._streams.pop(stream, None)

    @property
    def used(self) -> bool:
        return bool(self._streams)

    def close(self) -> None:
        self._stop()

    def wallets(self) -> list[Event]:
        balances = self._trading.balances_of(self._account)
        texts = wallet_texts(self._trading, self._account)
        return [Event("ws", b.asset, text) for b, text in zip(balances, texts, strict=True)]

    def worth(self) -> str:
        """The value of all wallets, as JSON text: each at the last price of its market against VALUED_IN.
        What has no such market or price counts for nothing."""
        total = Decimal(0)
        lasts = self._last_prices()
        for balance in self._trading.balances_of(self._account):
            price = lasts.get(balance.asset)
            if price is not None:
                decimals = self._trading.decimals(balance.asset)
                total += price * Decimal(plain(balance.total, decimals))
        text = f"{total.quantize(_CENT, context=_WIDE):f}"
        return f"[{text},{text}]"

    def _last_prices(self) -> Mapping[str, Decimal]:
        found = {VALUED_IN: Decimal(1)}
        for pair in self._symbols:
            if pair.instrument.quote == VALUED_IN:
                last = self._market_data.ticker(pair.key).day.last
                if last is not None:
                    found[pair.instrument.base] = Decimal(pair.scale.price(last))
        return found

    # News

    def remember(self, order: Order, text: str) -> None:
        """Keep the text of an order that was just placed, until the next news."""
        self._texts[order.number] = copy(order), text

    def _hear(self, news: AccountNews) -> None:
        events = list(self._events(news))
        self._texts.clear()
        for stream in self._streams:
            stream.tell(events)
            if news.balances:
                stream.tell_worth()

    def _events(self, news: AccountNews) -> Iterable[Event]:
        fills: dict[int, list[Fill]] = {}
        for fill in news.fills:
            fills.setdefault(fill.order, []).append(fill)
        latest = {order.number: order for order in news.orders}
        for order in latest.values():
            yield from self._order_events(order, fills.pop(order.number, []))
        for late in fills.values():
            yield from self._trade_events(late)
        for balance in {balance.asset: balance for balance in news.balances}.values():
            decimals = self._trading.decimals(balance.asset)
            yield Event("wu", balance.asset, wallet_text(balance, decimals))

    def _order_events(self, order: Order, fills: list[Fill]) -> Iterable[Event]:
        pair = self._symbols.find(order.market)
        if pair is None:
            return
        before = self._fills.get(order.number)
        if before is None:
            before = self._fills[order.number] = []
            yield Event("on", pair.symbol, self._text_as_placed(order, pair))
            changed = bool(fills)
        else:
            changed = True
        yield from self._trade_events(fills)
        before += fills
        del before[STATUS_FILLS + 1 :]  # with more than that the status sums them up
        if order.done:
            del self._fills[order.number]
            yield Event("oc", pair.symbol, order_text(order, pair, before))
        elif changed:
            yield Event("ou", pair.symbol, order_text(order, pair, before))

    def _text_as_placed(self, order: Order, pair: Pair) -> str:
        placed = _as_placed(order)
        made = self._texts.get(order.number)
        return made[1] if made is not None and made[0] == placed else order_text(placed, pair)

    def _trade_events(self, fills: Iterable[Fill]) -> Iterable[Event]:
        for fill in fills:
            pair = self._symbols.find(fill.market)
            if pair is not None:
                for kind in ("te", "tu"):
                    text = fill_text(self._trading, pair, fill, with_fee=kind == "tu")
                    yield Event(kind, pair.symbol, text)


def _as_placed(order: Order) -> Order:
    """As it was before anything happened to it."""
    if not (order.filled or order.done or order.cancelled) and order.updated <= order.time:
        return order
    return msgspec.structs.replace(
        order, filled=0, value=0, done=False, cancelled=False, reason="", updated=order.time
    )


class AccountFeeds:
    """Feeds of the accounts with subscribers."""

    def __init__(self, trading: Trading, symbols: Symbols, market_data: MarketData) -> None:
        self._trading = trading
        self._symbols = symbols
        self._market_data = market_data
        self._feeds: dict[int, AccountFeed] = {}

    async def attach(
        self,
        account: int,
        words: Collection[str],
        wake: Callable[[], None],
        readable: frozenset[str],
    ) -> AccountEventStream:
        feed = self._feeds.get(account)
        if feed is None:
            feed = AccountFeed(self._trading, self._symbols, self._market_data, account)
            try:
                await feed.load()
            except BaseException:
                feed.close()
                raise
            other = self._feeds.setdefault(account, feed)
            if other is not feed:  # made meanwhile
                feed.close()
                feed = other
        stream = feed.attach(words, wake, readable)
        try:
            await self._trading.durable(account)  # the snapshots may have the latest decision
        except BaseException:
            self.detach(account, stream)
            raise
        return stream

    def detach(self, account: int, stream: AccountEventStream) -> None:
        stream.close()
        feed = self._feeds.get(account)
        if feed is not None and not feed.used:
            feed.close()
            del self._feeds[account]
