"""Requests and responses between two nodes: `requests` without I/O, `rpc` on the event loop."""
