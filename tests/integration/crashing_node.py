"""`exchange-node` that kills itself (SIGKILL) at a named point. The product has no hooks for this: its
methods are wrapped from outside, then the usual command line runs. A link whose other side is silent is
given up in half the usual time: over Grenache nothing else tells of a death between two requests.

The file that CRASH_FILE names arms it while it exists; it is removed before the crash. It holds the
point, and the id of a process that is killed first, or 0:

    before-commit:RECORD 0   the journal is about to write a RECORD (exchange.model.records)
    after-commit:RECORD 0    it is durable; nothing that follows from it has left the node
    after-send:TYPE 0        a message of TYPE (exchange.feeds.exchange_messages) to one node is on the wire
    before-receive:TYPE 0    one has arrived and was not looked at
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from p2p.base import limits

limits.HEARTBEAT_INTERVAL /= 2  # type: ignore[misc]
limits.DEAD_AFTER /= 2  # type: ignore[misc] # before others read it

# ruff: noqa: E402
from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.model.records import Record
from node.cli.main import main
from p2p.overlay import Overlay

TURNS = 8  # of the loop from a `try_send` to the socket, and some more
CRASH_FILE = Path(os.environ["CRASH_FILE"])


def armed(*points: str) -> bool:
    try:
        return CRASH_FILE.read_text("ascii").split()[0] in points
    except FileNotFoundError:
        return False


def crash() -> None:
    """End both, or this one, as a power switch would."""
    other = int(CRASH_FILE.read_text("ascii").split()[1])
    CRASH_FILE.unlink()
    if other:
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def wrap_commit() -> None:
    commit = Journal.commit

    def crashing(self: Journal, records: Sequence[Record]) -> None:
        names = {type(record).__name__ for record in records}
        if armed(*(f"before-commit:{name}" for name in names)):
            crash()
        commit(self, records)
        if armed(*(f"after-commit:{name}" for name in names)):
            crash()

    Journal.commit = crashing


def wrap_send() -> None:
    try_send = Overlay.try_send

    def crashing(self: Overlay, to: str, message_type: str, payload: bytes) -> None:
        try_send(self, to, message_type, payload)
        if armed(f"after-send:{message_type}"):
            later(TURNS)

    Overlay.try_send = crashing


def later(turns: int) -> None:
    """Crash when the loop has gone round so often: what was to be sent is on the wire, and an answer
    cannot be here yet, for its writer's disk is slower."""
    if turns:
        asyncio.get_running_loop().call_soon(later, turns - 1)
    else:
        crash()


def wrap_receive() -> None:
    receive = Engine.receive

    def crashing(
        self: Engine, now: float, message_type: str, payload: bytes, origin: str, via: str
    ) -> bool:
        if armed(f"before-receive:{message_type}"):
            crash()
        return receive(self, now, message_type, payload, origin, via)

    Engine.receive = crashing


if __name__ == "__main__":
    wrap_commit()
    wrap_send()
    wrap_receive()
    main()
