"""Foundations of the network packages, used by all of them.

Errors, limits, identity, HOST:PORT addresses, timers, token buckets, bounded maps, seen windows, causes of failed
connections.
"""
