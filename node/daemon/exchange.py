"""The exchange of a node as a record of its parts: engine, journal, trading, market data and their streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exchange.engine.engine import Engine
from exchange.orders.engine_context import Drained
from node.parts.annex import NodePart
from node.service.account_trading import AccountTrading
from node.service.committer import Committer
from node.service.market_data import MarketData
from node.service.market_service import MarketService
from node.service.market_steps import MarketSteps
from node.service.operator_service import OperatorService
from node.service.order_service import OrderService
from node.streams.stream_registry import StreamRegistry
from node.views.order_mapping import OrderMapping


@dataclass(frozen=True, slots=True)
class Exchange:
    """The parts that need no network."""

    engine: Engine
    committer: Committer
    clock: Callable[[], float]  # the engine's: monotonic seconds
    market_data: MarketData
    trading: AccountTrading
    texts: OrderMapping
    orders: OrderService
    markets: MarketService
    operations: OperatorService
    stream_registry: StreamRegistry

    def publish(self, drained: Drained) -> None:
        """Publish durable changes to subscribers."""
        self.trading.publish(drained)
        self.market_data.add(drained.levels, drained.trades)


def make_exchange(
    engine: Engine,
    committer: Committer,
    clock: Callable[[], float],
    market_data: MarketData,
    steps: MarketSteps,
    remembered: Mapping[str, int],
    *,
    take_answer_wait: float = 0.0,
    parts: Sequence[NodePart] = (),
) -> Exchange:
    """Make the parts on top of an engine. `remembered` is the journal's meta data."""
    trading = AccountTrading(
        engine,
        committer,
        clock,
        remembered,
        take_answer_wait=take_answer_wait,
        tracer=next((part.order_tracer for part in parts if part.order_tracer), None),
    )
    texts = OrderMapping(
        steps.instruments,
        engine.node_id,
        trading.decimals,
        lambda order: engine.decided_by(clock(), order),
    )
    return Exchange(
        engine,
        committer,
        clock,
        market_data,
        trading,
        texts,
        OrderService(trading, texts),
        MarketService(engine, texts, market_data, clock),
        OperatorService(engine, texts, trading, committer, clock, steps),
        StreamRegistry(market_data, texts, trading, asyncio.get_running_loop().call_later),
    )
