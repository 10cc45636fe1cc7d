"""Bitfinex's Grenache in Python, usable without the rest of this project."""
