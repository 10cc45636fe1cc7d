"""Streams of market and account data: numbered messages, made once for all readers.

stream           numbers, the history from which a reader resumes, messages that a reader lacks
stream_registry  streams by name: made on first use, shared, closed after the last reader
stream_messages  messages of the streams, as types
order_messages   messages about orders, as types
node_messages    messages about the node itself, as types
market_streams   the streams of a market: book, trades, ticker, candles
account_streams  the streams of an account: orders, fills, balances
node_streams     the streams about the node itself
book_views       a book in one detail and depth, and its changes
book_checksums   the checksums of books
"""
