"""Drop copy: what the journal holds, streamed into a database or onto a bus outside, in the order of the journal.

Theory of operation. A process of its own (`exchange-node export run`, started by the node) reads the log's files
while the node writes them, so that an order costs the node nothing. A sink stores the position that it holds, the
number of a frame, in the transaction that stores the rows, so that every row is there exactly once whatever ends
when. `position_file` says to the node how far the sink is: so much log is kept for it, up to a bound. A sink that
needs older frames gets orders, fills and postings out of the archive, and the rest from the oldest frame kept.

    tables           the tables, their columns and keys
    rows             records of the journal -> rows; market_rows: events of all feeds -> rows
    journal_source   frames, and what the archive has of earlier ones
    sink             what an engine has to do: the interface, its errors
    postgres_sink    PostgreSQL; postgres_schema has its tables and views
    nats_sink        NATS JetStream; nats_messages: rows <-> messages; nats_connection; nats_tickers
    sinks            which sinks the settings ask for, and how each is opened
    exporter         the loop from source to sink
    verification     comparison of journal and sink
    position_file    progress, for the node
    export_process   the node's part: the processes, their end, their figures
"""
