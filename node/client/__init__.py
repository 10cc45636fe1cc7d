"""Async clients of a node's API and streams."""
