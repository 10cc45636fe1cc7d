"""Trades and candles on disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from exchange.journal.market_history import Addition, HistoryError, MarketHistory
from exchange.market.candles import LATEST, MINUTE, Candle, TradeRecord

M, N = "AAA-BBB@1/1", "CCC-DDD@1/1"
ME = "me"


def record(time: int, number: int = 1, maker: str = "a", price: int = 7) -> TradeRecord:
    return TradeRecord(time, maker, number, -1, price, 3, "t" * 32, number)


def candle(start: int, close: int = 5) -> Candle:
    return Candle(start, 4, close, 9, 1, 2**70, 12, (start, "a", 1), (start + 5, "b", 2**50))


def opened(path: Path, **options: int) -> MarketHistory:
    history = MarketHistory(path / "market.sqlite3", ME, **options)
    history.add_markets([M, N])
    return history


def added(
    trades: list[TradeRecord] = [],  # noqa: B006
    candles: list[tuple[str, Candle]] = [],  # noqa: B006
    **counted: int,
) -> Addition:
    return Addition({M: trades}, {M: candles}, {(M, maker): n for maker, n in counted.items()})


def every(history: MarketHistory, market: str = M) -> list[TradeRecord]:
    return history.trades(market, start=0, end=LATEST, limit=10**6, newest_first=False)


def test_saved_trades_and_candles_survive_a_restart(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as history:
        history.save(added([record(5), record(6, 2)], [("1m", candle(0)), ("1M", candle(0))], a=2))
    with closing(opened(tmp_path)) as history:
        assert every(history) == [record(5), record(6, 2)]
        assert every(history, N) == []
        assert history.candle(M, "1m", 0) == candle(0)
        assert history.candle(M, "5m", 0) is None
        assert history.candle(N, "1m", 0) is None
        assert history.counted(M) == {"a": 2}
        assert history.counted(N) == {}
    assert (tmp_path / "market.sqlite3").stat().st_mode & 0o777 == 0o600


def test_queries_are_bounded_ordered_and_limited(tmp_path: Path) -> None:
    trades = [record(5, 1, "b"), record(5, 2, "a"), record(5, 1, "a"), record(9, 4), record(1, 5)]
    by_key = sorted(trades, key=lambda t: t.key)
    with closing(opened(tmp_path)) as history:
        history.save(added(trades, [("1m", candle(at * MINUTE)) for at in range(5)]))
        assert every(history) == by_key
        newest = history.trades(M, start=5, end=9, limit=3, newest_first=True)
        assert newest == by_key[:1:-1]
        assert history.trades(M, start=5, end=5, limit=2, newest_first=False) == by_key[1:3]
        found = history.candles(M, "1m", start=MINUTE, end=3 * MINUTE, limit=2, newest_first=True)
        assert found == [candle(3 * MINUTE), candle(2 * MINUTE)]


def test_a_later_form_of_a_candle_replaces_the_earlier(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as history:
        history.save(added(candles=[("1h", candle(0))]))
        history.save(added(candles=[("1h", candle(0, close=8))]))
        assert history.candle(M, "1h", 0) == candle(0, close=8)


def test_the_oldest_rows_are_pruned(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trades_kept=100, candles_kept=10)) as history:
        for at in range(50):
            rows = [record(10 * at + n, 10 * at + n + 1) for n in range(10)]
            history.save(added(rows, [("1m", candle(at * MINUTE)), ("1D", candle(0))]))
        assert 100 <= len(every(history)) <= 120
        assert every(history)[-1] == record(499, 500)
        left = history.candles(M, "1m", start=0, end=LATEST, limit=99, newest_first=False)
        assert 10 <= len(left) <= 12
        assert left[-1].start == 49 * MINUTE
        assert history.candle(M, "1D", 0) is not None
    with closing(opened(tmp_path, trades_kept=20)) as history:
        history.save(added([record(500, 501)]))
        assert len(every(history)) == 20  # looked at with the first save


def test_a_failed_save_writes_nothing(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as history:
        with pytest.raises(HistoryError, match=r"market\.sqlite3"):
            history.save(added([record(5), record(2**63)]))
        assert every(history) == []
        history.save(added([record(5)]))
        assert every(history) == [record(5)]


@pytest.mark.parametrize("content", [b"this is no database" * 100, "other version"])
def test_an_unusable_file_is_replaced(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "market.sqlite3"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    with closing(opened(tmp_path)) as history:
        assert history.replaced
        history.save(added([record(5)]))
    with closing(opened(tmp_path)) as history:
        assert history.replaced is None
        assert every(history) == [record(5)]


def test_an_unwritable_path_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="missing"):
        MarketHistory(tmp_path / "missing" / "market.sqlite3", ME)


def test_reading_a_closed_file_raises_an_error(tmp_path: Path) -> None:
    history = opened(tmp_path)
    history.close()
    with pytest.raises(HistoryError, match="cannot read"):
        history.candle(M, "1m", 0)


@pytest.mark.parametrize("identities", [2, 60])
def test_self_trades_push_out_no_trade_of_others_below_the_share_nor_any_of_this_node(
    tmp_path: Path, identities: int
) -> None:
    honest = [record(n, n + 1, f"honest {n % 4}") for n in range(40)]
    own = [record(100 + n, n + 1, ME) for n in range(9)]
    own += [msgspec.structs.replace(record(200 + n, n + 1, "other"), taker=ME) for n in range(9)]
    with closing(opened(tmp_path, trades_kept=1000)) as history:
        history.save(added(honest + own))
        for at in range(50):
            rows = [1000 + 100 * at + n for n in range(100)]
            history.save(added([record(t, t, f"sybil {t % identities}") for t in rows]))
        kept = every(history)
    assert len(kept) <= 1100
    assert set(honest + own) <= set(kept)
    assert kept[-1].time == 5999
