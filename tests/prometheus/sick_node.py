"""exchange-node that can be made sick: by files that a test makes, and by a clock that is wrong.

SLOW_FILE: commits take as many seconds as it says, while it is there. LAG_FILE: the event loop is blocked again and again
while it is there. CLOCK_OFFSET: seconds that the wall clock is ahead.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

OFFSET = float(os.environ.get("CLOCK_OFFSET", "0"))
LAG = 0.5  # seconds of each block
EVERY = 1.5  # seconds from one to the next: between them it answers

if OFFSET:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + OFFSET
    time.time_ns = lambda: _time_ns() + int(OFFSET * 1e9)

from exchange.engine.engine import Engine  # noqa: E402
from exchange.journal.journal import Journal  # noqa: E402
from exchange.model.records import Record  # noqa: E402
from node.cli.main import main  # noqa: E402

_commit, _tick = Journal.commit, Engine.tick
_blocked = 0.0  # time of the last block


def _there(variable: str) -> bool:
    return os.path.exists(os.environ.get(variable, "/nonexistent"))  # noqa: PTH110


def commit(self: Journal, records: Sequence[Record]) -> None:
    if records and _there("SLOW_FILE"):
        time.sleep(float(Path(os.environ["SLOW_FILE"]).read_text("ascii") or "0"))
    _commit(self, records)


def tick(self: Engine, now: float) -> None:
    global _blocked
    if now - _blocked >= EVERY and _there("LAG_FILE"):
        _blocked = now
        time.sleep(LAG)
    _tick(self, now)


if __name__ == "__main__":
    Journal.commit = commit  # type: ignore[method-assign]
    Journal.appends_only = False  # type: ignore[assignment] # a slow disk: the thread writes
    Engine.tick = tick  # type: ignore[method-assign]
    sys.exit(main())
