"""Oracles for changes that must not change behaviour: digests of the simulation, and everything a user can see."""
