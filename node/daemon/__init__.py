"""A running node: assembly, start and stop, status, metrics, embedding."""
