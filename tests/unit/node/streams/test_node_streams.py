"""Streams about the node itself: states told when they differ, decisions as they happen, and access."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from instruments_kit import COARSE
from market_kit import FakeMarkets, FakeTrading
from network_kit import CannedNetwork
from stream_kit import check_sent

from node.streams.node_messages import NODE_CHANNELS
from node.streams.node_streams import BATCH, INTERVAL, LATEST
from node.streams.stream import Ended, Reader
from node.streams.stream_messages import ServerMessage, Subscribe
from node.streams.stream_registry import StreamRegistry
from node.views.account_views import HaltView
from node.views.node_views import PeerView, RouterEventView
from node.views.order_mapping import OrderMapping

pytestmark = pytest.mark.looptime

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ServerMessage)


ME, PEER = "m" * 32, "p" * 32


class FakeNode(CannedNetwork):
    """A network with decisions and halts, and its streams."""

    def __init__(self) -> None:
        super().__init__(ME, PEER)
        data, trading, loop = FakeMarkets().data, FakeTrading(), asyncio.get_running_loop()
        texts = OrderMapping(COARSE, ME, trading.decimals)
        self.stream_registry = StreamRegistry(data, texts, trading, loop.call_later)
        self.listeners: dict[Callable[[RouterEventView], None], None] = {}
        self.halted: list[HaltView] = []
        self.broken = False
        self.stream_registry.serve_node(self)

    def peers(self) -> list[PeerView]:
        if self.broken:
            raise RuntimeError("secret")
        return list(self.known_peers)

    def halts(self) -> list[HaltView]:
        return list(self.halted)

    def follow_decisions(self, listener: Callable[[RouterEventView], None]) -> Callable[[], None]:
        self.listeners[listener] = None
        return lambda: self.listeners.pop(listener, None)

    def decide(self, count: int = 1) -> None:
        for at in range(count):
            event = RouterEventView(
                time="2026-01-02T03:04:05.678Z",
                kind="pick",
                service="jobs",
                node=PEER,
                reason=f"pick {at}",
                detail={},
            )
            for listener in self.listeners:
                listener(event)


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    node = FakeNode()
    yield node
    node.stream_registry.close()


async def reading(node: FakeNode, channel: Any) -> Reader:
    reader = Reader(
        await node.stream_registry.find(Subscribe(channel=channel), 0), lambda _: None, 0, None
    )
    reader.begin()
    return reader


def told(reader: Reader) -> list[Any]:
    messages = reader.take(0.0)
    for message in messages:
        check_sent(msgspec.json.decode(message))
    return [_decoder.decode(message) for message in messages]


@pytest.mark.parametrize("channel", [*NODE_CHANNELS, "halts"])
async def test_each_channel_begins_with_the_present_state(node: FakeNode, channel: str) -> None:
    (first,) = told(await reading(node, channel))
    assert first.previous is None
    assert first.stream == channel


async def test_a_state_is_sent_only_when_it_differs(node: FakeNode) -> None:
    reader = await reading(node, "peers")
    told(reader)
    await asyncio.sleep(3.5 * INTERVAL)
    assert not reader.waiting
    node.known_peers[0] = msgspec.structs.replace(node.known_peers[0], status="disconnected")
    await asyncio.sleep(1.5 * INTERVAL)
    assert reader.waiting
    (second,) = told(reader)
    assert [peer.status for peer in second.peers] == ["disconnected"]
    assert second.previous == second.sequence - 1


async def test_a_failure_ends_the_stream_without_telling_secrets(
    node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    reader = await reading(node, "peers")
    told(reader)
    node.broken = True
    await asyncio.sleep(1.5 * INTERVAL)
    with pytest.raises(Ended) as ended:
        reader.take(0.0)
    assert "secret" not in ended.value.detail
    assert "secret" in caplog.text


async def test_decisions_come_together_after_a_moment_and_too_many_are_counted(
    node: FakeNode,
) -> None:
    reader = await reading(node, "decisions")
    told(reader)
    node.decide(3)
    assert not reader.waiting
    await asyncio.sleep(2 * BATCH)
    (batch,) = told(reader)
    assert [decision.reason for decision in batch.decisions] == ["pick 0", "pick 1", "pick 2"]
    assert batch.omitted == 0
    node.decide(LATEST + 5)
    await asyncio.sleep(2 * BATCH)
    (batch,) = told(reader)
    assert (len(batch.decisions), batch.omitted) == (LATEST, 5)
    for _ in range(3):  # a reader that did not take them gets one message
        node.decide(2)
        await asyncio.sleep(2 * BATCH)
    (first, second, third) = told(reader)
    assert sum(len(message.decisions) for message in (first, second, third)) == 6


async def test_a_closed_stream_listens_no_more(node: FakeNode) -> None:
    reader = await reading(node, "decisions")
    assert node.listeners
    node.decide()
    node.stream_registry.close()
    reader.stop()
    assert not node.listeners
    await asyncio.sleep(2 * BATCH)  # what was collected is dropped without an error
