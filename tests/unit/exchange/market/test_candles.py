"""Candles: the same from the same trades, in whatever order and portions these come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from exchange.market.candles import (
    DAY,
    HOUR,
    LATEST,
    MAX_VOLUME,
    MINUTE,
    MINUTES_HELD,
    TIMEFRAMES,
    Candle,
    CandleSeries,
    TradeRecord,
    day_statistics,
    plausible,
)

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, a Thursday


def record(
    time: int, price: int, quantity: int = 1, maker: str = "a", number: int = 1
) -> TradeRecord:
    return TradeRecord(time, maker, number, 1, price, quantity, "t", number)


def nothing(frame: str, start: int) -> Candle | None:
    return None


def reference(trades: Sequence[TradeRecord]) -> dict[tuple[str, int], tuple[object, ...]]:
    """Slowly: sort everything, then look at each candle's trades."""
    groups: dict[tuple[str, int], list[TradeRecord]] = {}
    for trade in sorted(trades, key=lambda t: (t.time, t.maker, t.number)):
        for name in TIMEFRAMES:
            groups.setdefault((name, slow_start(name, trade.time)), []).append(trade)
    return {
        at: (
            group[0].price,
            group[-1].price,
            max(t.price for t in group),
            min(t.price for t in group),
            sum(t.quantity for t in group),
            len(group),
        )
        for at, group in groups.items()
    }


def slow_start(name: str, time: int) -> int:
    """By the calendar."""
    moment = datetime.fromtimestamp(time // 1_000_000, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    count, unit = int(name[:-1]), name[-1]
    if unit == "M":
        found = midnight.replace(day=1)
    elif unit == "W":
        found = datetime.fromtimestamp(midnight.timestamp() - midnight.weekday() * 86400, UTC)
    elif unit == "D":
        days = (midnight - datetime(1970, 1, 1, tzinfo=UTC)).days
        found = datetime.fromtimestamp(days // count * count * 86400, UTC)
    elif unit == "h":
        found = midnight.replace(hour=moment.hour // count * count)
    else:
        found = midnight.replace(hour=moment.hour, minute=moment.minute // count * count)
    return int(found.timestamp()) * 1_000_000


def shape(candle: Candle) -> tuple[object, ...]:
    return (
        *(candle.open, candle.close, candle.high, candle.low),
        *(candle.volume, candle.trades),
    )


times = st.one_of(
    st.integers(T0, T0 + 3 * MINUTE),
    st.integers(T0 - 40 * DAY, T0 + 40 * DAY),
    st.sampled_from([T0 - 1, T0, T0 + HOUR, T0 + HOUR - 1, T0 + DAY]),
)
records = st.lists(
    st.builds(
        TradeRecord,
        time=times,
        maker=st.sampled_from("abc"),
        number=st.integers(1, 10**6),
        side=st.sampled_from([1, -1]),
        price=st.integers(1, 50),
        quantity=st.integers(1, 9),
        taker=st.just("t"),
        take=st.integers(1, 10**6),
    ),
    max_size=40,
    unique_by=lambda t: (t.maker, t.number),
)


@given(records, st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_order_and_any_portions_agree_with_the_reference(
    trades: list[TradeRecord], rng: object, portion: int
) -> None:
    shuffled = list(trades)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    candles = CandleSeries(nothing)
    touched: set[tuple[str, int]] = set()
    for at in range(0, len(shuffled), portion):
        candles.add(shuffled[at : at + portion])
        if at % 2:
            touched |= {(frame, candle.start) for frame, candle in candles.settle()}
    touched |= {(frame, candle.start) for frame, candle in candles.settle()}
    wanted = reference(trades)
    assert {at: shape(candle) for at, candle in candles.changed.items()} == wanted
    assert touched == wanted.keys()


@given(records, st.integers(1, 5), st.integers(1, 4))
def test_stored_candles_are_amended_by_late_trades(
    trades: list[TradeRecord], portion: int, restart_every: int
) -> None:
    disk: dict[tuple[str, int], Candle] = {}

    def stored(frame: str, start: int) -> Candle | None:
        found = disk.get((frame, start))
        return None if found is None else found.at(start)

    candles = CandleSeries(stored)
    for round_, at in enumerate(range(0, len(trades), portion)):
        candles.add(trades[at : at + portion])
        saved = [(frame, candle.at(start)) for (frame, start), candle in candles.changed.items()]
        disk.update({(frame, copy.start): copy for frame, copy in saved})
        candles.saved(saved)
        assert candles.changed == {}
        if round_ % restart_every == 0:
            minutes = sorted(c.start for (frame, _), c in disk.items() if frame == "1m")
            candles = CandleSeries(stored, [disk["1m", start].at(start) for start in minutes[-2:]])
    assert {at: shape(candle) for at, candle in disk.items()} == reference(trades)


def test_equal_times_go_by_maker_and_number() -> None:
    candles = CandleSeries(nothing)
    candles.add([record(T0, 30, maker="b", number=1)])
    candles.add([record(T0, 20, maker="a", number=9), record(T0, 10, maker="a", number=2)])
    candle = candles.changed["1m", T0]
    assert (candle.open, candle.close) == (10, 30)
    assert (candle.first, candle.last) == ((T0, "a", 2), (T0, "b", 1))


@given(st.sampled_from(list(TIMEFRAMES)), st.integers(40 * DAY, LATEST - 40 * DAY))
def test_candles_are_contiguous_and_begin_by_the_calendar(name: str, time: int) -> None:
    frame = TIMEFRAMES[name]
    start = frame.start(time)
    assert start == slow_start(name, time)
    assert start <= time
    assert frame.start(start) == start
    assert frame.start(start + DAY * 32) > start
    before = frame.start(start - 1)
    assert before == slow_start(name, start - 1)
    assert before < start


def test_volumes_are_bounded() -> None:
    candles = CandleSeries(nothing)
    for number in range(1, 20):
        candles.add([record(T0, 1, MAX_VOLUME // 500, number=number)] * 200)
    assert candles.changed["1m", T0].volume == MAX_VOLUME
    assert day_statistics(candles.minutes(), T0 + MINUTE).volume == MAX_VOLUME


def test_memory_is_bounded_after_changes_are_stored() -> None:
    candles = CandleSeries(nothing)
    for minute in range(2 * MINUTES_HELD + 1):
        candles.add([record(T0 + minute * MINUTE, 1, number=minute + 1)])
    candles.saved([(frame, c.at(c.start)) for (frame, _), c in candles.changed.items()])
    assert len(candles.held("1m")) == MINUTES_HELD
    assert candles.minutes()[-1].start == T0 + 2 * MINUTES_HELD * MINUTE


def test_a_candle_that_changed_while_it_was_saved_is_saved_again() -> None:
    candles = CandleSeries(nothing)
    candles.add([record(T0, 5)])
    copies = [(frame, c.at(c.start)) for (frame, _), c in candles.changed.items()]
    candles.add([record(T0 + 1, 6, number=2)])
    candles.saved(copies)
    assert len(candles.changed) == len(TIMEFRAMES)


@given(records.filter(bool), st.integers(T0 - 41 * DAY, T0 + 41 * DAY))
def test_figures_of_the_day_are_those_of_its_trades(trades: list[TradeRecord], now: int) -> None:
    known = [t for t in trades if t.time <= now]
    candles = CandleSeries(nothing)
    candles.add(known)
    found = day_statistics(candles.minutes(), now)
    known.sort(key=lambda t: t.key)
    begin = (now - DAY) // MINUTE * MINUTE
    day = [t for t in known if t.time >= begin]
    before = [t for t in known if t.time < begin]
    assert found.last == (known[-1].price if known else None)
    assert found.volume == sum(t.quantity for t in day)
    assert found.high == max((t.price for t in day), default=None)
    assert found.low == min((t.price for t in day), default=None)
    if known:
        assert found.before == (before[-1] if before else day[0]).price
        assert found.change == known[-1].price - found.before
    else:
        assert found.change == 0


def test_implausible_times_are_recognised() -> None:
    assert plausible(T0 + 5, T0, 5)
    assert not plausible(T0 + 6, T0, 5)
    assert not plausible(0, T0, 5)
    assert not plausible(LATEST + 1, 2**62, 5)
