"""Order book, candles and trades of a market on this node.

market        feeds of all owners, and the book of orders that can be traded from this node
order_book    price levels, priority, matching
market_rules  limits of size, value and price; trading halts
market_specs  rules and units of all markets
triggers      conditional orders by the price that triggers them
history_shares  shares of makers in a bounded history of trades, the tape in memory
candles       candles of every timeframe, statistics of 24 hours
"""
