"""Figures of one run over several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

Figures = TypeVar("Figures")

# Of these figures the smallest is the worst.
MORE_IS_BETTER = {
    "coverage",
    "reached_meanwhile",
    "links",
    "fewest_links",
    "in_one_piece",
    "found",
    "found_in_churn",
}


def over_seeds(found: Sequence[Figures]) -> list[Figures]:
    """Return the figures of one seed, or the medians and then the worst of several."""
    if len(found) == 1:
        return list(found)
    medians: dict[str, Any] = {}
    worst: dict[str, Any] = {}
    first: Any = found[0]
    for field in fields(first):
        values = [getattr(figures, field.name) for figures in found]
        if isinstance(values[0], str):
            medians[field.name] = values[0]
            worst[field.name] = f"{values[0]}: worst of {len(values)} seeds"
            continue
        medians[field.name] = statistics.median(values)
        worst[field.name] = (min if field.name in MORE_IS_BETTER else max)(values)
    return [replace(first, **medians), replace(first, **worst)]
