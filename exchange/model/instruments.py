"""Instruments: markets with their price and quantity steps, limits and fees.

A price is a whole number of ticks and a quantity a whole number of lots. Text and `Decimal` at the edge
are converted to integers and back in this module only, exactly; nothing else in the project does
arithmetic on decimals. Binary floats are rejected by type, because they cannot represent 0.1.

Texts are canonical: plain digits, no exponent, no trailing zeros ("30000", "0.5", "0").
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, fields
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any, Final

from exchange.model.decimals import plain_decimal
from p2p.ground.own_file import read_own
from p2p.ground.text_file import decode_text

# A million units at eight decimals are 10**14 lots, which the wire's 2**53 hold. Price times quantity may
# exceed 64 bits (see `exchange.model.codec`).
MAX_TICKS: Final = 10**9
MAX_LOTS: Final = 10**14
MAX_TEXT: Final = 40  # characters of a number; the longest acceptable one has 25
MAX_DECIMALS: Final = 12  # of a tick or a lot; no asset in wide use has more in a price
PPM: Final = 10**6  # fractions are parts per million

_SYMBOL: Final = re.compile(r"[A-Z0-9]{2,12}-[A-Z0-9]{2,12}")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
# Minimum and maximum of each fraction. A protection of 1 lets a market order buy at twice the best price
# and sell at any.
_FRACTIONS: Final = {
    "maker_fee": (Decimal("-0.01"), Decimal("0.1")),
    "taker_fee": (Decimal(0), Decimal("0.1")),
    "price_band": (Decimal("0.000001"), Decimal(10)),
    "protection": (Decimal("0.000001"), Decimal(1)),
}
_SEPARATORS: Final = re.compile(r"[-/_: ]")
# Raises for every result that is not exact: no silent rounding.
_EXACT: Final = Context(prec=60, traps=[Inexact, InvalidOperation])
_ROUNDING: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)


class InstrumentsFileError(ValueError):
    """Invalid file of instruments. The message names the file, the entry and the field."""


class UnknownInstrument(KeyError):
    """Unknown market. The message lists the known ones."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


@dataclass(frozen=True, slots=True)
class Instrument:
    """A tradable market. Invalid fields raise ValueError with the name of the field.

    Symbol and steps define the market and must be equal on all nodes. All other fields apply to orders
    placed with this node. Fees are fractions of the received amount, negative fees are rebates; client
    accounts pay them, the house does not.
    """

    symbol: str  # "BTC-USD": base, then quote
    tick: Decimal  # step of prices, in the quote asset
    lot: Decimal  # step of quantities, in the base asset
    _: KW_ONLY
    min_quantity: Decimal | None = None  # of an order, in the base asset
    max_quantity: Decimal | None = None
    min_notional: Decimal | None = None  # price * quantity of an order, in the quote asset
    max_notional: Decimal | None = None
    maker_fee: Decimal = Decimal(0)  # fraction, whole parts per million
    taker_fee: Decimal = Decimal(0)
    price_band: Decimal | None = None  # most distance from the reference price: fraction
    protection: Decimal = Decimal("0.05")  # most distance of a market order from the best price

    def __post_init__(self) -> None:
        if not _SYMBOL.fullmatch(self.symbol) or self.base == self.quote:
            raise ValueError(
                f"symbol: expected BASE-QUOTE, two different names of 2 to 12 letters A-Z or digits, "
                f"got {self.symbol!r}"
            )
        for field in ("tick", "lot"):
            step = _step(field, getattr(self, field))
            object.__setattr__(self, field, step)
        for field, (least, most) in _FRACTIONS.items():
            if (given := getattr(self, field)) is not None:
                object.__setattr__(self, field, _fraction(field, given, least, most))
        if self.maker_fee + self.taker_fee < 0:
            raise ValueError(
                f"maker_fee: a rebate is paid out of the taker's fee: expected {plain_decimal(-self.taker_fee)} "
                f"or more, got {plain_decimal(self.maker_fee)}"
            )
        self._check_bounds("quantity", self.lot, _EXACT.multiply(MAX_LOTS, self.lot))
        self._check_bounds("notional", self.notional(1, 1), self.notional(MAX_TICKS, MAX_LOTS))
        for field in ("min_quantity", "max_quantity"):
            if (given := getattr(self, field)) is not None:
                _to_steps(field, given, "lot", self.lot, MAX_LOTS)

    def _check_bounds(self, what: str, least: Decimal, most: Decimal) -> None:
        for field in (f"min_{what}", f"max_{what}"):
            if (given := getattr(self, field)) is not None:
                least = _bounded(field, given, least, most)
                object.__setattr__(self, field, least)

    @property
    def base(self) -> str:
        return self.symbol.partition("-")[0]

    @property
    def quote(self) -> str:
        return self.symbol.partition("-")[2]

    @property
    def key(self) -> str:
        """Name on the wire. It includes the steps, so that the books of nodes that define a symbol
        differently never mix."""
        return f"{self.symbol}@{plain_decimal(self.tick)}/{plain_decimal(self.lot)}"

    @property
    def maker_ppm(self) -> int:
        """Fee of the maker in parts per million; negative: a rebate."""
        return int(self.maker_fee * PPM)

    @property
    def taker_ppm(self) -> int:
        return int(self.taker_fee * PPM)

    @property
    def price_band_ppm(self) -> int | None:
        return None if self.price_band is None else int(self.price_band * PPM)

    @property
    def protection_ppm(self) -> int:
        return int(self.protection * PPM)

    @property
    def price_decimals(self) -> int:
        """Digits after the point of a price; for aligned columns."""
        return _decimals(self.tick)

    @property
    def quantity_decimals(self) -> int:
        return _decimals(self.lot)

    def to_ticks(self, price: str | Decimal) -> int:
        """Convert a price to ticks, 1 to MAX_TICKS. Raises ValueError unless it is exact."""
        return _to_steps("price", price, "tick", self.tick, MAX_TICKS)

    def to_lots(self, quantity: str | Decimal) -> int:
        """Convert a quantity to lots, 1 to MAX_LOTS. Raises ValueError unless it is exact."""
        return _to_steps("quantity", quantity, "lot", self.lot, MAX_LOTS)

    def ticks_near(self, price: str | Decimal, *, up: bool) -> int:
        """The nearest number of ticks at or above the price, or at or below it; errors as `to_ticks`."""
        return _to_steps("price", price, "tick", self.tick, MAX_TICKS, up=up)

    def lots_within(self, quantity: str | Decimal) -> int:
        """The whole lots in a quantity; errors as `to_lots`, also for less than a lot."""
        return _to_steps("quantity", quantity, "lot", self.lot, MAX_LOTS, up=False)

    def price_text(self, ticks: int) -> str:
        return plain_decimal(_EXACT.multiply(Decimal(ticks), self.tick))

    def quantity_text(self, lots: int) -> str:
        return plain_decimal(_EXACT.multiply(Decimal(lots), self.lot))

    def notional(self, ticks: int, lots: int) -> Decimal:
        """Return the exact value of `lots` at `ticks`, in the quote asset."""
        return _EXACT.multiply(Decimal(ticks * lots), _EXACT.multiply(self.tick, self.lot))

    def average_price_text(self, ticks_times_lots: int, lots: int) -> str:
        """Return the average price of fills, from the sums of ticks * lots and of lots.

        The average need not be a multiple of the tick; it is rounded half to even, eight digits below.
        """
        average = _ROUNDING.multiply(
            _ROUNDING.divide(Decimal(ticks_times_lots), Decimal(lots)), self.tick
        )
        return plain_decimal(
            average.quantize(Decimal(1).scaleb(-self.price_decimals - 8), context=_ROUNDING)
        )


# Fields in a file, where the name of the table is the symbol.
_FIELDS: Final = tuple(field.name for field in fields(Instrument))[1:]


def instrument_of(key: str) -> Instrument:
    """Return the symbol and the steps that a market's key states. Its rules are those of no instruments file."""
    symbol, _, steps = key.partition("@")
    tick, _, lot = steps.partition("/")
    return Instrument(symbol, Decimal(tick), Decimal(lot))


def assets_of(market: str) -> tuple[str, str]:
    """Return the base and the quote asset of a market's key."""
    base, _, quote = market.partition("@")[0].partition("-")
    return base, quote or base


class Instruments:
    """Markets of a node, in the order of their definition."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._by_symbol: dict[str, Instrument] = {}
        self._by_letters: dict[str, list[Instrument]] = {}  # "BTCUSD"
        for instrument in instruments:
            if instrument.symbol in self._by_symbol:
                raise ValueError(f"{instrument.symbol} is defined twice")
            self._by_symbol[instrument.symbol] = instrument
            letters = instrument.base + instrument.quote
            self._by_letters.setdefault(letters, []).append(instrument)
        if not self._by_symbol:
            raise ValueError("at least one instrument is needed")

    @classmethod
    def default(cls) -> Instruments:
        """Return the default set: `instruments.toml` in the package `exchange`."""
        source = resources.files("exchange").joinpath("instruments.toml")
        return _parse(source.read_text(encoding="utf-8"), "instruments.toml")

    @classmethod
    def load(cls, path: Path | str) -> Instruments:
        """Load the instruments of a TOML file, which replace the default set as a whole.

        The file has a table for each instrument like `instruments.toml`: `[BTC-USD]`, `tick = "0.1"`,
        `lot = "0.00001"`, and any other fields of `Instrument`. Numbers may be text or bare; either way
        their digits count as written.

        Raises:
            InstrumentsFileError: an unreadable or invalid file.
        """
        try:
            text = decode_text(read_own(Path(path)))
        except OSError as error:
            raise InstrumentsFileError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InstrumentsFileError(f"{path}: cannot be read: it {error}") from error
        return _parse(text, str(path))

    @property
    def symbols(self) -> list[str]:
        return list(self._by_symbol)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._by_symbol.values())

    def __len__(self) -> int:
        return len(self._by_symbol)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def find(self, name: str) -> Instrument | None:
        """Look a market up like `[]`, with None for an unknown or ambiguous name."""
        upper = name.strip().upper()
        exact = self._by_symbol.get(_SEPARATORS.sub("-", upper))
        if exact is not None:
            return exact
        same_letters = self._by_letters.get(upper, [])
        return same_letters[0] if len(same_letters) == 1 else None

    def __getitem__(self, name: str) -> Instrument:
        """Look a market up; "btc-usd", "BTC/USD" and (when unambiguous) "BTCUSD" are BTC-USD.

        Raises:
            UnknownInstrument: with the known symbols and the closest match.
        """
        found = self.find(name)
        if found is not None:
            return found
        shown = name if len(name) <= MAX_TEXT else name[:MAX_TEXT] + "…"
        same_letters = self._by_letters.get(name.strip().upper(), [])
        if same_letters:
            hint = f"; it could be {' or '.join(i.symbol for i in same_letters)}"
        else:
            guess = _SEPARATORS.sub("-", name.strip().upper()[:MAX_TEXT])
            close = difflib.get_close_matches(guess, self.symbols, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
        raise UnknownInstrument(
            f"no market {shown!r}{hint} (known: {', '.join(sorted(self.symbols))})"
        )


def _parse(text: str, name: str) -> Instruments:
    try:
        tables = tomllib.loads(text, parse_float=str)  # keeps the digits as written
    except ValueError as error:
        raise InstrumentsFileError(f"{name}: not valid TOML: {error}") from error
    found = [_instrument(name, entry, table) for entry, table in tables.items()]
    try:
        return Instruments(found)
    except ValueError as error:
        raise InstrumentsFileError(f"{name}: {error}") from error


def _instrument(name: str, entry: str, table: Any) -> Instrument:
    where = f"{name}: [{entry}]"
    if not isinstance(table, dict):
        raise InstrumentsFileError(
            f"{name}: {entry}: expected tables such as [BTC-USD], got {table!r}"
        )
    for field in table:
        if field not in _FIELDS:
            optional = ", ".join(_FIELDS[2:])
            raise InstrumentsFileError(
                f"{where} {field}: unknown field, expected tick and lot, and maybe {optional}"
            )
    for field, steps in (
        ("tick", 'prices, such as "0.01"'),
        ("lot", 'quantities, such as "0.001"'),
    ):
        if field not in table:
            raise InstrumentsFileError(f"{where} {field}: missing; expected the step of {steps}")
    try:
        return Instrument(entry.upper(), **{field: _bare(value) for field, value in table.items()})
    except ValueError as error:
        raise InstrumentsFileError(f"{where} {error}") from error


def _bare(value: Any) -> Any:
    """Convert a bare whole number of TOML to Decimal; other types are checked by `Instrument`."""
    return Decimal(value) if type(value) is int and abs(value) < 10**MAX_TEXT else value


def _number(what: str, value: str | Decimal) -> Decimal:
    """Convert text or Decimal to a finite Decimal of bounded size, at a bounded cost."""
    if isinstance(value, str):
        shown = repr(value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…")
        if len(value) > MAX_TEXT:
            raise ValueError(f"{what}: {shown} is too long, at most {MAX_TEXT} characters")
        if not _NUMBER.fullmatch(value):
            raise ValueError(f"{what}: {shown} is not a decimal number such as 30000.5")
        value = Decimal(value)
    elif not isinstance(value, Decimal):
        raise TypeError(
            f"{what}: expected text or Decimal, which are exact, got {type(value).__name__}"
        )
    if not value.is_finite():
        raise ValueError(f"{what}: {value} is not a finite number")
    if value and (
        len(value.as_tuple().digits) > MAX_TEXT or not -MAX_TEXT < value.adjusted() < MAX_TEXT
    ):
        raise ValueError(f"{what}: too many digits, at most {MAX_TEXT}")
    return value


def _field(field: str, value: str | Decimal) -> Decimal:
    try:
        return _number(field, value)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _fraction(field: str, value: str | Decimal, least: Decimal, most: Decimal) -> Decimal:
    fraction = _bounded(field, value, least, most)
    if _decimals(fraction) > 6:
        raise ValueError(
            f"{field}: expected whole parts per million, which are 6 decimals, got {plain_decimal(fraction)}"
        )
    return fraction


def _bounded(field: str, value: str | Decimal, least: Decimal, most: Decimal) -> Decimal:
    number = _field(field, value)
    if not least <= number <= most:
        raise ValueError(
            f"{field}: expected from {plain_decimal(least)} to {plain_decimal(most)}, got {plain_decimal(number)}"
        )
    return Decimal(plain_decimal(number))


def _step(field: str, value: str | Decimal) -> Decimal:
    step = _field(field, value)
    if not Decimal(1).scaleb(-MAX_DECIMALS) <= step <= 10**6 or _decimals(step) > MAX_DECIMALS:
        raise ValueError(
            f"{field}: expected a step above 0, at most 1000000, with at most {MAX_DECIMALS} decimals, "
            f"got {value}"
        )
    return Decimal(plain_decimal(step))


def _to_steps(
    what: str,
    value: str | Decimal,
    step_name: str,
    step: Decimal,
    most: int,
    *,
    up: bool | None = None,
) -> int:
    """Count the steps of `value`. Between two steps it is rounded `up` or down, or refused (None)."""
    number = _number(what, value)
    if number <= 0:
        raise ValueError(f"{what} must be more than 0, got {plain_decimal(number)}")
    largest = _EXACT.multiply(Decimal(most), step)
    if number > largest:
        raise ValueError(
            f"{what} {plain_decimal(number)} is too large, at most {plain_decimal(largest)}"
        )
    steps = int(_ROUNDING.divide_int(number, step))
    below = _EXACT.multiply(Decimal(steps), step)
    if below != number:
        if up:
            return steps + 1
        if up is False:
            if not steps:
                raise ValueError(
                    f"{what} {plain_decimal(number)} is below the {step_name} {plain_decimal(step)}"
                )
            return steps
        above = plain_decimal(_EXACT.add(below, step))
        nearest = (
            f"nearest are {plain_decimal(below)} and {above}" if steps else f"the least is {above}"
        )
        raise ValueError(
            f"{what} {plain_decimal(number)} is not a multiple of the {step_name} {plain_decimal(step)}; {nearest}"
        )
    return steps


def _decimals(number: Decimal) -> int:
    return len(plain_decimal(number).partition(".")[2])
