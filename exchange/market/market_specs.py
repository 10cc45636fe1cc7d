"""Market specs: rules and units of a node's markets, and amounts of orders in units.

Built once at the start from the node's instruments. A market without an instrument (of a test, or a
book without money) counts lots and ticks * lots themselves, without fees and rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exchange.ledger.market_units import MarketUnits, decimals_of, units_of
from exchange.market.market_rules import MarketRules
from exchange.model.decimals import plain
from exchange.model.events import BUY
from exchange.model.instruments import PPM, Instrument, assets_of
from exchange.model.records import Order

PROTECTION_PPM = 50_000  # of a market without rules: 5 %


class MarketSpecs:
    """Rules and units by market key."""

    def __init__(
        self, markets: Iterable[str], instruments: Iterable[Instrument], stored: Mapping[str, int]
    ) -> None:
        """`stored`: decimals of the journal's balances; they never become fewer."""
        listed = {instrument.key: instrument for instrument in instruments}
        self.rules = {key: MarketRules(listed[key]) for key in markets if key in listed}
        self.decimals = decimals_of(listed.values())
        for (
            asset,
            decimals,
        ) in stored.items():  # assets with balances that are no longer traded, too
            self.decimals[asset] = max(decimals, self.decimals.get(asset, 0))
        self.units: dict[str, MarketUnits] = {}
        for key in markets:
            instrument = listed.get(key)
            if instrument is None:
                base, quote = assets_of(key)
                self.units[key] = MarketUnits(base, quote, 1, 1, 0, 0)
                self.decimals.setdefault(base, 0)
                self.decimals.setdefault(quote, 0)
            else:
                self.units[key] = units_of(
                    instrument, instrument.maker_ppm, instrument.taker_ppm, self.decimals
                )

    # Amounts

    def amount_text(self, asset: str, amount: int) -> str:
        """Return an amount as text: `0.5 BTC`."""
        return f"{plain(amount, self.decimals[asset])} {asset}"

    def required(self, order: Order) -> tuple[str, int]:
        """Return the asset that an order pays with, and the most that it may still cost: the amount to
        hold, in units of the asset."""
        units = self.units[order.market]
        left = order.left if order.cancelled else order.quantity - order.filled
        if order.side != BUY:
            return units.base, left * units.base_units
        return units.quote, left * (order.price or self._limit(order)) * units.quote_units

    def received(self, market: str, side: int, price: int, quantity: int) -> tuple[str, int]:
        """Return the asset that a side of a trade receives, and the amount before fees."""
        units = self.units[market]
        if side == BUY:
            return units.base, quantity * units.base_units
        return units.quote, quantity * price * units.quote_units

    def _limit(self, order: Order) -> int:
        """Return the highest price of a market buy in ticks; 0: unlimited, which only the house may have."""
        if order.worst_price:
            return order.worst_price
        return self.protection_price(order.market, order.side, order.stop) if order.stop > 0 else 0

    # Prices

    def protection_price(
        self, market: str, side: int, best: int, reference: int | None = None
    ) -> int:
        """Return the worst price of a market order when the best counterprice is `best`."""
        rules = self.rules.get(market)
        if rules is not None:
            return rules.protect(side, best, reference)
        return max(best + side * (best * PROTECTION_PPM // PPM), 1)
