"""Grenache (Bitfinex's microservice protocol) in Python, usable without the rest of this project."""
