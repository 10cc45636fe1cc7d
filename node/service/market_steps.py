"""Steps of a data directory's markets: price and quantity steps change by command only.

Theory of operation. The steps are part of a market's key, so nodes whose steps differ trade in different
markets, and a journal's orders belong to the steps they were placed with. New defaults of another version
or an edited file of instruments must therefore not change them unnoticed. `market-steps.toml` in the data
directory records the steps in use; they win over the configured ones until the operator records the
configured ones (`exchange-node market change-steps`), which closes the market's orders and takes effect at
the next start.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from exchange.model.instruments import Instrument, Instruments, InstrumentsFileError
from node.views.account_views import MarketStepsView
from p2p.ground.durable_file import replace_file
from p2p.ground.own_file import read_own

# Steps of version 0.1.0, whose data directories have no record.
_FIRST_STEPS: Final = {
    "BTC-USD": ("0.1", "0.00001"),
    "ETH-USD": ("0.01", "0.0001"),
    "ETH-BTC": ("0.00001", "0.0001"),
    "TEST-USD": ("0.01", "1"),
}
_HEAD: Final = """\
# Price and quantity steps of the markets in this data directory. Written by the node; change them with
# `exchange-node market change-steps MARKET` while it runs.
"""


@dataclass(frozen=True, slots=True)
class Steps:
    """Price step in the quote asset and quantity step in the base asset."""

    tick: Decimal
    lot: Decimal


class MarketSteps:
    """Configured instruments, the recorded steps, and what follows from them."""

    def __init__(self, path: Path, configured: Instruments, recorded: dict[str, Steps]) -> None:
        """`recorded`: steps by symbol, as the data directory's record has them.

        Raises:
            InstrumentsFileError: a rule of a configured instrument does not fit the recorded steps.
        """
        self._path = path
        self._configured = configured
        self._recorded = recorded
        self.instruments = Instruments(self._in_use(instrument) for instrument in configured)
        for instrument in configured:
            recorded.setdefault(instrument.symbol, _steps(instrument))

    def _in_use(self, instrument: Instrument) -> Instrument:
        steps = self._recorded.get(instrument.symbol)
        if steps is None or steps == _steps(instrument):
            return instrument
        try:
            return replace(instrument, tick=steps.tick, lot=steps.lot)
        except ValueError as error:
            raise InstrumentsFileError(
                f"[{instrument.symbol}] is traded in steps of {steps.tick:f} and {steps.lot:f} in this data "
                f"directory ({self._path}), which its other fields do not fit: {error}"
            ) from error

    @property
    def warnings(self) -> list[str]:
        """A line for each market whose configured steps are not in use."""
        return [
            f"{view.market} keeps its steps of {view.tick} and {view.lot}; configured are "
            f"{view.configured_tick} and {view.configured_lot}: change them with 'exchange-node market "
            f"change-steps {view.market}'"
            for view in self.views()
            if (view.tick, view.lot) != (view.configured_tick, view.configured_lot)
        ]

    def views(self) -> list[MarketStepsView]:
        return [self.view(symbol) for symbol in self._configured.symbols]

    def view(self, symbol: str) -> MarketStepsView:
        used, configured = self.instruments[symbol], self._configured[symbol]
        recorded = self._recorded[symbol]
        return MarketStepsView(
            market=symbol,
            tick=format(used.tick, "f"),
            lot=format(used.lot, "f"),
            configured_tick=format(configured.tick, "f"),
            configured_lot=format(configured.lot, "f"),
            at_next_start=recorded == _steps(configured) != _steps(used),
        )

    def change(self, symbol: str) -> None:
        """Record the configured steps for the next start. Raises OSError."""
        self._recorded[symbol] = _steps(self._configured[symbol])
        self.save()

    def save(self) -> None:
        """Write the record. Raises OSError."""
        tables = [
            f'\n[{symbol}]\ntick = "{steps.tick:f}"\nlot = "{steps.lot:f}"\n'
            for symbol, steps in self._recorded.items()
        ]
        replace_file(self._path, (_HEAD + "".join(tables)).encode("ascii"))


def load_market_steps(path: Path, configured: Instruments, *, upgraded: bool) -> MarketSteps:
    """Read the record, or begin one. `upgraded`: the data directory has a journal from before there were
    records.

    Raises:
        InstrumentsFileError: the record cannot be read, or an instrument does not fit it.
        OSError: it cannot be written.
    """
    try:
        recorded = _read(path)
    except FileNotFoundError:
        first = {name: Steps(*map(Decimal, steps)) for name, steps in _FIRST_STEPS.items()}
        recorded = first if upgraded else {}
    known = dict(recorded)
    steps = MarketSteps(path, configured, recorded)
    if recorded != known or not path.exists():
        steps.save()
    return steps


def _read(path: Path) -> dict[str, Steps]:
    try:
        tables: dict[str, Any] = tomllib.loads(read_own(path).decode())
        return {
            symbol: _steps(Instrument(symbol, Decimal(table["tick"]), Decimal(table["lot"])))
            for symbol, table in tables.items()
        }
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InstrumentsFileError(
            f"{path} is damaged ({error!r}): put it back from a backup; it has a table such as [BTC-USD] with "
            "tick and lot for each market, and the journal's orders are counted in these steps"
        ) from error


def _steps(instrument: Instrument) -> Steps:
    return Steps(instrument.tick, instrument.lot)
