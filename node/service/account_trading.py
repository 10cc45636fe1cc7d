"""`node.service.trading.Trading` on the engine: commands that return when they are durable, and histories.

What the engine decides at once is copied before the wait for the disk, so an answer contains only
durable state, without later changes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Protocol, TypeVar

from msgspec.structs import asdict, replace

from exchange.engine.engine import Engine
from exchange.journal.archive import Archive
from exchange.market.candles import LATEST
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.records import Fill, Order, Posting
from exchange.orders.engine_context import CommandRejected, Drained
from exchange.orders.order_validation import is_same
from node.service.committer import Committer
from node.service.trading import AccountNews, Balance, Span

T = TypeVar("T")
Listener = Callable[[AccountNews], None]


_PREFIX = "dead_man:"  # before an account's number: its deadline, in the journal's meta data


class DeadMansSwitch:
    """Deadlines by account, in us since the epoch."""

    def __init__(self, stored: Mapping[str, int] | None = None) -> None:
        """`stored`: values returned earlier by `set` and `due`."""
        self._deadlines = {
            int(name.removeprefix(_PREFIX)): at
            for name, at in (stored or {}).items()
            if name.startswith(_PREFIX) and at
        }

    def set(self, account: int, at: int | None) -> tuple[str, int]:
        """Set the deadline of an account; None removes it. Returns the value to store."""
        if at is None:
            self._deadlines.pop(account, None)
        else:
            self._deadlines[account] = at
        return f"{_PREFIX}{account}", at or 0

    def next(self) -> int | None:
        """Return the earliest deadline."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: int) -> list[int]:
        """Accounts whose deadline has passed."""
        return [account for account, at in self._deadlines.items() if at <= now]


class OrderTracer(Protocol):
    """Tracer of orders."""

    def order(self, placed: Sequence[Order]) -> AbstractContextManager[None]:
        """Open the span of orders that were accepted, until their answer."""

    def begin(self, placed: Sequence[Order]) -> Callable[[], None]:
        """Open the span of orders that were accepted; what is returned ends it."""


class AccountTrading:
    """See the module's docstring. `clock` is the engine's: monotonic seconds."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        clock: Callable[[], float],
        remembered: Mapping[str, int] | None = None,
        *,
        take_answer_wait: float = 0.0,
        tracer: OrderTracer | None = None,
    ) -> None:
        """`remembered` is the journal's meta data."""
        self.take_answer_wait = take_answer_wait
        self._engine = engine
        self._journal = committer.journal
        self._committer = committer
        self._clock = clock
        self._writing = asyncio.Event()
        engine.when_fence_lifts(self._writing.set)
        self._dead_man = DeadMansSwitch(remembered)
        self._listeners: dict[int, dict[Listener, None]] = {}
        # Answers that wait for other nodes' decisions, by order number.
        self._undecided: dict[int, list[asyncio.Future[None]]] = {}
        # Accounts whose orders are being cancelled at their deadline, with the steps that are left.
        self._ending: dict[int, Iterator[tuple[list[Order], bool]]] = {}
        self.order_count = 0  # placed since the start
        self.fill_count = 0
        self._tracer = tracer

    # Commands

    async def place(self, order: NewOrder, *, wait: float = 0.0) -> list[Order]:
        if order.client_id is not None:
            if self._journal.behind:  # wait here: the look-up itself would hold the loop
                await asyncio.to_thread(self._journal.history)
            if earlier := self._earlier(order):
                return earlier
        if not self._may_write():
            await self._wait_to_write()
        placed = self._place(order)
        if self._tracer is None:
            return await self._decided(placed, wait)
        with self._tracer.order(placed):
            return await self._decided(placed, wait)

    def _place(self, order: NewOrder) -> list[Order]:
        placed = self._engine.orders.place(self._clock(), order)
        self.order_count += len(placed)
        return placed

    async def amend(self, account: int, number: int, changes: Amend, *, wait: float = 0.0) -> Order:
        await self._wait_to_write()
        (order,) = await self._decided([self.amend_now(account, number, changes)], wait)
        return order

    async def cancel(self, account: int, number: int) -> Order:
        await self._writing.wait()
        (order,) = await self._durable([self.cancel_now(account, number)])
        return order

    async def cancel_many(self, which: Selection, *, reason: str = "cancelled") -> list[Order]:
        await self._writing.wait()
        found: list[Order] = []
        for part, more in self._engine.orders.cancelling(self._clock, which, reason):
            found += map(copy, part)
            if more:
                self._committer.wake()
                await asyncio.sleep(0)  # for all others
        await self._committer.durable()
        return found

    async def cancel_after(self, account: int, timeout_ms: int) -> int | None:
        """Cancel the account's open orders after so long unless this is called again; 0 ends it.

        Returns:
            When, in us since the epoch, or None; as soon as that is durable.
        """
        at = self.cancel_after_now(account, timeout_ms)
        await self._committer.durable()
        return at

    # Commands without waiting. What they return is not durable yet, and is changed in place later.

    @property
    def open(self) -> bool:
        return self._may_write() and not self._journal.behind

    async def opened(self) -> None:
        while not self.open:
            if self._journal.behind:
                await asyncio.to_thread(self._journal.history)
            await self._wait_to_write()

    def _may_write(self) -> bool:
        """Report if orders may be placed and changed. Cancels some of the expired orders first: before all are, none
        may be filled."""
        if not self._writing.is_set():
            return False
        engine = self._engine
        return not engine.order_store.expiry.values or not engine.orders.expire_some(self._clock())

    async def _wait_to_write(self) -> None:
        """Wait until `_may_write`: some seconds at most, after a restart (`exchange.feeds.startup_fence`) and when very
        many orders expire."""
        await self._writing.wait()
        while not self._may_write():
            self._committer.wake()
            await asyncio.sleep(0)

    def place_now(self, order: NewOrder) -> list[Order]:
        if earlier := self._earlier(order):
            return earlier
        placed = self._place(order)
        if self._tracer is not None:
            end = self._tracer.begin(placed)
            self.when_durable(lambda _error: end())
        return placed

    def amend_now(self, account: int, number: int, changes: Amend) -> Order:
        self._own(account, number)
        return self._engine.orders.amend(self._clock(), number, changes)

    def cancel_now(self, account: int, number: int) -> Order:
        self._own(account, number)
        return self._engine.orders.cancel(self._clock(), number)

    def cancel_many_now(self, which: Selection, *, reason: str = "cancelled") -> list[Order]:
        return list(self._engine.orders.cancel_many(self._clock(), which, reason))

    def cancel_after_now(self, account: int, timeout_ms: int) -> int | None:
        self._ending.pop(account, None)
        at = self._engine.us(self._clock()) + timeout_ms * 1000 if timeout_ms else None
        self._engine.store_meta(*self._dead_man.set(account, at))
        return at

    def when_durable(self, call: Callable[[CommandRejected | None], None]) -> None:
        self._committer.when_durable(call)

    @property
    def ending(self) -> bool:
        """Report if many orders are being cancelled at their deadline: soon another `tick`, of about a millisecond."""
        return bool(self._ending)

    def next_tick(self) -> float | None:
        """Return when `tick` is due, by the engine's clock."""
        at = self._dead_man.next()
        return None if at is None else self._engine.seconds(at)

    def tick(self) -> None:
        """Cancel orders whose deadline has passed, some of each account with each call. Call a few times a
        second, and drain afterwards."""
        now = self._clock()
        if not self._writing.is_set() or self._engine.stale is not None:
            return
        for account in self._dead_man.due(self._engine.us(now)):
            steps = self._ending.get(account)
            if steps is None:
                which = Selection(account=account)
                steps = self._engine.orders.cancelling(self._clock, which, "dead_man")
                self._ending[account] = steps
            _, more = next(steps)
            if not more:
                self.cancel_after_now(account, 0)

    async def durable(self, account: int | None = None) -> None:
        if account is None:
            await self._committer.durable()
        else:
            await self._committer.durable_of(account)

    async def _durable(self, orders: Iterable[Order]) -> list[Order]:
        """The orders as they are now, once that is on the disk."""
        copies = [copy(order) for order in orders]
        await self._committer.durable()
        return copies

    async def decided(self, orders: Sequence[Order], *, wait: float) -> list[Order]:
        return await self._decided(orders, wait)

    async def _decided(self, orders: Sequence[Order], wait: float) -> list[Order]:
        """The orders when that is on the disk and nothing of them is pending with other nodes, or after
        `wait` seconds."""
        pending = [order.number for order in orders if order.pending] if wait > 0 else ()
        if not pending:
            return await self._durable(orders)
        decisions = [self._decision(number) for number in pending]
        try:
            await self._durable(orders)  # the takes leave with it
            await asyncio.wait(decisions, timeout=wait)
        finally:
            for decision in decisions:
                decision.cancel()
        # The engine changes these objects in place, also when only a part was decided.
        copies = [copy(order) for order in orders]
        await self._committer.durable_of(orders[0].account)
        return copies

    def _decision(self, number: int) -> asyncio.Future[None]:
        """A future that `publish` completes when nothing of the order is pending any more."""
        decision: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._undecided.setdefault(number, [])
        waiting.append(decision)

        def forget(_done: asyncio.Future[None]) -> None:
            waiting.remove(decision)
            if not waiting and self._undecided.get(number) is waiting:
                del self._undecided[number]

        decision.add_done_callback(forget)
        return decision

    def _earlier(self, order: NewOrder) -> list[Order]:
        """The orders of an earlier submission with the same client id that the engine has forgotten."""
        if order.client_id is None:
            return []
        earlier = self._before(order, order.client_id)
        return [] if earlier is None else [earlier, *self._sibling(earlier)]

    def _before(self, order: NewOrder, client_id: str) -> Order | None:
        """The order with the same client id, if the engine has forgotten it and the disk has not.

        Raises:
            CommandRejected: it was another order.
        """
        if self._engine.order_store.by_client_id(client_id, order.account) is not None:
            return None  # the engine compares
        earlier = self._journal.by_client_id(client_id, order.account)
        if earlier is None:
            return None
        if not is_same(earlier, order, next(iter(self._sibling(earlier)), None)):
            raise CommandRejected(
                "client_id_reused",
                f"client id {client_id!r} belongs to order {earlier.number}, which is different",
            )
        return earlier

    def _sibling(self, order: Order) -> list[Order]:
        found = self.order_of(order.account, order.linked_order) if order.linked_order else None
        return [] if found is None else [found]

    def _own(self, account: int, number: int) -> None:
        """Raises `CommandRejected` unless the account has this order and it can still be changed."""
        if self._engine.order_store.get(number) is None and (stored := self._journal.order(number)):
            if stored.account == account:
                how = "filled" if stored.filled == stored.quantity else "cancelled"
                raise CommandRejected("order_done", f"order {number} is already {how}")
        elif (
            order := self._engine.order_store.get(number)
        ) is not None and order.account == account:
            return
        raise CommandRejected("unknown_order", f"this node has no order {number}")

    # Reading

    def order_of(self, account: int, number: int) -> Order | None:
        order = self._engine.order_store.get(number) or self._journal.order(number)
        return order if order is not None and order.account == account else None

    def order_by_client_id(self, account: int, client_id: str) -> Order | None:
        return self._engine.order_store.by_client_id(
            client_id, account
        ) or self._journal.by_client_id(client_id, account)

    def open_orders_of(self, account: int, market: str | None = None) -> list[Order]:
        every = self._engine.order_store.of_account(account)
        return [order for order in every if market in (None, order.market)]

    async def past_orders(
        self, account: int, span: Span, *, market: str | None = None
    ) -> list[Order]:
        return await self._history(
            lambda past: past.past_orders(account, market=market, **asdict(span))
        )

    async def all_orders(
        self, account: int, span: Span, *, market: str | None = None
    ) -> list[Order]:
        """Open and finished ones, by the time of their last change."""
        await self._committer.durable()  # or one that ends now would be in neither
        end = LATEST if span.end is None else span.end
        found = {
            order.number: order
            for order in self.open_orders_of(account, market)
            if span.start <= order.updated <= end
        }
        widest = replace(span, limit=span.limit + span.skip, skip=0)
        for order in await self.past_orders(account, widest, market=market):
            found[order.number] = order
        rows = sorted(
            found.values(), key=lambda o: (o.updated, o.number), reverse=span.newest_first
        )
        return rows[span.skip :][: span.limit]

    async def fills_of(
        self, account: int, span: Span, *, market: str | None = None, order: int | None = None
    ) -> list[Fill]:
        return await self._history(
            lambda past: past.fills_of(account, market=market, order=order, **asdict(span))
        )

    async def postings(
        self, account: int, span: Span, *, asset: str | None = None
    ) -> list[Posting]:
        return await self.postings_of(f"account:{account}", span, asset=asset)

    async def postings_of(
        self, holder: str, span: Span, *, asset: str | None = None
    ) -> list[Posting]:
        """Any holder's lines of the ledger."""
        return await self._history(lambda past: past.postings(holder, asset=asset, **asdict(span)))

    async def _history(self, ask: Callable[[Archive], list[T]]) -> list[T]:
        """In a thread: the archive may have to catch up first, and reading takes its time."""
        return await asyncio.to_thread(lambda: ask(self._journal.history()))

    def balances_of(self, account: int) -> list[Balance]:
        return [
            Balance(asset, total, held)
            for asset, (total, held) in sorted(self._engine.ledger.holdings(account).items())
        ]

    def decimals(self, asset: str) -> int:
        return self._engine.ledger.decimals[asset]

    # News

    def listen(self, account: int, call: Listener) -> Callable[[], None]:
        listeners = self._listeners.setdefault(account, {})
        listeners[call] = None

        def stop() -> None:
            listeners.pop(call, None)
            if not listeners and self._listeners.get(account) is listeners:
                del self._listeners[account]

        return stop

    def publish(self, drained: Drained) -> None:
        """Tell listeners what became durable."""
        self.fill_count += drained.fill_count
        if self._undecided:
            for order in drained.orders:
                if not order.pending:
                    for decision in self._undecided.get(order.number, ()):
                        if not decision.done():
                            decision.set_result(None)
        listeners = self._listeners
        if not listeners:
            return
        news: defaultdict[int, AccountNews] = defaultdict(lambda: AccountNews([], [], []))
        for order in drained.orders:
            if order.account in listeners:
                news[order.account].orders.append(order)
        for fill in drained.fills:
            if fill.account in listeners:
                news[fill.account].fills.append(fill)
        for account, asset, total, held in drained.balances:
            if account in listeners:
                news[account].balances.append(Balance(asset, total, held))
        for account, told in news.items():
            for call in list(listeners.get(account, ())):
                call(told)
