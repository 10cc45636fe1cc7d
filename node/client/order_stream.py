"""Orders over a streaming client's connection: requests, acknowledgements and outcomes.

    async with StreamingClient("http://127.0.0.1:8300", key=key, secret=secret) as client:
        placed = await client.submit(OrderRequest(market="BTC-USD", side="buy", quantity="0.5", price="30000"))
        print(placed.order.status, placed.order.pending)
        (order,) = await placed.outcome()  # when other nodes have decided
        batch = client.batch()
        batch.cancel(order.id)
        batch.submit(OrderRequest(market="BTC-USD", side="buy", quantity="0.5", price="29990"))
        for result in await batch.send():
            print(result)

A refusal raises `ApiError`; in a batch it is a result. When the connection breaks, requests without an answer
raise `StreamClosed`: whether they took effect is not known. They are never repeated here. Look the order up,
or submit it again with the same `client_id`, which is answered with the first one's order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from node.client.exchange_client import ApiError, ClientError
from node.streams.order_messages import (
    Accepted,
    AmendOrder,
    CancelAfter,
    CancelAfterSet,
    CancelOnDisconnect,
    CancelOnDisconnectSet,
    CancelOrder,
    CancelOrders,
    Many,
    OrderMessage,
    Outcome,
    Refused,
    Results,
    SubmitOrder,
    TradingMessage,
)
from node.views.views import AmendRequest, OrderRequest, OrderView


class Acknowledgement:
    """An accepted request: its orders as they were when they were on the node's disk."""

    def __init__(
        self, orders: list[OrderView], decided: bool, later: asyncio.Future[Any] | None
    ) -> None:
        self.orders = orders
        self.decided = decided
        self._later = later

    def __repr__(self) -> str:
        return f"Acknowledgement(decided={self.decided}, orders={self.orders})"

    @property
    def order(self) -> OrderView:
        """The order of a request about one."""
        (order,) = self.orders
        return order

    async def outcome(self) -> list[OrderView]:
        """The orders when nothing of them is pending with other nodes any more.

        Raises:
            StreamClosed: the connection ended before; the orders go on without it.
        """
        if self._later is None:
            return self.orders
        found: Outcome = await asyncio.shield(self._later)
        return found.orders


class OrderStream:
    """Requests on the connection of a `StreamingClient` that wait for an answer, by id."""

    def __init__(self) -> None:
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._outcomes: dict[str, asyncio.Future[Any]] = {}

    def expect(self, request_id: str) -> asyncio.Future[Any]:
        """A future for the answer to a request."""
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        return answer

    def receive(self, told: Any) -> None:
        """Hand a message of the node to the request that it answers."""
        if isinstance(told, Outcome):
            _complete(self._outcomes.pop(told.id, None), told)
            return
        later: dict[str, asyncio.Future[Any]] = {}
        for each in told.results if isinstance(told, Results) else [told]:
            if isinstance(each, Accepted) and not each.decided:
                later[each.id] = asyncio.get_running_loop().create_future()
        self._outcomes |= later
        _complete(self._answers.pop(told.id, None), (told, later))

    def forget(self, request_id: str) -> None:
        self._answers.pop(request_id, None)

    def fail(self, error: ClientError) -> None:
        """The connection ended: fail what waits for an answer or an outcome."""
        for future in (*self._answers.values(), *self._outcomes.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # an outcome that is not awaited is no error
        self._answers.clear()
        self._outcomes.clear()


def _complete(future: asyncio.Future[Any] | None, value: Any) -> None:
    if future is not None and not future.done():
        future.set_result(value)


class OrderStreamCalls:
    """The methods of a `StreamingClient` about orders. `account` is for the operator, as in
    `node.client.client_calls`."""

    async def _exchange(self, request: TradingMessage) -> Any:
        """Send a request and return its answer with the outcomes that are awaited."""
        raise NotImplementedError

    def _next_id(self) -> str:
        raise NotImplementedError

    async def submit(
        self, request: OrderRequest, *, wait_for_takes: bool = False, account: str | None = None
    ) -> Acknowledgement:
        """Place an order. With `wait_for_takes` the acknowledgement waits for the decisions of other nodes
        that it takes from, for a bounded time."""
        message = SubmitOrder(
            id=self._next_id(),
            order=request,
            wait_for_takes=wait_for_takes,
            account=account or UNSET,
        )
        return _acknowledged(*await self._exchange(message))

    async def amend(
        self,
        order_id: str | None,
        changes: AmendRequest,
        *,
        client_id: str | None = None,
        wait_for_takes: bool = False,
        account: str | None = None,
    ) -> Acknowledgement:
        """Amend an open order, by its id or by its `client_id`."""
        message = AmendOrder(
            id=self._next_id(),
            changes=changes,
            order_id=order_id or UNSET,
            client_id=client_id or UNSET,
            wait_for_takes=wait_for_takes,
            account=account or UNSET,
        )
        return _acknowledged(*await self._exchange(message))

    async def cancel(
        self,
        order_id: str | None = None,
        *,
        client_id: str | None = None,
        account: str | None = None,
    ) -> Acknowledgement:
        """Cancel an order, by its id or by its `client_id`."""
        message = CancelOrder(
            id=self._next_id(),
            order_id=order_id or UNSET,
            client_id=client_id or UNSET,
            account=account or UNSET,
        )
        return _acknowledged(*await self._exchange(message))

    async def cancel_many(
        self,
        *,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
        account: str | None = None,
    ) -> Acknowledgement:
        """Cancel the open orders that fit all that is given, or every one."""
        message = CancelOrders(
            id=self._next_id(),
            market=market or UNSET,
            group=UNSET if group is None else group,
            client_id=client_id or UNSET,
            all=True,
            account=account or UNSET,
        )
        return _acknowledged(*await self._exchange(message))

    async def cancel_after(self, timeout_ms: int, *, account: str | None = None) -> str | None:
        """Cancel all orders after so long unless this is called again; 0 ends it. Returns when."""
        message = CancelAfter(id=self._next_id(), timeout_ms=timeout_ms, account=account or UNSET)
        told, _ = await self._exchange(message)
        at: str | None = _checked(told, CancelAfterSet).at
        return at

    async def cancel_on_disconnect(
        self, enabled: bool = True, *, account: str | None = None
    ) -> None:
        """Cancel all orders of the account when this connection ends, however it ends. It is of one
        connection: after a new one it has to be enabled again."""
        message = CancelOnDisconnect(id=self._next_id(), enabled=enabled, account=account or UNSET)
        told, _ = await self._exchange(message)
        _checked(told, CancelOnDisconnectSet)

    def batch(self, *, account: str | None = None) -> OrderBatch:
        """A batch of requests for one message."""
        return OrderBatch(self, account)


class OrderBatch:
    """Requests that are sent together; `send` returns their results in the order of the calls."""

    def __init__(self, calls: OrderStreamCalls, account: str | None) -> None:
        self._calls = calls
        self._account = account or UNSET
        self._requests: list[OrderMessage] = []

    def __len__(self) -> int:
        return len(self._requests)

    def submit(self, request: OrderRequest, *, wait_for_takes: bool = False) -> None:
        self._add(SubmitOrder(id="", order=request, wait_for_takes=wait_for_takes))

    def amend(
        self,
        order_id: str | None,
        changes: AmendRequest,
        *,
        client_id: str | None = None,
        wait_for_takes: bool = False,
    ) -> None:
        named = {"order_id": order_id or UNSET, "client_id": client_id or UNSET}
        self._add(AmendOrder(id="", changes=changes, wait_for_takes=wait_for_takes, **named))

    def cancel(self, order_id: str | None = None, *, client_id: str | None = None) -> None:
        self._add(CancelOrder(id="", order_id=order_id or UNSET, client_id=client_id or UNSET))

    def cancel_many(
        self, *, market: str | None = None, group: int | None = None, client_id: str | None = None
    ) -> None:
        chosen = UNSET if group is None else group
        market_name, name = market or UNSET, client_id or UNSET
        self._add(CancelOrders(id="", market=market_name, group=chosen, client_id=name, all=True))

    def _add(self, request: OrderMessage) -> None:
        request.id = self._calls._next_id()
        request.account = self._account
        self._requests.append(request)

    async def send(self) -> list[Acknowledgement | ApiError]:
        """Send the requests and return what became of each.

        Raises:
            ApiError: the batch itself was refused.
        """
        requests, self._requests = self._requests, []
        message = Many(id=self._calls._next_id(), requests=requests)
        told, outcomes = await self._calls._exchange(message)
        results: Sequence[Accepted | Refused] = _checked(told, Results).results
        return [
            _refusal(each)
            if isinstance(each, Refused)
            else Acknowledgement(each.orders, each.decided, outcomes.get(each.id))
            for each in results
        ]


def _refusal(refused: Refused) -> ApiError:
    problem: dict[str, Any] = msgspec.to_builtins(refused.problem)
    return ApiError(problem)


def _checked(told: Any, kind: type[Any]) -> Any:
    if isinstance(told, Refused):
        raise _refusal(told)
    if not isinstance(told, kind):
        raise ClientError(f"the node answered with {type(told).__name__}")
    return told


def _acknowledged(told: Any, outcomes: dict[str, asyncio.Future[Any]]) -> Acknowledgement:
    found = _checked(told, Accepted)
    return Acknowledgement(found.orders, found.decided, outcomes.get(found.id))
