"""Requests and responses between two nodes."""
