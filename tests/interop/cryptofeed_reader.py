# mypy: ignore-errors
"""Read markets with cryptofeed, unmodified: books by level and by order, trades, tickers. Run by its own Python.

    python cryptofeed_reader.py HOST:PORT

At SIGTERM it prints what it got, counted, and its last books, as JSON. `SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE` name the
certificate of the node.
"""

import asyncio
import json
import logging
import sys
from collections import Counter

from cryptofeed import FeedHandler
from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import ASK, BID, L2_BOOK, L3_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Bitfinex

SYMBOLS = ["BTC-USD", "ETH-USD", "TEST-USD"]  # the second is empty, the third has bids alone
counts = Counter()
books = {L2_BOOK: {}, L3_BOOK: {}}
complaints = []


class Complaints(logging.Handler):
    def emit(self, record):
        complaints.append(record.getMessage())


def book_of(kind):
    async def got(book, received):
        counts[kind] += 1
        sides = {}
        for side in (BID, ASK):
            levels = book.book[side].to_dict()
            if kind == L3_BOOK:
                levels = {price: sum(orders.values()) for price, orders in levels.items()}
            sides[side] = {str(price): str(size) for price, size in levels.items()}
        books[kind][book.symbol] = sides

    return got


def counted(kind):
    async def got(value, received):
        counts[f"{kind} {value.symbol}"] += 1

    return got


def main():
    where = sys.argv[1]
    Bitfinex.websocket_endpoints = [WebsocketEndpoint(f"wss://{where}/ws/2", limit=20)]
    Bitfinex.rest_endpoints = [
        RestEndpoint(
            f"https://{where}", routes=Routes(Bitfinex.rest_endpoints[0].routes.instruments)
        )
    ]
    log = logging.getLogger("feedhandler")
    log.addHandler(Complaints(logging.WARNING))
    handler = FeedHandler()
    asyncio.set_event_loop(asyncio.new_event_loop())  # with uvloop 0.23 there is none by itself
    callbacks = {
        L2_BOOK: book_of(L2_BOOK),
        L3_BOOK: book_of(L3_BOOK),
        TRADES: counted(TRADES),
        TICKER: counted(TICKER),
    }
    handler.add_feed(Bitfinex(symbols=["BTC-USD"], channels=list(callbacks), callbacks=callbacks))
    quiet = {TICKER: callbacks[TICKER], TRADES: callbacks[TRADES]}
    handler.add_feed(Bitfinex(symbols=SYMBOLS[1:], channels=list(quiet), callbacks=quiet))
    print("running", flush=True)
    handler.run()
    print(json.dumps({"counts": counts, "books": books, "complaints": complaints}), flush=True)


if __name__ == "__main__":
    main()
