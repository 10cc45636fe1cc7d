"""NATS JetStream as a sink. Needs the extra `[nats]`.

Theory of operation. A delivery is rows, then the position, as messages of one stream. A stream has one writer: every
message names the sequence number that it expects before it, so that a second process, or one that was frozen, is
refused. The last position in the stream is the position of the sink; messages after it are of a delivery that was
interrupted, and their ids are left out when its rows come again. Ids refuse the rest of the repeats for `WINDOW`
seconds.

A server acknowledges before it flushes. When a power failure takes the end of a stream, the position is of the same
stream, and the exporter goes on from the earlier one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

import msgspec
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import NotFoundError

from node.annexes.export.nats_connection import NatsConnection, explained
from node.annexes.export.nats_messages import (
    POSITION,
    Message,
    StreamPlan,
    latest_rows,
    read_position,
    read_row,
)
from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.sink import Delivery, Position, PositionMoved, SinkError
from node.annexes.export.tables import Row

GROUP: Final = 500  # messages sent before their acknowledgements are awaited
ANSWER: Final = 10.0  # s
DELIVERY: Final = 120.0  # s; one takes some 0.5 s
WINDOW: Final = 120.0  # s in which the server refuses a repeated id
HEADERS: Final = 4096  # bytes that they may take of the server's limit for a message
PAGE: Final = 500  # messages read at a time
_WRONG_SEQUENCE: Final = (10071, 10164)  # error codes of JetStream


class _Ack(msgspec.Struct):
    class Error(msgspec.Struct):
        code: int = 0
        err_code: int = 0
        description: str = ""

    seq: int = 0
    duplicate: bool = False
    error: Error | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class _Stream(msgspec.Struct):
    """A node's stream, as far as it is known."""

    name: str
    last: int  # sequence number of its last message
    position: Position | None
    begun: frozenset[str]  # ids of messages after the position's


class NatsSink:
    """A connection to a server. Implements `node.annexes.export.sink.Sink`."""

    versions = True

    def __init__(
        self,
        url: str,
        plan: StreamPlan,
        most_bytes: int,
        traceparent: Callable[[int], str] = lambda order: "",
    ) -> None:
        """Connect. `most_bytes`: bound of a stream that is made here. `traceparent` returns the trace context of an
        own order, "" if there is none.

        Raises:
            SinkError: the server does not answer, refuses, or has no JetStream.
        """
        self.tables = plan.tables
        self._plan = plan
        self._most_bytes = most_bytes
        self._streams: dict[str, _Stream] = {}
        self._connection = NatsConnection(url, f"exchange-node export {plan.part}")
        self._js: JetStreamContext = self._connection.client.jetstream(timeout=ANSWER)
        self._acks = _Acks(self._connection, traceparent)

    # Position

    def position(self, node: str) -> Position | None:
        self._streams.pop(node, None)
        return self._stream(node).position

    def _stream(self, node: str) -> _Stream:
        stream = self._streams.get(node)
        if stream is None:
            stream = self._connection.run(self._open(node), DELIVERY)
            self._streams[node] = stream
        return stream

    async def _open(self, node: str) -> _Stream:
        name = self._plan.stream(node)
        state = (await self._info(node)).state
        after, position = 0, None
        try:
            found = await self._js.get_last_msg(name, self._plan.subject(node, POSITION))
            after, position = found.seq or 0, read_position(found.data or b"")
        except NotFoundError:
            pass
        begun = await self._ids(name, max(after + 1, state.first_seq), state.last_seq)
        return _Stream(name, state.last_seq, position, begun)

    async def _info(self, node: str) -> StreamInfo:
        name = self._plan.stream(node)
        try:
            return await self._js.stream_info(name)
        except NotFoundError:
            return await self._js.add_stream(
                StreamConfig(
                    name=name,
                    description=f"exchange-node {self._plan.part} of {node}",
                    subjects=[f"{self._plan.root(node)}.>"],
                    retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE,
                    discard=DiscardPolicy.OLD,
                    max_bytes=self._most_bytes,
                    duplicate_window=WINDOW,
                    allow_direct=True,
                )
            )

    async def _ids(self, name: str, first: int, last: int) -> frozenset[str]:
        """Return the ids of messages from one sequence number to another one."""
        ids: set[str] = set()

        async def note(number: int) -> None:
            try:
                found = await self._js.get_msg(name, seq=number)
            except NotFoundError:  # beyond the stream's bounds by now
                return
            ids.add((found.headers or {}).get("Nats-Msg-Id", ""))

        for start in range(first, last + 1, PAGE):
            await asyncio.gather(*map(note, range(start, min(start + PAGE, last + 1))))
        return frozenset(ids - {""})

    # Delivery

    def deliver(self, delivery: Delivery) -> list[AsideRow]:
        node = delivery.node
        stream = self._stream(node)
        if stream.position != delivery.before:
            raise PositionMoved(f"another process exports the journal of {node}")
        most = self._connection.client.max_payload - HEADERS
        messages, aside = self._plan.messages(delivery, stream.begun, most)
        messages.append(self._plan.position(node, delivery.after))
        del self._streams[node]  # unknown until everything is acknowledged
        last = self._connection.run(self._publish(stream, messages), DELIVERY)
        self._streams[node] = _Stream(stream.name, last, delivery.after, frozenset())
        return aside

    async def _publish(self, stream: _Stream, messages: Sequence[Message]) -> int:
        """Publish messages in order, and return the last one's sequence number."""
        last, at = stream.last, 0
        fenced = True
        while at < len(messages):
            part = messages[at : at + GROUP]
            acks = await self._acks.publish(stream.name, part, last if fenced else None)
            repeats = False
            for ack in acks:
                error = ack.error
                # After a repeat, which gets no number, the rest of the group has counted on another number.
                if error is not None and repeats and error.err_code in _WRONG_SEQUENCE:
                    break
                if error is not None and error.err_code not in _WRONG_SEQUENCE:
                    raise SinkError(f"NATS: {error.description}")
                if error is not None or (not ack.duplicate and ack.seq != last + 1):
                    raise PositionMoved(f"another process writes to the stream {stream.name}")
                at += 1
                last += not ack.duplicate
                repeats = repeats or ack.duplicate
            fenced = not repeats
        return last

    # Reading

    @contextmanager
    def moment(self, node: str) -> Iterator[Position | None]:
        yield self.position(node)

    def rows(self, table: str, node: str) -> Iterator[Row]:
        """Yield the rows of the messages that the stream still has."""
        found = self._connection.run(self._messages(table, node), DELIVERY)
        with explained():
            rows = [read_row(self.tables[table], data) for data in found]
        yield from latest_rows(self.tables[table], rows)

    async def _messages(self, table: str, node: str) -> list[bytes]:
        await self._info(node)
        subscription = await self._js.pull_subscribe(
            self._plan.filter(node, table),
            stream=self._plan.stream(node),
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, inactive_threshold=60.0
            ),
        )
        left = (await subscription.consumer_info()).num_pending or 0
        found: list[bytes] = []
        while len(found) < left:
            page = await subscription.fetch(min(PAGE, left - len(found)), timeout=ANSWER)
            found += [message.data for message in page]
        await subscription.unsubscribe()
        return found

    def kept_from(self, table: str) -> datetime | None:
        return None

    def forget(self, node: str) -> None:
        """Delete the stream: its ids would refuse the rows that come next."""
        self._streams.pop(node, None)
        self._connection.run(self._delete(node), ANSWER)

    async def _delete(self, node: str) -> None:
        with suppress(NotFoundError):
            await self._js.delete_stream(self._plan.stream(node))

    def close(self) -> None:
        self._connection.close()


class _Acks:
    """Publishes groups of messages and gathers their acknowledgements."""

    def __init__(self, connection: NatsConnection, traceparent: Callable[[int], str]) -> None:
        self._traceparent = traceparent
        self._client = connection.client
        self._prefix = self._client.new_inbox()
        self._found: list[_Ack | None] = []
        self._group = 0
        self._missing = 0
        self._all = asyncio.Event()
        connection.run(self._subscribe(), ANSWER)

    async def _subscribe(self) -> None:
        await self._client.subscribe(f"{self._prefix}.*.*", cb=self._on_ack)

    async def _on_ack(self, message: Msg) -> None:
        group, number = map(int, message.subject.rsplit(".", 2)[1:])
        if group != self._group or self._found[number] is not None:
            return
        if not message.data:  # no stream listens to the subject
            ack = _Ack(error=_Ack.Error(description="the stream is gone"))
        else:
            ack = _decode_ack(message.data)
        self._found[number] = ack
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def publish(
        self, stream: str, messages: Sequence[Message], last: int | None
    ) -> list[_Ack]:
        """Publish messages that have to follow the sequence number `last`; None: any. Return their acknowledgements.

        Raises:
            TimeoutError: some did not come.
        """
        self._group += 1
        self._found = [None] * len(messages)
        self._missing = len(messages)
        self._all.clear()
        prefix = f"{self._prefix}.{self._group}."
        for number, message in enumerate(messages):
            headers = {"Nats-Expected-Stream": stream}
            if last is not None:
                headers["Nats-Expected-Last-Sequence"] = str(last + number)
            if message.id:
                headers["Nats-Msg-Id"] = message.id
            if message.order and (traceparent := self._traceparent(message.order)):
                headers["traceparent"] = traceparent
            await self._client.publish(
                message.subject, message.data, reply=f"{prefix}{number}", headers=headers
            )
        await asyncio.wait_for(self._all.wait(), ANSWER)
        return [ack for ack in self._found if ack is not None]
