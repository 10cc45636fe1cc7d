"""Peer addresses: address book, reconnect delays, peers remembered over restarts."""
