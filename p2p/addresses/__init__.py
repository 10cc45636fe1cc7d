"""Addresses of peers: address book, reconnect delays, peers remembered over restarts."""
