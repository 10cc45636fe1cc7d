"""Errors in Bitfinex's form: HTTP 500 with `["error", code, text]`, or an `error` event."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = 10000
BAD_PARAMETER: Final = 10020
BAD_AUTH: Final = 10100
RATE_LIMIT: Final = 11010

# On the WebSocket
SUBSCRIBE_FAILED: Final = 10300
ALREADY_SUBSCRIBED: Final = 10301
UNKNOWN_CHANNEL: Final = 10302
TOO_MANY_CHANNELS: Final = 10305
NOT_SUBSCRIBED: Final = 10401
RESTART: Final = 20051


class BitfinexError(Exception):
    """A refusal. `text` goes to the client, which may look for words in it."""

    def __init__(self, code: int, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.status = status


def bad_symbol() -> BitfinexError:
    return BitfinexError(BAD_PARAMETER, "symbol: invalid")
