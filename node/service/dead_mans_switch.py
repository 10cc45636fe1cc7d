"""Dead man's switch (`cancel_after`): cancels open orders of an account without a sign of life. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping

_PREFIX = "dead_man:"  # before an account's number: its deadline, in the journal's meta data


class DeadMansSwitch:
    """Deadlines by account, in us since the epoch."""

    def __init__(self, stored: Mapping[str, int] | None = None) -> None:
        """`stored`: values returned earlier by `set` and `due`."""
        self._deadlines = {
            int(name.removeprefix(_PREFIX)): at
            for name, at in (stored or {}).items()
            if name.startswith(_PREFIX) and at
        }

    def set(self, account: int, at: int | None) -> tuple[str, int]:
        """Set the deadline of an account; None removes it. Returns the value to store."""
        if at is None:
            self._deadlines.pop(account, None)
        else:
            self._deadlines[account] = at
        return f"{_PREFIX}{account}", at or 0

    def next(self) -> int | None:
        """Return the earliest deadline."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: int) -> list[int]:
        """Accounts whose deadline has passed."""
        return [account for account, at in self._deadlines.items() if at <= now]
