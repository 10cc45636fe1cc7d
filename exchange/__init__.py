"""Exchange of one node, without I/O and without a network.

model    instruments, commands, events, records: the vocabulary of all other folders
market   order book, rules and specs of a market, triggers, candles
feeds    feeds of all owners, their replication, presence
ledger   double-entry ledger, accounts, statements
journal  write-ahead log, snapshots, archive
orders   parts of the order manager
takes    trading with other nodes' orders
engine   order manager, feed ingest, and the engine over all of them
"""
