"""Streams without a socket: a market filled by hand, its stream registry, and readers whose books are compared."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import msgspec
from jsonschema import Draft7Validator
from market_kit import ME, PEER, FakeMarkets, FakeTrading

from exchange.market.market import NUMBER_BITS
from exchange.model.events import BUY, SELL
from node.api.asyncapi import document
from node.client.book_replica import BookReplica
from node.streams.book_views import precise
from node.streams.stream import Reader
from node.streams.stream_messages import ServerMessage, Subscribe
from node.streams.stream_registry import StreamRegistry
from node.views.order_mapping import OrderMapping

BTC = "BTC-USD"
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ServerMessage)

Side = list[tuple[Any, ...]]


@cache
def validator(kind: str) -> Draft7Validator:
    """Of a message's payload: `kind` is its `event` or `op`."""
    messages = document()["components"]["messages"]
    (found,) = [message["payload"] for message in messages.values() if message["name"] == kind]
    return Draft7Validator({"allOf": [found], "components": document()["components"]})


def check_sent(event: dict[str, Any]) -> None:
    """Raises when this is not what the document says that a node sends."""
    validator(event["event"]).validate(event)


class Place:
    """A market, its stream registry, and a random storm of orders in it."""

    def __init__(self, seed: int = 1) -> None:
        self.fake = FakeMarkets()
        self.trading = FakeTrading()
        self.later: list[tuple[float, Any]] = []
        self.stream_registry = StreamRegistry(
            self.fake.data,
            OrderMapping(self.fake.instruments, ME, self.trading.decimals),
            self.trading,  # type: ignore[arg-type]
            lambda delay, call: self.later.append((delay, call)),
        )
        self.rng = random.Random(seed)
        self.keys: list[int] = []
        self.number = 0

    @property
    def market(self) -> Any:
        return self.fake.markets[self.fake.instruments[BTC].key]

    def step(self) -> None:
        """Something happens to an order: it comes, shrinks, moves or goes."""
        self.number += 1
        rng = self.rng
        what = rng.choice(["come", "come", "come", "shrink", "move", "go"]) if self.keys else "come"
        if what == "come":
            side = rng.choice([BUY, SELL])
            price = 30000 - side * rng.randrange(1, 40) / 10
            owner = rng.choice([ME, PEER])
            key = self.fake.order(
                BTC, side, f"{price:.1f}", str(rng.randrange(1, 9)), number=self.number, owner=owner
            )
            self.keys.append(key)
            return
        at = rng.randrange(len(self.keys))
        if what == "shrink":
            self.fake.reduce(BTC, self.keys[at], "0.5")
        elif what == "move":
            side, _ = self.market.book.side_price(self.keys[at])
            price = 30000 - side * rng.randrange(1, 40) / 10
            self.fake.move(BTC, self.keys[at], f"{price:.1f}", time=1000 + self.number)
        else:
            self.fake.reduce(BTC, self.keys.pop(at), "0")

    def levels(self, side: int, depth: int | None, *, own: bool = False) -> Side:
        """(price, quantity, orders) as the book has them."""
        texts = self.fake.instruments[BTC]
        found: dict[int, tuple[int, int]] = {}
        for key, price, quantity, _, _ in self.market.book.orders(side):
            if not own or not key >> NUMBER_BITS:
                had = found.get(price, (0, 0))
                found[price] = had[0] + quantity, had[1] + 1
        rows = [(texts.price_text(p), texts.quantity_text(q), n) for p, (q, n) in found.items()]
        return rows[:depth]

    def orders(self, side: int, depth: int | None, *, own: bool = False) -> Side:
        texts = self.fake.instruments[BTC]
        return [
            (
                f"{rank[0]}-{rank[1]}",
                texts.price_text(price),
                texts.quantity_text(quantity),
                precise(time),
                not key >> NUMBER_BITS,
            )
            for key, price, quantity, time, rank in self.market.book.orders(side)
            if not own or not key >> NUMBER_BITS
        ][:depth]


class Client:
    """A reader at the other end of nothing: what it takes is what it holds."""

    def __init__(self, place: Place, request: Subscribe) -> None:
        self.place = place
        self.request = request
        self.book: BookReplica[Any] = BookReplica()
        self.woken = 0
        self.told: list[Any] = []
        self.reader: Reader | None = None

    async def open(self, account: int | None = None) -> Client:
        stream = await self.place.stream_registry.find(self.request, account)
        self.reader = Reader(
            stream, lambda reader: self._wake(), self.request.conflate_ms, self.request.resume
        )
        self.reader.begin()
        return self

    def _wake(self) -> None:
        self.woken += 1

    def take(self, now: float = 0.0) -> list[Any]:
        """The messages that come now; books are kept and verified."""
        assert self.reader is not None
        messages = [_decoder.decode(message) for message in self.reader.take(now)]
        self.told += messages
        for message in messages:
            if hasattr(message, "checksum"):
                self.book.apply(message)
        return messages

    def leave(self) -> None:
        assert self.reader is not None
        self.reader.stop()


def subscribe(channel: Any, **fields: Any) -> Subscribe:
    if channel in ("trades", "ticker", "candles", "book"):
        fields.setdefault("market", BTC)
    return Subscribe(channel=channel, **fields)


async def reading(place: Place, channel: Any, account: int | None = None, **fields: Any) -> Client:
    return await Client(place, subscribe(channel, **fields)).open(account)
