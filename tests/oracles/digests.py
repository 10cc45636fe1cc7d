"""Digests of what engines decide: all records and messages of every drain of a simulated network.

The simulation is deterministic, so one seed gives one digest. Two versions of the code that differ in a digest
write other records, send other messages, or do so in another order or at another time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import msgspec

from exchange.engine.engine import Engine
from exchange.model.ports import Send
from exchange.orders.engine_context import Drained
from tests.simulation.runner import for_each, run_one
from tests.simulation.watch import Watch

SIZE = 12  # bytes of a digest

# Sets of permissions have the order of the interpreter's hashes, which differ from process to process.
_encode = msgspec.json.Encoder(order="deterministic").encode


class Digest:
    """Hash of the drains of all nodes, in the order in which they happen."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=SIZE)
        self.drains = 0

    def add(self, number: int, drained: Drained) -> None:
        """Add a drain of node `number`."""
        self.drains += 1
        messages = [
            (m.to if isinstance(m, Send) else "", m.type, m.payload) for m in drained.messages
        ]
        self._hash.update(_encode((number, messages)))
        self._hash.update(_encode(drained.records))

    def __str__(self) -> str:
        return self._hash.hexdigest()


def digest_of(seed: int) -> str:
    """Run a seed; return `SEED DRAINS DIGEST OUTCOME`, where the outcome is `ok` or the broken invariant."""
    digest = Digest()
    seen = Watch.drained

    def drained(watch: Watch, number: int, engine: Engine, output: Drained) -> None:
        digest.add(number, output)
        seen(watch, number, engine, output)

    with patch.object(Watch, "drained", drained):
        outcome = run_one(seed, nasty=seed % 2 == 1)
    return f"{seed} {digest.drains} {digest} {outcome.failed or 'ok'}"


def digests(seeds: Iterable[int], jobs: int) -> Iterator[str]:
    """Digests in the order of the seeds; odd seeds have more faults of every kind."""
    return for_each(digest_of, seeds, jobs)
