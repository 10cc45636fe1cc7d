"""Clients of a Grape over HTTP: request pool, health, answers."""
