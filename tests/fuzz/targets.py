"""Targets: functions of bytes that raise only when a fault was found.

A target checks more than that nothing is raised which its callers do not expect: what must hold whatever the
input is (the same frames in any pieces, nothing proven without a key, no journal that reads shorter than it is).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

NAMES = (
    "framing",
    "handshake",
    "messages",
    "exchange",
    "journal",
    "dht",
    "api",
    "bitfinex",
    "replies",
)


class Target(NamedTuple):
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def load(name: str) -> Target:
    """Import a target: late, so that coverage can be measured of what it imports."""
    module = import_module(f"tests.fuzz.{_MODULES[name]}")
    return Target(getattr(module, f"fuzz_{name}"), getattr(module, f"seeds_{name}"))


_MODULES = {
    "framing": "wire",
    "handshake": "wire",
    "messages": "wire",
    "exchange": "engine",
    "journal": "journal",
    "dht": "dht",
    "api": "dialects",
    "bitfinex": "dialects",
    "replies": "replies",
}


class Pieces:
    """Bytes of a fuzzer as numbers and pieces. Past the end all is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def piece(self) -> bytes:
        """A piece with its length in two bytes before it."""
        length = self.byte() << 8 | self.byte()
        self._at += length
        return self._data[self._at - length : self._at]

    def rest(self) -> bytes:
        start, self._at = self._at, len(self._data)
        return self._data[start:]


def piece(data: bytes) -> bytes:
    """Encode a piece."""
    return len(data).to_bytes(2, "big") + data
