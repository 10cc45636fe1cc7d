"""The engine: order manager, fast path and feed ingest over all markets of one node."""
