"""Handling of frames in turns: the links of one event loop and the order of `p2p.wire.link_turns`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from p2p.base.limits import TURN_TIME
from p2p.wire.link_turns import NEGLIGIBLE, LinkTurns


class Reader(Hashable, Protocol):
    """A link that reads."""

    @property
    def flow(self) -> Hashable:
        """Links of equal flows share their turns."""

    def take_turn(self, until: float) -> bool:
        """Handle frames, at least one, until `perf_counter` reaches `until`; returns True if some may be left."""


@dataclass(slots=True, frozen=True)
class _DeferredWork:
    """Work that takes turns like a link."""

    key: Hashable
    flow: Hashable
    step: Callable[[], bool] = field(compare=False)

    def take_turn(self, until: float) -> bool:
        while self.step():
            if perf_counter() >= until:
                return True
        return False


class ReadTurns:
    """Turns of links. New flows are served as their frames arrive, and of those that wait one for each turn of the event
    loop.
    """

    def __init__(self) -> None:
        self._turns: LinkTurns[Reader] = LinkTurns(TURN_TIME)
        self._due = False

    def ready(self, link: Reader) -> bool:
        """Serve a link with frames at once if its flow is new; returns False if it has to wait for its turn."""
        seconds = self._turns.allowance(link.flow)
        if not seconds:
            self._turns.arrived(link, link.flow)
            self._schedule()
            return False
        begin = perf_counter()
        more = link.take_turn(begin + seconds)
        used = perf_counter() - begin
        if more or seconds < TURN_TIME or used >= NEGLIGIBLE * TURN_TIME:
            self._turns.arrived(link, link.flow)
            self._turns.charge(link, link.flow, used, more=more)
            self._schedule()
        return True

    def defer(self, key: Hashable, flow: Hashable, step: Callable[[], bool]) -> None:
        """Call `step` in turns of `flow`, which no link has, until it returns False. One `key` is one link of the flow."""
        self._turns.arrived(_DeferredWork(key, flow, step), flow)
        self._schedule()

    def gone(self, link: Reader) -> None:
        """Forget a link."""
        self._turns.gone(link, link.flow)

    def _schedule(self) -> None:
        if self._turns.waiting and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._due = False
        chosen = self._turns.next()
        if chosen is not None:
            link, seconds = chosen
            begin = perf_counter()
            more = link.take_turn(begin + seconds)
            self._turns.charge(link, link.flow, perf_counter() - begin, more=more)
        self._schedule()
