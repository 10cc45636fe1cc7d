"""Quantiles of times that are counted in bins."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(bounds: Sequence[float], bins: Sequence[int], part: float) -> float | None:
    """Upper bound of the bin with this quantile: infinity beyond the last bound, None without counts.

    `bins` has one entry more than `bounds`, for what is beyond the last.
    """
    total = sum(bins)
    if not total:
        return None
    seen = 0
    for bound, count in zip((*bounds, float("inf")), bins, strict=True):
        seen += count
        if seen >= part * total:
            return bound
    raise AssertionError("the last bin has the rest")


def quantile_ms(bounds: Sequence[float], bins: Sequence[int], part: float) -> float | None:
    """`quantile` in milliseconds. Beyond the last bound it is twice that bound."""
    found = quantile(bounds, bins, part)
    return None if found is None else round(min(found, bounds[-1] * 2) * 1000, 3)
