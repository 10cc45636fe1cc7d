"""What a node's markets accept and what their ticks and lots are worth: rules, units, and amounts.

Built once at the start, from the node's instruments. An engine without instruments (a test's, or a
book without money) counts lots and ticks * lots themselves, charges nothing and has no rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from exchange.ledger.ledger import MarketUnits, decimals_of, units_of
from exchange.market.market_rules import MarketRules
from exchange.model.events import BUY
from exchange.model.instruments import PPM, Instrument
from exchange.model.records import Order

PROTECTION_PPM = 50_000  # of a market without rules: 5 %


class MarketSpecs:
    """By market key. `stored`: decimals that the journal's balances are in; they never become fewer."""

    def __init__(
        self, markets: Iterable[str], instruments: Iterable[Instrument], stored: Mapping[str, int]
    ) -> None:
        listed = {instrument.key: instrument for instrument in instruments}
        self.rules = {key: MarketRules(listed[key]) for key in markets if key in listed}
        self.decimals = decimals_of(listed.values())
        for asset, decimals in stored.items():  # what is owed in one that is no longer traded, too
            self.decimals[asset] = max(decimals, self.decimals.get(asset, 0))
        self.units: dict[str, MarketUnits] = {}
        for key in markets:
            instrument = listed.get(key)
            if instrument is None:
                base, _, quote = key.partition("@")[0].partition("-")
                self.units[key] = MarketUnits(base, quote or base, 1, 1, 0, 0)
                self.decimals.setdefault(base, 0)
                self.decimals.setdefault(quote or base, 0)
            else:
                self.units[key] = units_of(
                    instrument, instrument.maker_ppm, instrument.taker_ppm, self.decimals
                )

    # Amounts

    def amount_text(self, asset: str, amount: int) -> str:
        """An amount for people: `0.5 BTC`."""
        number = format(Decimal(amount).scaleb(-self.decimals[asset]), "f")
        if "." in number:
            number = number.rstrip("0").rstrip(".")
        return f"{number} {asset}"

    def asset_spent(self, order: Order) -> str:
        """The asset that an order parts with."""
        units = self.units[order.market]
        return units.quote if order.side == BUY else units.base

    def amount_required(self, order: Order) -> int:
        """What the order may still part with, at most: what is held for it. Units of `given`."""
        units = self.units[order.market]
        if order.side != BUY:
            return order.left * units.base_units
        return order.left * self._limit(order) * units.quote_units

    def received(self, market: str, side: int, price: int, quantity: int) -> tuple[str, int]:
        """The asset that a side of a trade gets, and how much of it before fees."""
        units = self.units[market]
        if side == BUY:
            return units.base, quantity * units.base_units
        return units.quote, quantity * price * units.quote_units

    def _limit(self, order: Order) -> int:
        """The most that a buy may pay for a lot, in ticks; 0 when only the house's may be any."""
        if order.price is not None:
            return order.price
        if order.worst_price:
            return order.worst_price
        return self.protection_price(order.market, order.side, order.stop) if order.stop > 0 else 0

    # Prices

    def protection_price(
        self, market: str, side: int, best: int, reference: int | None = None
    ) -> int:
        """The worst price at which a market order may trade when the market is at `best`."""
        rules = self.rules.get(market)
        if rules is not None:
            return rules.protect(side, best, reference)
        return max(best + side * (best * PROTECTION_PPM // PPM), 1)
