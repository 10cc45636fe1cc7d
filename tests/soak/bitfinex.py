"""The Bitfinex v2 dialect as a bot speaks it: signatures, orders out, order and trade arrays in."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from node.annexes.bitfinex.order_ids import OWN
from tests.soak.told import State, ToldFill, Wish

SYMBOLS: Final = {
    "BTC-USD": "tBTCUSD",
    "ETH-USD": "tETHUSD",
    "ETH-BTC": "tETHBTC",
    "TEST-USD": "tTEST:USD",
}
MARKETS: Final = {symbol: market for market, symbol in SYMBOLS.items()}
HIDDEN: Final = 64
REDUCE_ONLY: Final = 1024
POST_ONLY: Final = 4096
OCO: Final = 16_384
_ENDS: Final = (
    *("EXECUTED", "CANCELED", "POSTONLY", "IOC", "FILLORKILL", "INSUFFICIENT", "RSN_PAUSE"),
)
# Codes that say nothing about the order: unanswered in time, maintenance, rate limit, nonce.
PASSING: Final = {11010, 20060, 10114}


class Nonces:
    """Whole numbers that grow, of us since the epoch, also over clock steps."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


def signature(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha384).hexdigest()


def payload_of(wish: Wish) -> dict[str, Any]:
    """The payload of `on`."""
    kinds = {
        "limit": "LIMIT",
        "market": "MARKET",
        "stop": "STOP",
        "stop_limit": "STOP LIMIT",
        "trailing_stop": "TRAILING STOP",
    }
    kind = kinds[wish.kind]
    if wish.kind == "limit" and wish.tif in ("ioc", "fok"):
        kind = wish.tif.upper()
    flags = (
        HIDDEN * wish.hidden
        | POST_ONLY * wish.post_only
        | REDUCE_ONLY * wish.reduce_only
        | OCO * (wish.oco_stop is not None)
    )
    amount = wish.quantity if wish.side == "buy" else -wish.quantity
    body: dict[str, Any] = {
        "type": f"EXCHANGE {kind}",
        "symbol": SYMBOLS[wish.market],
        "amount": str(amount),
        "cid": wish.client,
        "flags": flags,
    }
    if wish.group:
        body["gid"] = wish.group
    if wish.kind in ("stop", "stop_limit"):
        body["price"] = str(wish.stop)
        if wish.kind == "stop_limit":
            body["price_aux_limit"] = str(wish.price)
    elif wish.kind == "trailing_stop":
        body["price_trailing"] = str(wish.trailing_offset)
    elif wish.price is not None:
        body["price"] = str(wish.price)
    if wish.oco_stop is not None:
        body["price_oco_stop"] = str(wish.oco_stop)
    if wish.expires_ms is not None:
        moment = datetime.fromtimestamp(wish.expires_ms // 1000, UTC)
        body["tif"] = moment.strftime("%Y-%m-%d %H:%M:%S")
    return body


def order_id(number: int) -> int:
    return OWN + number


def state_of(fields: Sequence[Any]) -> State:
    """State of an order from its array."""
    left, whole, status = Decimal(str(fields[6])), Decimal(str(fields[7])), str(fields[13])
    return State(
        number=int(fields[0]) - OWN,
        client=fields[2],
        market=MARKETS[fields[3]],
        side="buy" if whole > 0 else "sell",
        quantity=abs(whole),
        filled=abs(whole) - abs(left),
        ended=status.split(" ", 1)[0] in _ENDS,
        how=status,
    )


def fill_of(fields: Sequence[Any]) -> ToldFill:
    """Fill from the array of a trade."""
    amount, price = abs(Decimal(str(fields[4]))), Decimal(str(fields[5]))
    return ToldFill(int(fields[0]), int(fields[3]) - OWN, amount, price)
