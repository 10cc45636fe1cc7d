"""Times between texts and microseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from exchange.market.candles import LATEST
from node.views.field_types import MS_PATTERN

_MS: Final = re.compile(MS_PATTERN)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def iso(us: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC with milliseconds; no later than year 9999."""
    us = min(us, LATEST)  # others sign what they like
    second, rest = divmod(us, 1_000_000)
    return f"{_second(second)}.{rest // 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Text of a second, cached: consecutive times share it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def time_of(text: str) -> int:
    """ISO 8601 (UTC without an offset) or milliseconds since the epoch, in microseconds.

    Raises:
        ValueError: neither; the message says what to write.
    """
    if _MS.fullmatch(text):
        return int(text) * 1000
    if (
        text.isascii() and text.isdigit()
    ):  # not for `fromisoformat`, which reads dates without dashes
        if len(text) > 15:
            raise ValueError(
                f"is in milliseconds; {text[:40]} is too long for that: write {text[:13]}"
            )
        raise ValueError(
            f"is in milliseconds; {text} is before 2001 then: if it is seconds, write {int(text) * 1000}, else ISO 8601"
        )
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"must be a time such as 2026-01-02T03:04:05Z, or milliseconds since 1970, not {text[:40]!r}"
        ) from None
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
