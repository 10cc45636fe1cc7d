"""Shapes of API answers, and the mapping between texts outside and integers inside."""
