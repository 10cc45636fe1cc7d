"""A bot's way through the node's own API: orders over REST, and their fate over the stream too."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from node.client.exchange_client import ApiError, ClientError, ExchangeClient, PooledTransport
from node.client.server_trust import Trust
from node.client.streaming_client import StreamingClient
from node.streams.stream_messages import Fills, FillsSnapshot, Orders, OrdersSnapshot
from node.views.views import AmendRequest, FillView, OrderRequest, OrderView
from tests.soak.told import Record, Refusal, State, ToldFill, Unanswered, Wish

TIMEOUT = 8.0  # seconds
OPEN = 30.0  # seconds until the stream has begun
# Refusals that say nothing about the order: it is asked for again.
PASSING = {"no_answer", "starting", "stopping", "rate_limited", "internal_error", "stale_data"}


class NativeApi:
    """`told` and what comes over the stream go into the record."""

    name = "native"
    streams = True

    def __init__(
        self, url: str, trust: Trust, node_id: str, key: str, secret: str, record: Record
    ) -> None:
        transport = PooledTransport(TIMEOUT, trust=trust)
        self._client = ExchangeClient(
            url, key=key, secret=secret, node_id=node_id, transport=transport
        )
        self._stream = StreamingClient(
            *(url,),
            key=key,
            secret=secret,
            node_id=node_id,
            patience=3600.0,
            trust=trust,
        )
        self._record = record
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = asyncio.Event()
        self.heard = 0  # messages of the stream

    def heard_all(self, restarted: bool) -> bool:
        return not restarted  # a stream goes on where it was

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._orders()), loop.create_task(self._fills())]
        async with asyncio.timeout(OPEN):
            await self._listening.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for done in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(done, Exception):
                self._record.fault(f"its stream failed: {done!r}")
        await self._stream.close()
        await self._client.close()

    async def _orders(self) -> None:
        async for message in self._stream.orders():
            assert isinstance(message, Orders | OrdersSnapshot)
            self.heard += 1
            self._listening.set()
            for view in message.orders:
                self._record.told(state_of(view))

    async def _fills(self) -> None:
        async for message in self._stream.fills():
            assert isinstance(message, Fills | FillsSnapshot)
            self.heard += 1
            for view in message.fills:
                self._record.told_fill(fill_of(view))

    # Requests

    async def place(self, wish: Wish) -> State:
        request = OrderRequest(
            market=wish.market,
            side=wish.side,
            quantity=str(wish.quantity),
            price=_text(wish.price),
            client_id=str(wish.client),
            tif=wish.tif,
            expires=_text(wish.expires_ms),
            post_only=wish.post_only,
            hidden=wish.hidden,
            display_quantity=_text(wish.display_quantity),
            reduce_only=wish.reduce_only,
            stop=_text(wish.stop),
            trailing_offset=_text(wish.trailing_offset),
            oco_stop=_text(wish.oco_stop),
            group=wish.group,
        )
        return await self._one(self._client.submit(request))

    async def amend(self, number: int, quantity: Decimal | None, price: Decimal | None) -> State:
        texts = {"price": _text(price), "quantity": _text(quantity)}
        changes = AmendRequest(**{name: text for name, text in texts.items() if text is not None})
        return await self._one(self._client.amend(str(number), changes))

    async def cancel(self, number: int) -> State:
        return await self._one(self._client.cancel(str(number)))

    async def cancel_all(self, group: int | None = None) -> list[State]:
        try:
            return [state_of(view) for view in await self._client.cancel_many(group=group)]
        except ClientError as error:
            raise _meaning(error) from error

    async def look(self, number: int) -> State:
        return await self._one(self._client.order(str(number)))

    async def fills(self) -> None:
        """Have the latest fills told."""
        try:
            views = await self._client.fills(limit=50)
        except ClientError as error:
            raise _meaning(error) from error
        for view in views:
            self._record.told_fill(fill_of(view))

    async def cancel_after(self, timeout_ms: int) -> None:
        try:
            await self._client.cancel_after(timeout_ms)
        except ClientError as error:
            raise _meaning(error) from error

    async def _one(self, request: object) -> State:
        try:
            return state_of(await request)  # type: ignore[misc]
        except ClientError as error:
            raise _meaning(error) from error


def state_of(view: OrderView) -> State:
    client = view.client_id
    return State(
        number=view.number,
        client=int(client) if client is not None and client.isdigit() else None,
        market=view.market,
        side=view.side,
        quantity=Decimal(view.quantity),
        filled=Decimal(view.filled),
        ended=view.status in ("filled", "cancelled"),
        how=f"{view.status} {view.reason}".strip(),
    )


def fill_of(view: FillView) -> ToldFill:
    number = int(view.order_id.rpartition("-")[2])
    return ToldFill(view.id, number, Decimal(view.quantity), Decimal(view.price))


def _text(value: Decimal | int | None) -> str | None:
    return None if value is None else str(value)


def _meaning(error: ClientError) -> Exception:
    if isinstance(error, ApiError) and error.code not in PASSING:
        return Refusal(error.code, error.detail)
    return Unanswered(str(error))
