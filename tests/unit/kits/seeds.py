"""Seeds for tests that hold on any of them, and numbers of cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings


def seeds(count: int) -> list[Any]:
    """The first seed for every run, the others for the full run."""
    return [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, count))]


def cases(count: int) -> int:
    """This many cases, in the inner loop a quarter of them, as of hypothesis's examples."""
    return count * settings.default.max_examples // 100
