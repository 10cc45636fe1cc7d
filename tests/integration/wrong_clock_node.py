"""exchange-node whose wall clock is what the file `CLOCK_FILE` says: `+SECONDS`, `-SECONDS`, or `frozen` at the time
at which the file was written. Without the file it is right. Other clocks are left alone, as a clock that is set
leaves them."""

from __future__ import annotations

import os
import sys
import time

_time_ns = time.time_ns


def time_ns() -> int:
    path = os.environ["CLOCK_FILE"]
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123
            text = file.read().strip()
    except FileNotFoundError:
        return _time_ns()
    if text == "frozen":
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    return _time_ns() + int(text) * 1_000_000_000


time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9

from node.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
