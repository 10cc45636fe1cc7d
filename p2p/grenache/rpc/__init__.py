"""Grenache RPC over HTTP and WebSocket: workers, clients, publishers, subscribers."""
