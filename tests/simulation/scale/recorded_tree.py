"""Calls of one node's broadcast tree, made again on a tree by itself.

With hundreds of trees in one process each finds its data out of the processor's caches. A node has one tree: what that
costs is measured by repeating the calls of a few nodes, in their order, without the rest of the model.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from p2p.mesh.broadcast_tree import BroadcastTree

REPEATS = 5  # of which the fastest counts: the machine has other work

Call = tuple[float, str, tuple[Any, ...], dict[str, Any]]  # time, method, arguments


class RecordedTree(BroadcastTree[bytes]):
    """A tree that notes the calls that its node makes."""

    def __init__(self, emit: Callable[..., None], clock: Callable[[], float]) -> None:
        super().__init__(emit)
        self.calls: list[Call] = []
        self._clock = clock
        self._inside = False

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        method = getattr(super(), name)
        if self._inside:
            return method(*args, **kwargs)
        self.calls.append((self._clock(), name, args, kwargs))
        self._inside = True
        try:
            return method(*args, **kwargs)
        finally:
            self._inside = False


def _recorded(name: str) -> Any:
    def call(self: RecordedTree, *args: Any, **kwargs: Any) -> Any:
        return self._note(name, args, kwargs)

    return call


for _name in (
    "link_up",
    "link_down",
    "add",
    "duplicate",
    "on_announcement",
    "on_pull",
    "on_prune",
    "on_branch",
    "tick",
):
    setattr(RecordedTree, _name, _recorded(_name))


def replayed(trees: list[RecordedTree], start: float, end: float) -> float:
    """Return the processor time, in seconds, of all calls from `start` to `end`."""
    total = 0.0
    for tree in trees:
        # Copied, as a node decodes what it receives: not spread over the memory of the whole run.
        calls = pickle.loads(pickle.dumps(tree.calls))
        total += min(_replay(calls, start, end) for _ in range(REPEATS))
    return total


def _replay(calls: list[Call], start: float, end: float) -> float:
    tree: BroadcastTree[bytes] = BroadcastTree(lambda peers, message: None)
    measured: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    for at, name, args, kwargs in calls:
        method = getattr(tree, name)
        if at < start:
            method(*args, **kwargs)
        elif at < end:
            measured.append((method, args, kwargs))
    began = time.thread_time()
    for method, args, kwargs in measured:
        method(*args, **kwargs)
    return time.thread_time() - began
