"""The Bitfinex v2 dialect of the API, for programs that were written for that exchange.

REST under /v2 and a WebSocket at /ws/2, on the same server as the node's own API. What is here is the
public part: markets, books, trades, tickers and candles. Authenticated calls are answered with an error.
"""

from node.bitfinex.server import add_bitfinex

__all__ = ["add_bitfinex"]
