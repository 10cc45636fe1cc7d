"""The node's application services: trading, operator, peers, positions, statements, market data."""
