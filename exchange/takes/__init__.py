"""Trading with other nodes' orders.

take_protocol      state of both halves of the protocol: pending takes, decisions
taker_side         takes of other owners' orders
maker_side         takes by other owners
fill_or_kill       all of an order at once, by two-phase commit over several owners
maker_conduct      counts of what other owners did with this node's takes
reservation_quota  limits on reservations of others that are never committed
credit             credit limits of other nodes
"""
