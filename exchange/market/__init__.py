"""One market on this node: order book, market rules and specs, triggers, candles."""
