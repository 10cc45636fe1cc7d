"""The table of annexes, the only place that the rest of the program knows them by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

from node.parts.annex import ANNEXES, Annex

if TYPE_CHECKING:
    from config import Settings

NAMES: Final = (
    "bitfinex",
    "desk",
    "backup",
    "recovery",
    "standby",
    "export",
    "grenache",
    "tracing",
    "demos",
    "learn",
)


def wanted(node: Settings) -> Iterator[Annex]:
    """Yield the annexes that the settings of a node ask for."""
    for annex in annexes():
        if not annex.wanted or any(getattr(node, key) for key in annex.wanted):
            yield annex


def settings() -> list[type[Settings]]:
    """Return the settings that annexes declare."""
    return [annex.load(annex.settings) for annex in annexes() if annex.settings]


@cache
def annexes() -> tuple[Annex, ...]:
    """Return the declarations of the annexes whose folders are there, in the order of the table."""
    found = []
    for name in NAMES:
        package = f"{ANNEXES}.{name}"
        try:
            module = import_module(f"{package}.annex")
        except ModuleNotFoundError as error:
            if error.name not in (package, f"{package}.annex"):
                raise
        else:
            annex: Annex = module.ANNEX
            found.append(annex)
    return tuple(found)
