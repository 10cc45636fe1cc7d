"""Names of markets: BTC-USD here is tBTCUSD there, and TEST-USD is tTEST:USD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from exchange.model.instruments import Instrument
from node.annexes.bitfinex.errors import bad_symbol
from node.annexes.bitfinex.limits import LEAST_SHOWN
from node.views.scales import Scale


@dataclass(frozen=True, slots=True)
class Pair:
    """A market under its Bitfinex name."""

    instrument: Instrument
    name: str  # "BTCUSD", "TEST:USD"
    scale: Scale
    least_ticks: int = field(init=False)  # of what books show
    least_lots: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "least_ticks", ceil(LEAST_SHOWN / self.instrument.tick))
        object.__setattr__(self, "least_lots", ceil(LEAST_SHOWN / self.instrument.lot))

    @property
    def symbol(self) -> str:
        return f"t{self.name}"

    @property
    def key(self) -> str:
        return self.scale.key


def pair_name(instrument: Instrument) -> str:
    """Two names of three letters are written together, others with a colon."""
    base, quote = instrument.base, instrument.quote
    return base + quote if len(base) == len(quote) == 3 else f"{base}:{quote}"


class Symbols:
    """The markets by their Bitfinex symbols, in the order of the instruments."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._pairs: dict[str, Pair] = {}
        self._colons: dict[str, Pair] = {}  # with a colon where none is needed
        for instrument in instruments:
            pair = Pair(instrument, pair_name(instrument), Scale(instrument))
            self._pairs[pair.symbol] = pair
            self._colons[f"t{instrument.base}:{instrument.quote}"] = pair
        self._keys = {pair.key: pair for pair in self._pairs.values()}

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __getitem__(self, symbol: object) -> Pair:
        """The market called `symbol`; tBTC:USD is as good as tBTCUSD.

        Raises:
            BitfinexError: there is none.
        """
        if isinstance(symbol, str):
            pair = self._pairs.get(symbol) or self._colons.get(symbol)
            if pair is not None:
                return pair
        raise bad_symbol()

    def find(self, key: str) -> Pair | None:
        """The market with that key (`Instrument.key`), if it is still served."""
        return self._keys.get(key)

    @property
    def currencies(self) -> list[str]:
        names = {
            name for p in self._pairs.values() for name in (p.instrument.base, p.instrument.quote)
        }
        return sorted(names)
