"""Directory interface of a Grape, wherever it runs: `Link` over HTTP, `Grape` in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Address = tuple[str, int]
"""IPv4 address as text, and port."""

MAX_NAME = 256  # bytes of a service name; the DHT takes more, one datagram does not
MAX_VALUE = 1000  # bytes of a bencoded value (BEP 44)
MAX_SALT = 64  # bytes (BEP 44)


@dataclass(frozen=True, slots=True)
class MutableItem:
    """A signed, replaceable value (BEP 44). `seq` grows with each version; `cas`: the version it replaces."""

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
    """The DHT through some Grape. Every method raises `GrenacheError` when it cannot do its work."""

    async def announce(self, service: str, port: int) -> int:
        """Say that this machine serves `service` at `port`; entries fade after about two minutes.
        Returns how many DHT nodes hold it now, at least 1."""
        ...

    async def withdraw(self, service: str, port: int) -> int:
        """Take an announcement back, where that is possible; elsewhere it fades. Returns how many DHT
        nodes forgot it."""
        ...

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        """Look up the workers of `service`, in random order; empty when none is known. `fresh`: past any cache."""
        ...

    async def put(self, value: bytes) -> str:
        """Store an immutable value; its key, 40 hex digits."""
        ...

    async def put_mutable(self, item: MutableItem) -> str:
        """Store a signed value; its key."""
        ...

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        """The value of a key (40 hex digits), None when nobody has it."""
        ...
