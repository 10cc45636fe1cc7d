"""Instruments of the tests: markets with coarse steps, in which numbers of lots are short."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from exchange.model.instruments import Instruments

COARSE: Final = Instruments.load(
    Path(__file__).parents[2] / "fixtures" / "v0_1_0" / "instruments.toml"
)
"""The default markets of version 0.1.0."""
