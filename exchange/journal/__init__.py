"""Journal of a node: everything that must survive a restart, and the history for queries.

journal             commits, recovery, and the thread behind them
frames              numbered, checksummed records of an append-only file
write_ahead_log     segment files of frames, their reader
anchor              owner of the journal, last position of its log
completeness        refusal of journals that lack acknowledged frames
snapshots           the state after a frame, so that earlier frames need not be read
state               fold of the records into the state for a restart
archive             finished orders, fills and postings in SQLite
market_history      public trades and candles in SQLite
export              records in the order of writing, archived ones first
journal_reader      reader of a journal that another process may be writing
repair              records before the first damage, report of the loss
verification        checks of a journal, without changing a byte
sqlite              opening of SQLite files with derived data
"""
