"""Subscriptions: snapshot first, every change after it, bounded, ended in order."""

from __future__ import annotations

import asyncio

import pytest

from node.hub import MAX_WAITING, Hub
from node.views import BookReset, BookView, LevelChange, TradeEvent, TradeView


def snapshot(sequence=0):
    book = BookView(market="M", sequence=sequence, digest="", bids=[], asks=[], time="")
    return BookReset(market="M", book=book)


def level(sequence):
    return LevelChange(market="M", sequence=sequence, side="buy", price="1", quantity="1", orders=1)


def trade(number):
    view = TradeView(
        id=str(number),
        market="M",
        side="buy",
        price="1",
        quantity="1",
        time="",
        maker="a",
        taker="b",
    )
    return TradeEvent(market="M", trade=view)


async def next_event(events):
    return await asyncio.wait_for(anext(events), 1)


async def test_the_snapshot_comes_first_and_then_every_change_in_order():
    hub = Hub()
    events = hub.subscribe("M", snapshot)
    assert await next_event(events) == snapshot()
    hub.publish("M", level(1))
    hub.publish("M", trade(7))
    assert await next_event(events) == level(1)
    assert await next_event(events) == trade(7)
    await events.aclose()


async def test_changes_of_other_markets_are_not_heard():
    hub = Hub()
    events = hub.subscribe("M", snapshot)
    await next_event(events)
    hub.publish("OTHER", level(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(events), 0.01)


async def test_a_reader_that_falls_behind_gets_a_new_snapshot_instead_of_a_growing_queue():
    hub = Hub()
    versions = iter(range(10))
    events = hub.subscribe("M", lambda: snapshot(next(versions)))
    assert (await next_event(events)).book.sequence == 0
    for number in range(MAX_WAITING + 1):
        hub.publish("M", level(number))
    hub.publish("M", level(99_999))  # before the snapshot is read: it will be in it
    assert (await next_event(events)).book.sequence == 1
    hub.publish("M", level(100_000))
    assert await next_event(events) == level(100_000)
    await events.aclose()


async def test_a_closed_subscription_is_forgotten():
    hub = Hub()
    events = hub.subscribe("M", snapshot)
    await next_event(events)
    assert hub.wanted("M")
    await events.aclose()
    assert not hub.wanted("M")


async def test_closing_the_hub_ends_waiting_readers():
    hub = Hub()
    events = hub.subscribe("M", snapshot)
    await next_event(events)
    waiting = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0)
    hub.close()
    assert await asyncio.wait_for(waiting, 1) is None
