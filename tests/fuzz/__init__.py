"""Fuzzers of everything that reads bytes of others. See `tests.fuzz.__main__`."""
