"""Seen window: bounded memory of message ids, for deduplication."""

from __future__ import annotations


class SeenWindow:
    """Remembers each id for at least `ttl` seconds, and at most `maximum` ids.

    Two generations of a plain dict instead of a time per id: a look-up is one or two dict probes and
    forgetting is free. An id lives between one and two `ttl`; under a flood of more than
    `maximum` / 2 ids within `ttl` it lives for at least the last `maximum` / 2 ids.
    """

    __slots__ = ("_current", "_half", "_previous", "_started", "_ttl")

    def __init__(self, ttl: float, maximum: int) -> None:
        self._ttl = ttl
        self._half = max(1, maximum // 2)
        self._current: dict[bytes, str] = {}
        self._previous: dict[bytes, str] = {}
        self._started: float | None = None

    def add(self, now: float, message_id: bytes, via: str) -> None:
        """Remember an id and the link that brought it first."""
        if self._started is None:
            self._started = now
        elif now - self._started >= self._ttl or len(self._current) >= self._half:
            self._previous, self._current = self._current, {}
            self._started = now
        self._current[message_id] = via

    def get(self, message_id: bytes) -> str | None:
        """Return the link that brought the id first, None if the id is not remembered."""
        via = self._current.get(message_id)
        return self._previous.get(message_id) if via is None else via

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._current or message_id in self._previous

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)
