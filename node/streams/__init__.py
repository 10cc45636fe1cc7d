"""Streams of market and account data: numbered messages, made once for all who read them.

messages   every message there is, as types
checks     the checksums of books
views      a book in one detail and depth, and its changes
stream     numbers, the history that a reader resumes from, what a reader still lacks
public     the streams of a market: book, trades, ticker, candles
private    the streams of an account: orders, fills, balances
replica    a book at the other end, verified with every message
feeds      a subscription at the other end, as an async iterator
"""
