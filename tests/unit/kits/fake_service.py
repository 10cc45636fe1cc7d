"""A small working `NodeService` in memory: it matches, cancels, refuses and streams.

It stands in for the node in tests of the API and of the command line. Orders of other nodes are
placed with `place_remote`; `fail_with` makes the next call fail, `hold` makes calls wait.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from instruments_kit import COARSE
from market_kit import FakeMarkets, FakeTrading

from exchange.ledger.accounts import Accounts
from exchange.model.instruments import Instrument, Instruments
from node.parts.annex import NodePart
from node.service.operator_service import OperatorService
from node.service.trading import Span
from node.streams.stream_registry import StreamRegistry
from node.views.account_views import CancelAfterView
from node.views.node_views import (
    CallRequest,
    CallsView,
    CallView,
    DiagnosticsView,
    DiscoveryView,
    FeedView,
    GrapeView,
    GrenacheView,
    HintView,
    OwnGrapeView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    ReadyCheck,
    ReadyView,
    RouterEventView,
    RouterView,
    RouteView,
    ServiceView,
    ServingView,
    StatusView,
    TopologyLinkView,
    TopologyNodeView,
    TopologyView,
)
from node.views.order_mapping import OrderMapping
from node.views.statement_views import ReconciliationView
from node.views.views import (
    AmendRequest,
    BookView,
    CandleView,
    FillView,
    LevelView,
    MarketView,
    OrderRequest,
    OrderView,
    ServiceError,
    Side,
    TradeView,
)
from p2p.services.service_server import Handler

ME = "a2b3c4d5e6f7g2h3i4j5k6l7m2n3o4p5"
PEER = "z7y6x5w4v3u2t7s6r5q4p3o2n7m6l5k4"
START = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


@dataclass
class Market:
    symbol: str
    tick: Decimal
    lot: Decimal
    sequence: int = 0
    last: Decimal | None = None


@dataclass
class Order:
    owner: str
    number: int
    market: str
    side: Side
    price: Decimal | None
    quantity: Decimal
    created: str
    client_id: str | None = None
    filled: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    cancelled: bool = False

    @property
    def id(self) -> str:
        return f"{self.owner}-{self.number}"

    @property
    def remaining(self) -> Decimal:
        return Decimal(0) if self.cancelled else self.quantity - self.filled

    def view(self) -> OrderView:
        return OrderView(
            id=self.id,
            number=self.number,
            market=self.market,
            side=self.side,
            type="market" if self.price is None else "limit",
            price=None if self.price is None else str(self.price),
            quantity=str(self.quantity),
            filled=str(self.filled),
            remaining=str(self.remaining),
            pending="0",
            status="open" if self.remaining else "cancelled" if self.cancelled else "filled",
            average_price=str(self.paid / self.filled) if self.filled else None,
            created=self.created,
            client_id=self.client_id,
        )


class FakeService:
    unready = ""  # reason why it is not

    """One node of a network of two, without a network."""

    def __init__(self, node_id: str = ME) -> None:
        self.node_id = node_id
        self.served: dict[str, Handler] = {}
        self.known = {
            symbol: Market(symbol, Decimal(tick), Decimal(lot))
            for symbol, tick, lot in (
                ("BTC-USD", "0.01", "0.0001"),
                ("ETH-USD", "0.01", "0.001"),
            )
        }
        steps = {i.symbol: i for i in COARSE} | {
            m.symbol: Instrument(m.symbol, m.tick, m.lot) for m in self.known.values()
        }
        self.shown = FakeMarkets(Instruments(steps.values()), node_id=node_id)  # what streams read
        self.market_data = self.shown.data
        self.trading = FakeTrading()
        self.accounts = Accounts()
        self.texts = OrderMapping(self.shown.instruments, node_id, self.trading.decimals)
        self.parts: list[NodePart] = []
        self.stream_registry = StreamRegistry(
            self.market_data,
            self.texts,
            self.trading,
            lambda delay, call: asyncio.get_running_loop().call_later(delay, call),
        )
        self.calls: list[tuple[object, ...]] = []
        self.policy = PeerPolicyView(pins=[], bans=[], allow=[])
        self.own: list[Order] = []
        self.remote: list[Order] = []
        self.own_fills: list[FillView] = []
        self.tape: list[TradeView] = []
        self.known_peers = [self._peer(PEER, "192.168.1.20", 3000)]
        self.fail_with: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.cancelled_calls = 0
        self.last_call: CallRequest | None = None
        self._steps = 0

    # Time and failures, under the test's control

    def _now(self) -> str:
        self._steps += 1
        moment = START + timedelta(milliseconds=self._steps)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _maybe_fail(self) -> None:
        error, self.fail_with = self.fail_with, None
        if error is not None:
            raise error

    async def _wait(self) -> None:
        self._maybe_fail()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled_calls += 1
                raise

    # Orders

    def _market(self, symbol: str) -> Market:
        if symbol not in self.known:
            names = ", ".join(self.known)
            raise ServiceError(
                404, "unknown_market", f"there is no market {symbol!r}; there are {names}"
            )
        return self.known[symbol]

    @staticmethod
    def _exact(text: str, step: Decimal, name: str, step_name: str) -> Decimal:
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise ServiceError(
                400, "bad_number", f"{name} {text!r} is not a decimal number"
            ) from None
        if not value.is_finite() or value <= 0:
            raise ServiceError(400, "bad_number", f"{name} must be more than 0, not {text}")
        if value % step:
            detail = f"{name} {text} is not a multiple of the {step_name} {step}"
            raise ServiceError(400, "bad_number", detail, **{step_name: str(step)})
        return value

    async def submit(
        self, request: OrderRequest, *, account: int = 0, wait_for_takes: bool = False
    ) -> OrderView:
        await self._wait()
        market = self._market(request.market)
        for order in self.own:
            if request.client_id is not None and order.client_id == request.client_id:
                return order.view()
        order = Order(
            owner=self.node_id,
            number=len(self.own) + 1,
            market=market.symbol,
            side=request.side,
            price=None
            if request.price is None
            else self._exact(request.price, market.tick, "price", "tick"),
            quantity=self._exact(request.quantity, market.lot, "quantity", "lot"),
            created=self._now(),
            client_id=request.client_id,
        )
        self.own.append(order)
        self._match(order)
        if order.price is None and order.remaining:
            order.cancelled = True  # what a market order does not fill does not rest
        return order.view()

    def place_remote(
        self, market: str, side: Side, quantity: str, price: str, owner: str = PEER
    ) -> str:
        """Another node's order arrives; it may take ours. Returns its id."""
        number = len(self.remote) + 1
        order = Order(owner, number, market, side, Decimal(price), Decimal(quantity), self._now())
        self.remote.append(order)
        self._match(order)
        return order.id

    def _resting(self, market: str, side: Side) -> Iterator[Order]:
        """The side's open orders in price-time priority."""
        sign = -1 if side == "buy" else 1
        orders = [
            o
            for o in self.own + self.remote
            if o.market == market and o.side == side and o.price is not None and o.remaining
        ]
        return iter(sorted(orders, key=lambda o: (sign * (o.price or 0), o.created)))

    def _match(self, taker: Order) -> None:
        opposite: Side = "sell" if taker.side == "buy" else "buy"
        for maker in self._resting(taker.market, opposite):
            assert maker.price is not None
            if taker.price is not None and (
                maker.price > taker.price if taker.side == "buy" else maker.price < taker.price
            ):
                break
            if not taker.remaining:
                break
            self._trade(maker, taker, min(maker.remaining, taker.remaining))
        if taker.price is not None and taker.remaining:
            self._level_changed(taker.market, taker.side, taker.price)

    def _trade(self, maker: Order, taker: Order, quantity: Decimal) -> None:
        price = maker.price
        assert price is not None
        for order in (maker, taker):
            order.filled += quantity
            order.paid += quantity * price
        now = self._now()
        trade = TradeView(
            id=f"{taker.owner}:{len(self.tape) + 1}",
            market=maker.market,
            side=taker.side,
            price=str(price),
            quantity=str(quantity),
            time=now,
            maker=maker.owner,
            taker=taker.owner,
        )
        self.tape.append(trade)
        self.known[maker.market].last = price
        for order, other in ((maker, taker), (taker, maker)):
            if order.owner == self.node_id:
                self.own_fills.append(
                    FillView(
                        id=trade.id,
                        market=order.market,
                        order_id=order.id,
                        role="maker" if order is maker else "taker",
                        side=order.side,
                        price=str(price),
                        quantity=str(quantity),
                        time=now,
                        counterparty=other.owner,
                        counterparty_order_id=other.id,
                    )
                )
        self._level_changed(maker.market, maker.side, price)
        self.shown.trade(
            maker.market,
            1 if taker.side == "buy" else -1,
            str(price),
            str(quantity),
            maker=maker.owner,
            taker=taker.owner,
        )

    def _find(self, order_id: str) -> Order:
        for order in self.own:
            if order_id in (order.id, str(order.number)):
                return order
        raise ServiceError(404, "unknown_order", f"this node has no order {order_id!r}")

    async def cancel(self, order_id: str, *, account: int = 0) -> OrderView:
        await self._wait()
        order = self._find(order_id)
        if not order.remaining:
            state = order.view().status
            raise ServiceError(
                409, "order_done", f"order {order.number} is {state} and cannot be cancelled"
            )
        order.cancelled = True
        assert order.price is not None
        self._level_changed(order.market, order.side, order.price)
        return order.view()

    def order(self, order_id: str, *, account: int = 0) -> OrderView:
        return self._find(order_id).view()

    async def orders(
        self,
        *,
        account: int = 0,
        market: str | None = None,
        open_only: bool = True,
        span: Span | None = None,
    ) -> list[OrderView]:
        self._maybe_fail()
        if market is not None:
            self._market(market)
        chosen = [
            o.view()
            for o in reversed(self.own)
            if market in (None, o.market) and (o.remaining or not open_only)
        ]
        span = span or Span()
        return chosen[span.skip :][: span.limit]

    async def fills(
        self,
        *,
        account: int = 0,
        market: str | None = None,
        order: str | None = None,
        span: Span | None = None,
    ) -> list[FillView]:
        found = [f for f in reversed(self.own_fills) if market in (None, f.market)]
        span = span or Span()
        return found[span.skip :][: span.limit]

    # What is tried on a real engine instead (test_accounts_api)

    @property
    def operations(self) -> OperatorService:
        raise NotImplementedError

    async def reconcile(self, peer: str) -> ReconciliationView:
        raise NotImplementedError

    async def amend(
        self,
        order_id: str,
        request: AmendRequest,
        *,
        account: int = 0,
        wait_for_takes: bool = False,
    ) -> OrderView:
        raise NotImplementedError

    async def cancel_many(
        self,
        *,
        account: int = 0,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
    ) -> list[OrderView]:
        raise NotImplementedError

    async def cancel_after(self, timeout_ms: int, *, account: int = 0) -> CancelAfterView:
        raise NotImplementedError

    def order_by_client_id(self, client_id: str, *, account: int = 0) -> OrderView:
        raise NotImplementedError

    async def trade_history(
        self, *, market: str | None = None, span: Span | None = None
    ) -> list[TradeView]:
        span = span or Span()
        chosen = [
            t
            for t in (reversed(self.tape) if span.newest_first else self.tape)
            if market in (None, t.market) and _within(t.time, span.start, span.end)
        ]
        return chosen[span.skip :][: span.limit]

    async def candles(
        self, market: str, timeframe: str, *, span: Span | None = None
    ) -> list[CandleView]:
        """One candle for each trade, whatever the timeframe."""
        trades = await self.trade_history(market=self._market(market).symbol, span=span)
        return [
            CandleView(
                time=t.time, open=t.price, high=t.price, low=t.price, close=t.price,
                volume=t.quantity, trades=1,
            )
            for t in trades
        ]  # fmt: skip

    # Market data

    def _level(self, market: str, side: Side, price: Decimal) -> LevelView:
        orders = [o for o in self._resting(market, side) if o.price == price]
        own = [o.remaining for o in orders if o.owner == self.node_id]
        return LevelView(
            price=str(price),
            quantity=str(sum((o.remaining for o in orders), Decimal(0))),
            orders=len(orders),
            own=str(sum(own, Decimal(0))),
        )

    def _levels(self, market: str, side: Side) -> list[LevelView]:
        prices = dict.fromkeys(o.price for o in self._resting(market, side) if o.price is not None)
        return [self._level(market, side, price) for price in prices]

    def book(self, market: str, *, depth: int = 25, account: int | None = 0) -> BookView:
        self._maybe_fail()
        found = self._market(market)
        bids, asks = self._levels(market, "buy"), self._levels(market, "sell")
        digest = hashlib.sha256(repr((bids, asks)).encode()).hexdigest()[:16]
        return BookView(
            market=market,
            sequence=found.sequence,
            digest=digest,
            bids=bids[:depth],
            asks=asks[:depth],
            time=self._now(),
        )

    def markets(self) -> list[MarketView]:
        views = []
        for market in self.known.values():
            base, _, quote = market.symbol.partition("-")
            bid = next(self._resting(market.symbol, "buy"), None)
            ask = next(self._resting(market.symbol, "sell"), None)
            views.append(
                MarketView(
                    symbol=market.symbol,
                    base=base,
                    quote=quote,
                    tick=str(market.tick),
                    lot=str(market.lot),
                    bid=None if bid is None else str(bid.price),
                    bid_quantity="0" if bid is None else str(bid.remaining),
                    ask=None if ask is None else str(ask.price),
                    ask_quantity="0" if ask is None else str(ask.remaining),
                    last=None if market.last is None else str(market.last),
                    change="-0.5",
                    high=None if market.last is None else str(market.last),
                    low=None if market.last is None else str(market.last),
                    volume="0",
                )
            )
        return views

    # Network

    def _peer(self, node_id: str, address: str, port: int, source: str = "mdns") -> PeerView:
        return PeerView(
            node_id=node_id,
            address=address,
            port=port,
            status="connected",
            direction="out",
            source=source,
            encrypted=True,
            carrier="tcp",
            version="1.0.0",
            capabilities=["order", "trade"],
            last_seen="2026-01-02T03:04:05.678Z",
            last_heartbeat="2026-01-02T03:04:05.678Z",
            rtt_ms=0.42,
            failures=0,
            last_error=None,
            messages_received=120,
            messages_sent=98,
            bytes_received=24_000,
            bytes_sent=19_500,
        )

    def peers(self) -> list[PeerView]:
        return list(self.known_peers)

    def peer_policy(self) -> PeerPolicyView:
        return self.policy

    def change_peer_policy(self, change: PeerPolicyRequest) -> PeerPolicyView:
        self.calls.append(("policy", change.action, change.subject, change.seconds, change.reason))
        return self.policy

    async def connect(self, address: str) -> PeerView:
        await self._wait()
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ServiceError(400, "bad_address", f"{address!r} is not HOST:PORT")
        if port == "1":
            raise ServiceError(502, "connect_failed", f"nobody answers at {address}")
        peer = self._peer("b" * 32, host, int(port), "manual")
        self.known_peers.append(peer)
        return peer

    async def ping(self, node_id: str) -> PingView:
        await self._wait()
        found = [p for p in self.known_peers if p.node_id and p.node_id.startswith(node_id)]
        if len(found) != 1:
            detail = f"{len(found)} nodes begin with {node_id!r}"
            raise ServiceError(
                400 if found else 404, "ambiguous_node" if found else "unknown_node", detail
            )
        return PingView(node_id=found[0].node_id or "", way="direct", rtt_ms=0.8, version="1.0.0")

    def ready(self) -> ReadyView:
        checks = [ReadyCheck(name="disk", ok=not self.unready, reason=self.unready or "fine")]
        return ReadyView(ready=not self.unready, checks=checks)

    def diagnostics(self) -> DiagnosticsView:
        return DiagnosticsView(
            uptime_s=3725.5,
            orders=7,
            fills=3,
            commits=9,
            commit_p50_ms=1.0,
            commit_p95_ms=2.5,
            commit_p99_ms=None,
            loop_lag_p95_ms=0.4,
            loop_lag_max_ms=1.5,
            memory_bytes=100_000_000,
            disk_free_bytes=10**12,
            data_bytes=123_456,
            journal_lag_ms=0.0,
            archive_behind=0,
            warnings=[],
        )

    async def topology(self) -> TopologyView:
        return TopologyView(
            nodes=[
                TopologyNodeView(node_id=self.node_id, distance=0, answered=True),
                TopologyNodeView(node_id=PEER, distance=1, answered=False),
            ],
            links=[TopologyLinkView(a=self.node_id, b=PEER, carrier="tcp")],
        )

    def feeds(self) -> list[FeedView]:
        return [
            FeedView(
                owner=PEER,
                market="BTC-USD",
                number=17,
                announced=20,
                behind=3,
                open_orders=2,
                way="direct",
            )
        ]

    def status(self) -> StatusView:
        return StatusView(
            node_id=self.node_id,
            version="0.1.0",
            network="mainnet",
            mode="hybrid",
            security="tls",
            uptime_s=3725.5,
            data_dir="/var/lib/exchange-node",
            p2p_address="0.0.0.0:3000",
            api_url="http://127.0.0.1:8080",
            grenache=GrenacheView(
                rpc_address="0.0.0.0:3100",
                links=1,
                grapes=[
                    GrapeView(url="http://127.0.0.1:30001", answers=True, detail="answers in 2 ms")
                ],
                own=OwnGrapeView(
                    node_id="0f" * 20,
                    dht_address="0.0.0.0:20001",
                    api_url="http://127.0.0.1:30001",
                    nodes=3,
                    announcements=5,
                    values=0,
                ),
            ),
            discovery=[
                DiscoveryView(name="mdns", state="on", detail="announcing", found=1),
                DiscoveryView(name="bootstrap", state="off", detail="no addresses", found=0),
            ],
            peers_connected=len(self.known_peers),
            peers_known=len(self.known_peers),
            nodes_present=2,
            markets=list(self.known),
            open_orders=sum(bool(o.remaining) for o in self.own),
            pending_takes=0,
            feeds=4,
            feeds_behind=0,
            services=["book", "job_service"],
            warnings=["the clock is 3 s behind that of most peers"],
        )

    # Services

    def serve(self, name: str, handler: Handler, *, workers: int) -> None:
        if name in self.served:
            raise ValueError(f"service {name!r} is served already")
        self.served[name] = handler

    def withdraw(self, name: str) -> None:
        del self.served[name]

    def services(self) -> list[ServiceView]:
        return [
            ServiceView(
                name="book", nodes=[self.node_id, PEER], serving=self._serving(), calls=None
            ),
            ServiceView(
                name="job_service",
                nodes=[PEER],
                serving=None,
                calls=CallsView(attempts=3, hedges=1, outcomes={"ok": 2, "busy": 1}, mean_ms=1.5),
            ),
        ]

    @staticmethod
    def _serving() -> ServingView:
        return ServingView(
            workers=16, serving=1, waiting=0, served=5, busy=2, expired=0, service_ms=0.4, faults=""
        )

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        """Echoes; a payload with "refuse" is refused by the service."""
        await self._wait()
        self.last_call = request
        if service not in ("book", "job_service"):
            raise ServiceError(404, "no_provider", f"nobody offers {service!r}")
        if isinstance(request.payload, dict) and "refuse" in request.payload:
            detail = f"{service}: {request.payload['refuse']}"
            raise ServiceError(422, "service_refused", detail, service_code="no_job")
        result = {"echo": request.payload}
        return CallView(service=service, node=PEER, attempts=2, latency_ms=12.5, result=result)

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        every = [
            RouterEventView(
                time=self._now(), kind="pick", service="job_service", node=PEER, reason="cheapest",
                detail={"cost": 0.01},
            ),
            RouterEventView(
                time=self._now(), kind="breaker", service="job_service", node=PEER,
                reason="CLOSED to OPEN: 5 failures in a row", detail={"retry_in_s": 1.2},
            ),
        ]  # fmt: skip
        return RouterView(
            policy="adaptive",
            routes=[
                RouteView(
                    service="job_service", node=PEER, cost=0.0125, state="OPEN",
                    why="breaker OPEN, latency_s 0.01", parts={"latency_s": 0.01}, hint_factor=1.5,
                    slow_start=1.0, total_calls=7, success_count=2, error_count=4, timeout_count=1,
                    in_flight=0, avg_latency_ms=10.25, window=4.0, rate=500.0,
                )
            ],
            hints=[HintView(node=PEER, origin=self.node_id, signal="DEGRADED", weight=0.5)],
            events=[e for e in every if kind in (None, e.kind)][-events:] if events else [],
        )  # fmt: skip

    def metrics(self) -> bytes:
        return b"# TYPE exchange_node_peers gauge\nexchange_node_peers 1.0\n"

    # Streams

    def _level_changed(self, market: str, side: Side, price: Decimal) -> None:
        self.known[market].sequence += 1
        orders = [o for o in self._resting(market, side) if o.price == price]
        self.shown.hold(
            market,
            1 if side == "buy" else -1,
            str(price),
            [(order.owner, order.number, str(order.remaining)) for order in orders],
        )


def _within(time: str, start: int | None, end: int | None) -> bool:
    at = int(datetime.fromisoformat(time).timestamp() * 1_000_000)
    return (start is None or at >= start) and (end is None or at <= end)
