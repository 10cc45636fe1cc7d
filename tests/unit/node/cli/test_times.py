"""Times and lengths of candles as they are typed."""

from __future__ import annotations

import pytest

from exchange.market.candles import TIMEFRAMES
from node.cli.times import TimeTextError, parse_expiry, parse_moment, timeframe


@pytest.mark.parametrize(
    "text",
    [
        "2027-11-25T10:00:00Z",
        "2027-11-25 10:00Z",
        "2027-11-25 10:00+01:00",
        "2027-11-25T10:00:00.123-05:00",
        "20271125T100000Z",
        "1795600800000",
        "179560080000",
    ],
)
def test_a_time_with_its_zone_and_milliseconds_are_taken(text: str) -> None:
    assert parse_moment(text, "--start") == text
    assert parse_expiry(text, 0) == text


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("2027-11-25 10:00", "2027-11-25T10:00:00Z"),
        ("2027-11-25T10:00:30", "2027-11-25T10:00:30+01:00"),
        ("2027-11-25", "2027-11-25T00:00:00Z"),
        ("20271125", "2027-11-25T00:00:00Z"),
        ("2027-11-25 10:00 CET", "2027-11-25T10:00:00+01:00"),
        ("2027-11-25 10:00 Europe/Berlin", "2027-11-25T10:00:00Z"),
        ("2027-W47-4T10:00", "such as"),
        ("1795600800", "1795600800000"),
        ("179560080", "179560080000"),
        ("2027-11-25T25:00Z", "such as"),
        ("10:00", "such as"),
        ("tomorrow", "such as"),
        ("", "such as"),
    ],
)
def test_a_time_with_two_meanings_or_none_is_refused_with_what_to_write(
    text: str, instead: str
) -> None:
    for parse in (lambda: parse_moment(text, "--expires"), lambda: parse_expiry(text, 0)):
        with pytest.raises(TimeTextError) as caught:
            parse()
        assert instead in str(caught.value)
        assert "--expires" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((name, name) for name in TIMEFRAMES),
        *((f" {name} ", name) for name in TIMEFRAMES),
        *((text, "1h") for text in ("1H", "h", "H", "60", "60m", "1 hour")),
        *((text, "1h") for text in ("hourly", "1hr", "60min", "1-hour", "1_h")),
        *((text, "1m") for text in ("1", "m", "1min", "1 minute", "1T")),
        *((text, "15m") for text in ("15", "15min", "15 minutes")),
        *((text, "4h") for text in ("4H", "240", "240m")),
        *((text, "1D") for text in ("1d", "D", "d", "24h", "24H", "1440", "daily", "day")),
        *((text, "1W") for text in ("1w", "W", "weekly", "1 week")),
        *((text, "14D") for text in ("14d", "2w", "2 weeks")),
        *((text, "1M") for text in ("M", "1mo", "1 month", "monthly")),
        *((text, None) for text in ("2h", "2M", "0", "0h", "x", "", "1y", "-1h", "1.5h", "1h1h")),
    ],
)
def test_lengths_of_candles_are_read_in_usual_spellings(text: str, meant: str | None) -> None:
    assert timeframe(text) == meant
