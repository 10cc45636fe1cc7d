"""Operations of a Grape under way: a callback for each, which is called once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar, cast

from p2p.grenache.errors import GrenacheError

T = TypeVar("T")
Done: TypeAlias = Callable[[T | None, GrenacheError | None], None]  # with a result or an error
Begin: TypeAlias = Callable[[float, Callable[[T], None]], None]  # of the DHT node's


class Operation(Generic[T]):
    """Operation of the DHT node that has not ended."""

    __slots__ = ("_done", "_under_way")

    def __init__(self, done: Done[T], under_way: set[Operation[T]]) -> None:
        self._done = done
        self._under_way = under_way
        under_way.add(self)

    def finish(self, result: T) -> None:
        if self in self._under_way:
            self._under_way.discard(self)
            self._done(result, None)

    def fail(self, error: GrenacheError) -> None:
        if self in self._under_way:
            self._under_way.discard(self)
            self._done(None, error)


def settle(future: asyncio.Future[T], result: T | None, error: GrenacheError | None) -> None:
    """Pass the outcome of an operation to a future, unless its task was cancelled."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(cast(T, result))
