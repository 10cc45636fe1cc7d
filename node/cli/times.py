"""Times and lengths of time as they are typed: `2h` from now, a moment with its zone, a candle's length."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

import click

from exchange.market.candles import TIMEFRAMES

_DURATION: Final = re.compile(r"(\d{1,9})([smhdSMHD])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EXAMPLE: Final = "2026-01-02T03:04:05Z"


class TimeTextError(ValueError):
    """The typed text is not a time; the message shows what to write."""


def parse_moment(text: str, option: str, *, also: str = "") -> str:
    """Return a moment as the API takes it: ISO 8601 with its zone, or milliseconds since 1970.

    `also` names other forms that the option has.

    Raises:
        TimeTextError: something else, or two meanings.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and 9 <= len(text) <= 15:
        if len(text) < 12:
            raise TimeTextError(
                f"{option} {text} would be in January 1970: times are in milliseconds; "
                f"for seconds write {text}000"
            )
        return text
    found = _iso(text)
    if found is not None and found.tzinfo is not None:
        return text
    bare, zone = text, ""
    if found is None and (named := re.fullmatch(r"(.*?)\s*([A-Za-z][A-Za-z_/]*)", text)):
        bare, zone = named[1], named[2]
        found = _iso(bare)
    if found is not None and found.tzinfo is None:
        iso = found.isoformat()
        wrong = f"names its zone {zone!r}, which" if zone else "has no time zone, so that it"
        raise TimeTextError(
            f"{option} {text!r} {wrong} has more than one meaning; write {iso}Z for UTC, or the offset of your "
            f"zone, such as {iso}+01:00"
        )
    raise TimeTextError(f"{option} {text!r} is not a time; write {also}a time such as {_EXAMPLE}")


def parse_expiry(text: str, now_ms: int) -> str:
    """Convert an expiry to an API time. `30s`, `10m`, `2h` and `1d` count from now.

    Raises:
        TimeTextError: with what to type instead.
    """
    match = _DURATION.fullmatch(text)
    if match:
        seconds = int(match[1]) * _SECONDS[match[2].lower()]
        return str(now_ms + seconds * 1000)
    return parse_moment(text, "--expires", also="30s, 10m, 2h, 1d, or ")


def moment(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of options that take a moment."""
    if value is None:
        return None
    try:
        return parse_moment(value, param.opts[-1])
    except TimeTextError as error:
        raise click.UsageError(str(error)) from None


def _iso(text: str) -> datetime | None:
    if not re.match(r"\d{4}-?\d\d", text, re.ASCII):  # a date comes first
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# Units as they are written elsewhere; a lone m is a minute and a lone M is a month, as the API has them.
_UNITS: Final = {
    "m": ("m", "min", "mins", "minute", "minutes", "t"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "D": ("d", "day", "days", "daily"),
    "W": ("w", "week", "weeks", "wk", "weekly"),
    "M": ("mo", "mon", "month", "months", "monthly"),
}
_UNIT_OF: Final = {word: unit for unit, words in _UNITS.items() for word in words} | {
    "hourly": "h",
}


class TimeframeType(click.ParamType):  # type: ignore[type-arg]
    """Length of a candle, in any usual spelling: 1h, 1H, 60m, 60, 1 hour, hourly, 1d, D, 1mo."""

    name = "timeframe"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(TIMEFRAMES)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = timeframe(str(value))
        if found is None:
            self.fail(f"{value!r} is not a length of candles; there are {', '.join(TIMEFRAMES)}.")
        return found

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in TIMEFRAMES if name.startswith(incomplete)]


def timeframe(text: str) -> str | None:
    """Return the length of candles that a text means, None if there is none of it."""
    match = re.fullmatch(r"(\d{0,4})[\s_-]*([A-Za-z]*)", text.strip(), re.ASCII)
    if match is None or not match[0].strip():
        return None
    count = int(match[1] or 1)
    unit = "M" if match[2] == "M" else _UNIT_OF.get(match[2].lower() or "m")
    if unit is None:
        return None
    if unit == "m" and count % 60 == 0 and count:
        count, unit = count // 60, "h"
    if unit == "h" and count % 24 == 0 and count:
        count, unit = count // 24, "D"
    name = f"{count}{unit}"
    if name == "2W":
        name = "14D"
    return name if name in TIMEFRAMES else None
