"""The exchange of one node, without I/O and without a network of its own: orders, feeds, takes, ledger, journal."""
