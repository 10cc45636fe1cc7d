"""Seeds for tests that hold on any of them."""

from __future__ import annotations

from typing import Any

import pytest


def seeds(count: int) -> list[Any]:
    """The first seed for every run, the others for the full run."""
    return [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, count))]
