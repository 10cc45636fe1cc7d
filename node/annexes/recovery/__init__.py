"""Bring an old data directory up to date with what peers hold of its node."""
