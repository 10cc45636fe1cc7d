"""Dishonest nodes for the simulation: identities that break the protocol among nodes that keep it."""
