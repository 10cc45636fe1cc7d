"""Errors in Bitfinex's form: HTTP 500 with `["error", code, text]`, or an `error` event.

Clients look for words in the text first (ccxt) and then at the code; some know only the codes 10000,
10001, 10020 and 10100 (bitfinex-api-py). `refusal` maps the node's own refusals.
"""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = 10000
NOT_ALLOWED: Final = 10001
BAD_PARAMETER: Final = 10020
BAD_AUTH: Final = 10100
OLD_NONCE: Final = 10114
RATE_LIMIT: Final = 11010
MAINTENANCE: Final = 20060

# On the WebSocket
SUBSCRIBE_FAILED: Final = 10300
ALREADY_SUBSCRIBED: Final = 10301
UNKNOWN_CHANNEL: Final = 10302
TOO_MANY_CHANNELS: Final = 10305
NOT_SUBSCRIBED: Final = 10401
RESTART: Final = 20051

RATE_TEXT: Final = "ratelimit: error"
ORDER_TEXT: Final = "Order not found."
SYMBOL_TEXT: Final = "symbol: invalid"

# Refusals of the node (`exchange.orders.engine_context.CommandRejected`) that are not about a parameter of the order.
_CODES: Final = {
    "unknown_order": NOT_ALLOWED,
    "order_done": NOT_ALLOWED,
    "insufficient_balance": NOT_ALLOWED,
    "account_frozen": NOT_ALLOWED,
    "unknown_account": BAD_AUTH,
    "too_many_orders": UNKNOWN,
    "halted": UNKNOWN,
    "stale_data": UNKNOWN,
    "starting": MAINTENANCE,
    "storage_failed": MAINTENANCE,
    "rate_limited": RATE_LIMIT,
}


class BitfinexError(Exception):
    """A refusal. `text` goes to the client, which may look for words in it."""

    def __init__(self, code: int, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.status = status


def bad(what: str, why: str = "") -> BitfinexError:
    """Parameter `what` is wrong."""
    return BitfinexError(BAD_PARAMETER, f"{what}: invalid{': ' if why else ''}{why}")


def bad_symbol() -> BitfinexError:
    return BitfinexError(BAD_PARAMETER, SYMBOL_TEXT)


def unknown_path() -> BitfinexError:
    return BitfinexError(UNKNOWN, "path: unknown", 404)


def order_not_found() -> BitfinexError:
    return BitfinexError(NOT_ALLOWED, ORDER_TEXT)


def rate_limited() -> BitfinexError:
    return BitfinexError(RATE_LIMIT, RATE_TEXT, 429)


def refusal(code: str, detail: str) -> BitfinexError:
    """Translate a refusal of the node into the dialect, with the words that clients look for in front."""
    if code == "rate_limited":
        return rate_limited()
    text = detail
    if code in ("unknown_order", "order_done"):
        text = f"{ORDER_TEXT} {detail}"
    elif code == "insufficient_balance":
        text = f"not enough exchange balance: {detail}"
    elif code == "unknown_market":
        text = SYMBOL_TEXT
    return BitfinexError(_CODES.get(code, BAD_PARAMETER), text)
