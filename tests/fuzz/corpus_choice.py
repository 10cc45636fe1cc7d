"""Choice of the inputs of a fuzzer that are kept: few and short ones that reach the same code.

libFuzzer's own merge starts the program anew, which does not work for a Python module.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
TRACED = tuple(str(ROOT / package) + "/" for package in ("config", "exchange", "node", "p2p"))

Step = tuple[str, int, int]
"""File, line, and the line executed before it in the same call."""


def steps_of(run: Callable[[bytes], None], data: bytes) -> set[Step]:
    """Run an input; return the steps that it takes in this project's packages."""
    found: set[Step] = set()

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(TRACED):
            return None
        before = 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            found.add((file, frame.f_lineno, before))
            before = frame.f_lineno
            return line

        return line

    sys.settrace(call)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return found


def choose(
    run: Callable[[bytes], None], kept: Iterable[bytes], found: Iterable[bytes]
) -> list[bytes]:
    """Return those of `found` that take steps which neither `kept` nor shorter ones take."""
    reached: set[Step] = set()
    for data in kept:
        reached |= steps_of(run, data)
    chosen = []
    for data in sorted(set(found), key=lambda data: (len(data), data)):
        steps = steps_of(run, data)
        if steps - reached:
            reached |= steps
            chosen.append(data)
    return chosen


def keep(run: Callable[[bytes], None], seeds: list[bytes], found: Path, kept: Path) -> int:
    """Copy the inputs of `found` that are worth keeping to `kept`; return their number."""
    kept.mkdir(parents=True, exist_ok=True)
    present = [path.read_bytes() for path in sorted(kept.iterdir())]
    chosen = choose(
        run, [*seeds, *present], [p.read_bytes() for p in found.iterdir() if p.is_file()]
    )
    for data in chosen:
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return len(chosen)
