"""Directory interface of a Grape: `Link` over HTTP, `Grape` in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Address = tuple[str, int]
"""IPv4 address as text, and port."""

MAX_NAME = 256  # bytes of a service name; the DHT allows more, but not one datagram
MAX_VALUE = 1000  # bytes of a bencoded value (BEP 44)
MAX_SALT = 64  # bytes (BEP 44)


@dataclass(frozen=True, slots=True)
class MutableItem:
    """Signed, replaceable value (BEP 44). `seq` grows with each version; `cas`: the version it
    replaces."""

    public_key: bytes
    seq: int
    value: bytes
    signature: bytes
    salt: bytes = b""
    cas: int | None = None


@dataclass(frozen=True, slots=True)
class StoredValue:
    """Result of `get`. Immutable values have only `value`; signatures have been checked."""

    value: bytes
    public_key: bytes | None = None
    seq: int | None = None
    signature: bytes | None = None
    salt: bytes = b""


class Directory(Protocol):
    """Access to the DHT through a Grape. All methods raise `GrenacheError` on failure."""

    async def announce(self, service: str, port: int) -> int:
        """Announce that this machine serves `service` at `port`; entries expire after about two
        minutes. Returns the number of DHT nodes that store it, at least 1."""
        ...

    async def withdraw(self, service: str, port: int) -> int:
        """Withdraw an announcement where Grapes support it; elsewhere it expires. Returns the
        number of DHT nodes that removed it."""
        ...

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        """Look up the workers of `service`, in random order; empty when none is known. `fresh`:
        bypass caches."""
        ...

    async def put(self, value: bytes) -> str:
        """Store an immutable value and return its key, 40 hex digits."""
        ...

    async def put_mutable(self, item: MutableItem) -> str:
        """Store a signed value and return its key."""
        ...

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        """Return the value of a key (40 hex digits), or None."""
        ...
