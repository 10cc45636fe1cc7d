"""The Bitfinex v2 dialect of the API, for programs that were written for that exchange.

REST under /v2 and a WebSocket at /ws/2, on the same server as the node's own API. Public are markets,
books, trades, tickers and candles; signed with an account's key its orders, trades, balances and ledger.
What each order, field and error becomes is in docs/api.md.
"""
