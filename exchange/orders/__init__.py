"""Order management: parts of the order manager and the state that they share.

engine_context      markets, feeds, ledger, and the output of the next drain
order_store         own orders in memory, their indexes, and their display in the feed
order_validation    acceptance of new orders
amendments          changes to open orders
matching            own orders against the book
fills               recording of trades
conditional_orders  stops, trailing stops and order pairs
reduce_only         limits of reduce-only orders
"""
