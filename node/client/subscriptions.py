"""Feeds: subscriptions at the reader's end, as async iterators. `node.client.streaming_client` fills them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import msgspec

from node.client.book_replica import BookReplica
from node.client.exchange_client import ClientError
from node.streams.stream_messages import (
    BookMessage,
    Level,
    RestingOrder,
    Resume,
    StreamMessage,
    Subscribe,
)

M = TypeVar("M", bound=StreamMessage)
B = TypeVar("B", bound=BookMessage)
E = TypeVar("E", Level, RestingOrder)

WAITING: Final = 256  # messages of a feed that are held for its reader


class SubscriptionOwner(Protocol):
    """The owner of the connection."""

    async def want(self, feed: Subscription[Any]) -> None:
        """The feed is being read: see that it is subscribed to."""
        ...

    async def drop(self, feed: Subscription[Any]) -> None:
        """The feed is not wanted any more."""
        ...


class Subscription(Generic[M]):
    """A subscription: iterate over it. `close` ends it; leaving `async with` does too."""

    def __init__(self, client: SubscriptionOwner, request: Subscribe) -> None:
        self.request = request
        self.stream = ""  # its name, once the node has sent it
        self._client = client
        self._position: Resume | None = None
        self._items: deque[M] = deque()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._error: ClientError | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        """
        Raises:
            ApiError: the node refused or ended the subscription.
            NodeUnreachable, NotANode, StreamClosed: there is no connection, and none can be had.
        """
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            await self._client.want(self)
            self._more.clear()
            await self._more.wait()
        item = self._items.popleft()
        self._room.set()
        self.take(item)
        return item

    def take(self, message: M) -> None:
        """Called with each message before who iterates gets it."""

    async def close(self) -> None:
        """End the subscription. Idempotent."""
        if not self._closed:
            self._closed = True
            self._items.clear()
            self._room.set()
            self._more.set()
            await self._client.drop(self)

    # For the client

    @property
    def subscription(self) -> Subscribe:
        """Request to send now."""
        return msgspec.structs.replace(self.request, resume=self._position)

    async def deliver(self, message: M) -> None:
        """Hand a message over, as soon as there is room for it."""
        while len(self._items) >= WAITING and not self._closed:
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._position = Resume(epoch=message.epoch, sequence=message.sequence)
            self._items.append(message)
            self._more.set()

    def fail(self, error: ClientError) -> None:
        """Raise this once what came before was read."""
        self._error = error
        self._more.set()


class BookSubscription(Subscription[B], Generic[B, E]):
    """A subscription to a book. `book` is the book after the last message that was iterated over.

    Raises `BookFault` while iterated over when the book and the node disagree.
    """

    def __init__(self, client: SubscriptionOwner, request: Subscribe) -> None:
        super().__init__(client, request)
        self.book: BookReplica[E] = BookReplica()

    def take(self, message: B) -> None:
        self.book.apply(message)
