"""Order mapping: conversion between texts of the API and integers, for orders, fills, trades and
candles.

An invalid text raises a `ServiceError` that shows the right form.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, UnsetType

from exchange.market.candles import Candle, TradeRecord
from exchange.model.commands import Amend, NewOrder
from exchange.model.decimals import plain
from exchange.model.events import BUY, SELL
from exchange.model.instruments import (
    MAX_TEXT,
    Instrument,
    Instruments,
    UnknownInstrument,
    instrument_of,
)
from exchange.model.records import NO_TERMS, Fill, Order
from exchange.orders.order_validation import MAX_CLIENT_ID
from node.views.field_types import POSITIVE_PATTERN, refusal_status
from node.views.limits import MAX_GROUP
from node.views.scales import Scale
from node.views.timestamps import iso, time_of
from node.views.views import (
    AmendRequest,
    CandleView,
    FillView,
    OrderRequest,
    OrderView,
    ServiceError,
    Side,
    Status,
    TradeView,
)


def side_word(side: int) -> Side:
    return "buy" if side == BUY else "sell"


def end_of(order: Order) -> Status:
    """Return the end of a finished order as status and reason."""
    return "filled" if order.filled == order.quantity else "cancelled"


class _Scales(dict[str, Scale]):
    """Scales by market key; of markets that are no longer traded, from the steps in their key."""

    def __missing__(self, key: str) -> Scale:
        scale = self[key] = Scale(instrument_of(key))
        return scale


class OrderMapping:
    """Conversion between texts and integers for one node. `decimals` gives those of an asset's unit, `decided_by` the
    latest time of an order's takes (us since the epoch)."""

    def __init__(
        self,
        instruments: Instruments,
        node_id: str,
        decimals: Callable[[str], int],
        decided_by: Callable[[int], int | None] = lambda order: None,
    ) -> None:
        self._decided_by = decided_by
        self._instruments = instruments
        self._node_id = node_id
        self._decimals = decimals
        self.by_key = {instrument.key: instrument for instrument in instruments}
        self.scales: dict[str, Scale] = _Scales(
            {key: Scale(instrument) for key, instrument in self.by_key.items()}
        )
        self._by_symbol = {scale.symbol: scale for scale in self.scales.values()}

    # In

    def instrument(self, name: str) -> Instrument:
        try:
            return self._instruments[name]
        except UnknownInstrument as error:
            raise ServiceError(404, "unknown_market", str(error)) from error

    def _scale(self, name: str) -> Scale:
        found = self._by_symbol.get(name)  # as it is spelled nearly always
        return self.scales[self.instrument(name).key] if found is None else found

    def key(self, name: str | None) -> str | None:
        return None if name is None else self.instrument(name).key

    def number(self, order_id: str) -> int:
        """The number of an own order, from its full id or the number alone."""
        node, dash, number = order_id.rpartition("-")
        if node and node != self._node_id:
            raise ServiceError(
                404,
                "unknown_order",
                f"order {order_id[:60]} belongs to node {node[:40]}, not to this one",
            )
        said = number if node or not dash else order_id  # of `-1` nothing is a number
        if not (said.isascii() and said.isdigit()) or len(said) > 12:
            raise ServiceError(
                400,
                "bad_order_id",
                f"{order_id[:60]!r} is not an order id; see 'exchange-node orders'",
            )
        return int(number)

    def new_order(self, request: OrderRequest, account: int) -> NewOrder:
        scale = self._scale(request.market)
        if request.side not in ("buy", "sell"):
            raise ServiceError(400, "bad_side", "side is buy or sell")
        if request.client_id is not None:
            self.client_id(request.client_id)
        check_group(request.group)
        side = BUY if request.side == "buy" else SELL
        return NewOrder(
            market=scale.key,
            side=side,
            quantity=_lots(scale, "quantity", request.quantity),
            price=_price(scale, "price", request.price),
            account=account,
            tif=request.tif,
            expires=None if request.expires is None else _moment(request.expires),
            post_only=request.post_only,
            hidden=request.hidden,
            display_quantity=_display(scale, request.display_quantity),
            reduce_only=request.reduce_only,
            stop=_price(scale, "stop", request.stop),
            trailing_offset=_price(scale, "trailing_offset", request.trailing_offset),
            oco_stop=_price(scale, "oco_stop", request.oco_stop),
            self_trade=request.self_trade,
            worst_price=_price(scale, "worst_price", request.worst_price),
            client_id=request.client_id,
            group=request.group,
        )

    def changes(self, market: str, request: AmendRequest) -> Amend:
        """Changes to an order of the market with this key."""
        scale = self.scales[market]
        quantity = given(request.quantity)
        changes = Amend(
            price=_price(scale, "price", given(request.price)),
            quantity=None if quantity is None else _lots(scale, "quantity", quantity),
            stop=_price(scale, "stop", given(request.stop)),
            trailing_offset=_price(scale, "trailing_offset", given(request.trailing_offset)),
            display_quantity=_display(scale, given(request.display_quantity)),
            expires=_moment(given(request.expires)),
        )
        if changes == Amend():
            raise ServiceError(
                400, "invalid_body", "nothing to change; give price, quantity or another field"
            )
        return changes

    @staticmethod
    def client_id(text: str) -> str:
        if not (0 < len(text) <= MAX_CLIENT_ID and text.isascii() and text.isprintable()) or (
            text in (".", "..")
        ):
            raise ServiceError(
                400,
                "bad_client_id",
                f"a client id has 1 to {MAX_CLIENT_ID} printable ASCII characters, and is not . or "
                ".., which the path of a URL cannot carry",
            )
        return text

    # Out

    def order_id(self, number: int) -> str:
        return f"{self._node_id}-{number}"

    def order(self, order: Order) -> OrderView:
        scale = self.scales[order.market]
        terms, kind = order.terms or NO_TERMS, order.kind
        lots, price = scale.amount, scale.price
        created, quantity = iso(order.time), lots(order.quantity)
        status: Status = "pending" if terms.pending and not order.shown else "open"
        if order.done:
            status = end_of(order)
        elif terms.untriggered:
            status = "untriggered"
        remaining = order.quantity - order.filled if terms.untriggered else order.free
        average = None
        if order.filled:
            average = scale.instrument.average_price_text(order.value, order.filled)
        return OrderView(
            id=self.order_id(order.number),
            number=order.number,
            market=scale.symbol,
            side=side_word(order.side),
            type="market" if kind == "limit" and order.price is None else kind,
            price=None if order.price is None else price(order.price),
            quantity=quantity,
            filled=lots(order.filled) if order.filled else "0",
            remaining=quantity if remaining == order.quantity else lots(remaining),
            pending=lots(terms.pending) if terms.pending else "0",
            status=status,
            average_price=average,
            created=created,
            client_id=order.client_id,
            reason=order.reason
            if order.done or order.cancelled or order.reason == "credit"
            else "",
            account=order.account,
            tif=terms.tif,
            expires=iso(terms.expires) if terms.expires else None,
            post_only=terms.post_only,
            hidden=terms.hidden,
            display_quantity=lots(terms.display_quantity) if terms.display_quantity else None,
            reduce_only=terms.reduce_only,
            stop=price(terms.stop) if terms.stop else None,
            trailing_offset=price(terms.trailing_offset) if terms.trailing_offset else None,
            linked_order_id=self.order_id(terms.linked_order) if terms.linked_order else None,
            group=order.group,
            updated=iso(order.updated) if order.updated not in (0, order.time) else created,
            pending_until=self._pending_until(order.number) if terms.pending else None,
        )

    def _pending_until(self, number: int) -> str | None:
        until = self._decided_by(number)
        return None if until is None else iso(until)

    def fill(self, fill: Fill) -> FillView:
        scale = self.scales[fill.market]
        fee = "0"
        if fill.fee_asset:
            fee = plain(fill.fee, self._decimals(fill.fee_asset))
        return FillView(
            id=f"{fill.taker}:{fill.take}",
            market=scale.symbol,
            order_id=self.order_id(fill.order),
            role="maker" if fill.role == "maker" else "taker",
            side=side_word(fill.side),
            price=scale.price(fill.price),
            quantity=scale.amount(fill.quantity),
            time=iso(fill.time),
            counterparty=fill.counterparty,
            counterparty_order_id=f"{fill.counterparty}-{fill.counterparty_order}",
            account=fill.account,
            fee=fee,
            fee_asset=fill.fee_asset,
        )

    def trade(self, key: str, trade: TradeRecord) -> TradeView:
        scale = self.scales[key]
        return TradeView(
            id=f"{trade.taker}:{trade.take}",
            market=scale.symbol,
            side=side_word(trade.side),
            price=scale.price(trade.price),
            quantity=scale.amount(trade.quantity),
            time=iso(trade.time),
            maker=trade.maker,
            taker=trade.taker,
        )


def candle_view(instrument: Instrument, candle: Candle) -> CandleView:
    return CandleView(
        time=iso(candle.start),
        open=instrument.price_text(candle.open),
        high=instrument.price_text(candle.high),
        low=instrument.price_text(candle.low),
        close=instrument.price_text(candle.close),
        volume=instrument.quantity_text(candle.volume),
        trades=candle.trades,
    )


def given(value: str | UnsetType) -> str | None:
    """A field of an amendment; None when it was left out."""
    return None if value is UNSET else value


def check_group(number: int) -> int:
    if not 0 <= number <= MAX_GROUP:
        raise ServiceError(400, "bad_group", f"a group is a whole number from 0 to {MAX_GROUP}")
    return number


def _bad_number(name: str, value: str, error: Exception) -> ServiceError:
    text = str(error)
    if not text.startswith(name):  # a stop is refused as a price is, under its own name
        text = f"{name}: {text}"
    status = refusal_status(value, POSITIVE_PATTERN, MAX_TEXT)
    return ServiceError(status, "bad_number", text, pointer=f"/{name}")


def _lots(scale: Scale, name: str, text: str) -> int:
    try:
        return scale.lots(text)
    except (ValueError, TypeError) as error:
        raise _bad_number(name, text, error) from error


def _display(scale: Scale, text: str | None) -> int | None:
    return None if text is None else _lots(scale, "display_quantity", text)


def _price(scale: Scale, name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return scale.ticks(text)
    except (ValueError, TypeError) as error:
        raise _bad_number(name, text, error) from error


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return time_of(text)
    except ValueError as error:
        raise ServiceError(400, "bad_time", f"expires {error}", pointer="/expires") from None
