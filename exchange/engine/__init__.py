"""Engine of one node.

engine         commands, messages and time in, records and messages out
order_manager  commands on own orders, and the parts that carry them out
feed_ingest    feeds of other owners
recovery       own feeds of a restored node, fetched from others
recovery_settlement  orders and money brought in line with the fetched feeds
lost_trades    own trades that a restored journal lacks, report of a recovery
"""
