"""Addresses of peers: address book, budget of first contacts, reconnect delays, peers remembered over restarts."""
