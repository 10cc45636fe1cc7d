"""Mutation tests: deliberate small faults that some test has to notice. See `tests.mutation.__main__`."""
