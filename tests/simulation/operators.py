"""Settings of a node's operator: instruments and fees, client accounts, credit limits.

The figures are computed here independently, so that the watch does not depend on the engine's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from exchange.engine.engine import Engine
from exchange.model.instruments import Instrument

if TYPE_CHECKING:
    from tests.simulation.settings import Trading

PPM = 10**6
PROTECTION = 50_000  # parts per million: how far from the market a market order may trade
FEE_DECIMALS = 8  # at most, of fees in a base asset whose lots are no finer

# Base, quote, tick, lot of each market.
STEPS = {
    "BTC-USD@0.1/0.00001": ("BTC", "USD", Decimal("0.1"), Decimal("0.00001")),
    "ETH-USD@0.01/0.001": ("ETH", "USD", Decimal("0.01"), Decimal("0.001")),
    "LTC-USD@0.01/0.01": ("LTC", "USD", Decimal("0.01"), Decimal("0.01")),
}
# Listed for nothing but the many decimals that they need.
FINER = [
    Instrument("BTC-FINE", tick=Decimal("0.1"), lot=Decimal("0.0000000001")),
    Instrument("FINE-USD", tick=Decimal("0.000001"), lot=Decimal("0.00001")),
]


@dataclass(slots=True, frozen=True)
class Worth:
    """Worth of a market's ticks and lots in units of its assets, and its fees."""

    base: str
    quote: str
    base_units: int  # of a lot
    quote_units: int  # of a tick * lot
    maker: int = 0  # parts per million
    taker: int = 0
    fee_units: int = 1  # fees in the base asset are multiples of that


@dataclass(slots=True)
class Operator:
    """Of one node. It remembers everything, and sets up again what a crash has lost."""

    trading: Trading
    rng: random.Random
    markets: list[str]
    accounts: int = field(init=False)
    limits: bool = field(init=False)
    finer: bool = False
    opened: bool = False  # at the end: no limits, no halts
    _instruments: list[Instrument] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rng, trading = self.rng, self.trading
        self.accounts = rng.randint(0, trading.accounts)
        self.limits = rng.random() < trading.credit
        if not trading.instruments:
            return
        for market in self.markets:
            base, quote, tick, lot = STEPS[market]
            self._instruments.append(
                Instrument(
                    f"{base}-{quote}",
                    tick=tick,
                    lot=lot,
                    maker_fee=Decimal(rng.choice(("0", "-0.0002", "0.001", "0.000333"))),
                    taker_fee=Decimal(rng.choice(("0.0002", "0.002", "0.001777"))),
                    price_band=Decimal("0.004") if trading.band and rng.random() < 0.5 else None,
                )
            )

    @property
    def instruments(self) -> list[Instrument]:
        return [*self._instruments, *(FINER if self.finer else ())]

    def worth(self, market: str) -> Worth:
        base, quote, tick, lot = STEPS[market]
        if not self.trading.instruments:
            return Worth(base, quote, 1, 1)
        own = next(i for i in self._instruments if i.key == market)
        return Worth(
            base,
            quote,
            int(lot.scaleb(self.decimals(base))),
            int((tick * lot).scaleb(self.decimals(quote))),
            int(own.maker_fee * PPM),
            int(own.taker_fee * PPM),
            10 ** (self.decimals(base) - FEE_DECIMALS),
        )

    def decimals(self, asset: str) -> int:
        if not self.trading.instruments:
            return 0
        return {"BTC": 10, "USD": 11}.get(asset, 8) if self.finer else 8

    # What is done with an engine

    def before_start(self) -> None:
        self.finer = self.finer or self.rng.random() < self.trading.finer

    def set_up(self, engine: Engine, time: int) -> None:
        """Accounts and limits that are not there yet."""
        for number in range(1, self.accounts + 1):
            if engine.accounts.get(number) is None:
                engine.accounts.create(time, f"client-{number}")
        if self.limits and not self.opened and not engine.ledger.credit:
            for market in self.markets:
                worth = self.worth(market)
                lots = self.rng.choice((5, 30, 200))
                engine.ledger.set_credit("", worth.base, lots * worth.base_units)
                engine.ledger.set_credit("", worth.quote, lots * 1000 * worth.quote_units)

    def open_up(self, engine: Engine, now: float) -> bool:
        """The end begins: whatever could keep orders from trading is lifted. False: there was nothing."""
        limits = list(engine.ledger.credit)
        for peer, asset in limits:
            engine.ledger.set_credit(peer, asset, None)
        resumed = [engine.orders.resume_market(now, market) for market in self.markets]
        return bool(limits) or any(resumed)

    def first_deposit(self, market: str) -> list[tuple[str, int]]:
        """(asset, amount) of what a client begins with."""
        worth, lots = self.worth(market), self.trading.funds
        return [
            (worth.base, lots * worth.base_units),
            (worth.quote, lots * 1000 * worth.quote_units),
        ]
