"""The streams of a node: what a subscription means, shared streams, and how long they last."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import BTC, Client, Place, reading

from exchange.model.events import BUY
from node.service.market_data import Change
from node.streams.stream import Ended
from node.streams.stream_messages import Resume, Subscribe
from node.streams.stream_registry import LINGER
from node.views.views import ServiceError


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Subscribe(channel="book"), "invalid_message"),
        (Subscribe(channel="book", market="XX-USD"), "unknown_market"),
        (Subscribe(channel="book", market=BTC, timeframe="1m"), "invalid_message"),
        (Subscribe(channel="book", market=BTC, level="L1", depth=25), "invalid_message"),
        (Subscribe(channel="trades", market=BTC, depth=25), "invalid_message"),
        (Subscribe(channel="candles", market=BTC, timeframe="2m"), "bad_timeframe"),
        (Subscribe(channel="ticker", market=BTC, scope="own"), "invalid_message"),
        (Subscribe(channel="orders", market=BTC), "invalid_message"),
    ],
)
async def test_subscriptions_to_unknown_streams_are_refused(request_: Subscribe, code: str) -> None:
    with pytest.raises(ServiceError) as refused:
        await Place().stream_registry.find(request_, 0)
    assert refused.value.code == code


async def test_a_stream_is_shared_and_outlives_its_readers_for_a_while() -> None:
    place = Place()
    first = await reading(place, "trades", market="btc/usd")
    second = await reading(place, "trades")
    assert first.reader is not None
    assert second.reader is not None
    stream = first.reader.stream
    assert second.reader.stream is stream
    place.stream_registry.sweep(0.0)
    first.leave()
    second.leave()
    place.stream_registry.sweep(10.0)
    place.stream_registry.sweep(9.0 + LINGER)
    assert len(place.stream_registry) == 1
    again = await reading(place, "trades")
    place.stream_registry.sweep(11.0 + LINGER)
    assert again.reader is not None
    assert again.reader.stream is stream
    again.leave()
    place.stream_registry.sweep(12.0 + LINGER)
    place.stream_registry.sweep(12.0 + 2 * LINGER)
    assert len(place.stream_registry) == 0
    line = place.fake.data._lines[place.fake.instruments[BTC].key]
    assert not line.listeners
    anew = await reading(place, "trades")
    assert anew.reader is not None
    assert anew.reader.stream.epoch != stream.epoch


async def test_a_failure_ends_the_stream_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place()
    trades, book = await reading(place, "trades"), await reading(place, "book")
    trades.take()
    book.take()
    assert trades.reader is not None

    def fail(change: Change) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(trades.reader.stream, "offer", fail)
    place.fake.trade(BTC, BUY, "30000", "1")
    with pytest.raises(Ended) as ended:
        trades.take()
    assert ended.value.code == "internal_error"
    assert "secret" not in ended.value.detail
    assert "secret" in caplog.text
    place.step()
    assert book.take()
    assert (await reading(place, "trades")).take()[0].trades


REFUSALS = {"invalid_message", "unknown_market", "bad_timeframe", "key_required"}
words = st.sampled_from(["book", "trades", "ticker", "candles", "orders", "fills", "balances"])
optional = {
    "market": st.sampled_from([BTC, "eth/usd", "XX-USD", "", "\u0000", "x" * 500]),
    "level": st.sampled_from(["L1", "L2", "L3"]),
    "depth": st.sampled_from([25, 100, "full"]),
    "scope": st.sampled_from(["network", "own"]),
    "timeframe": st.sampled_from(["1m", "1M", "2m", "", "x" * 500]),
}


@given(
    st.fixed_dictionaries({"channel": words}, optional=optional),
    st.none() | st.integers(0, 2),
    st.none() | st.builds(Resume, epoch=st.text(max_size=5), sequence=st.integers()),
)
def test_any_subscription_is_served_or_refused_with_a_reason(
    fields: dict[str, Any], account: int | None, resume: Resume | None
) -> None:
    refusals: list[ServiceError] = []

    async def run() -> None:
        place = Place()
        place.step()
        try:
            client = await Client(place, Subscribe(**fields, resume=resume)).open(account)
        except ServiceError as error:
            refusals.append(error)
            return
        (first,) = client.take()
        assert first.stream.startswith(fields["channel"])
        assert getattr(first, "reason", "restarted") in ("subscribed", "restarted")

    loop = asyncio.new_event_loop()  # not asyncio.run, which takes pytest-asyncio's loop away
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    for refused in refusals:
        assert refused.code in REFUSALS
        assert len(refused.detail) < 500
