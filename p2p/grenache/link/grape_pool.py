"""Grape pool: requests to one or several Grapes, with failover."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import orjson

from p2p.grenache.errors import GrapeRefused, GrapeUnreachable, GrenacheError
from p2p.grenache.link.grape_answers import (
    MAX_ANSWER,
    NOT_FOUND,
    NotAGrape,
    VersionRefused,
    value_of,
)
from p2p.grenache.link.grape_health import GrapeReachability, Health
from p2p.grenache.link.http_post import Post

log = logging.getLogger(__name__)

T = TypeVar("T")
OnState = Callable[[str, bool, str], None]
"""Called with a Grape's URL, True if it answers now, and the reason."""

PROBE_TIMEOUT: Final = 2.0  # seconds
HEDGE: Final = (
    0.12  # seconds after which another Grape is requested too; a healthy one needs a few ms
)
# Seconds to each one after that, since several may be gone at once; and for one that was slow just now to
# confirm another's answer.
NEXT_HEDGE: Final = 0.01
AT_ONCE: Final = 3  # Grapes used by `several`
# Seconds for the others after the first of several has answered, where no caller waits.
GRACE: Final = 1.0


class GrapePool:
    """Grapes by number. The owner runs `watch` for each of them.

    Args:
        timeout: seconds for one request.
        on_state: called when a Grape begins or stops answering.
    """

    def __init__(
        self,
        urls: Sequence[str],
        post: Post,
        *,
        timeout: float,
        rng: random.Random,
        on_state: OnState | None = None,
    ) -> None:
        self.urls = tuple(urls)
        self._post = post
        self._timeout = timeout
        self._on_state = on_state
        self._now = asyncio.get_running_loop().time
        self._health = Health(self.urls, rng, self._now())
        self._look_again = [asyncio.Event() for _ in self.urls]
        self._rids = itertools.count(1)
        self.returned = asyncio.Event()
        """Set when a Grape that was down is back; each return has its own event."""

    def status(self) -> list[GrapeReachability]:
        """Status of each Grape, in the order of their URLs."""
        return self._health.status(self._now())

    # One Grape

    async def ask(self, grape: int, kind: str, data: Any) -> Any:
        """Send a request to one Grape and return the JSON value of its answer.

        Raises:
            GrapeUnreachable, GrapeRefused
        """
        url = self.urls[grape]
        body = orjson.dumps({"rid": str(next(self._rids)), "data": data})
        begun = self._now()
        self._health.asking(grape, begun)
        try:
            reply = await self._post(f"{url}/{kind}", body, timeout=self._timeout, limit=MAX_ANSWER)
            value = value_of(*reply)
        except TimeoutError:
            self._slow(grape)
            raise GrapeUnreachable(f"no answer in {self._timeout:g} s") from None
        except (GrapeUnreachable, NotAGrape) as error:
            self._failed(grape, error.detail)
            raise
        except GrapeRefused:
            self._answered(grape, self._now() - begun)
            raise
        self._answered(grape, self._now() - begun)
        return value

    async def watch(self, grape: int) -> None:
        """Probe one Grape when necessary, with an unknown request, which costs it nothing."""
        again = self._look_again[grape]
        body = orjson.dumps({"rid": "probe", "data": None})
        while True:
            again.clear()
            when = self._health.probe_at(grape)
            if when is None or when > self._now():
                try:
                    async with asyncio.timeout_at(when):
                        await again.wait()
                except TimeoutError:
                    pass
                continue
            begun = self._now()
            self._health.asking(grape, begun)
            try:
                reply = await self._post(
                    f"{self.urls[grape]}/probe", body, timeout=PROBE_TIMEOUT, limit=MAX_ANSWER
                )
                if value_of(*reply) != NOT_FOUND:
                    raise NotAGrape("it accepts a request that no Grape knows")
            except TimeoutError:
                if not self._health.heard_since(grape, begun):
                    self._failed(grape, f"no answer in {PROBE_TIMEOUT:g} s")
            except (GrapeUnreachable, GrapeRefused) as error:
                self._failed(grape, error.detail or error.code)
            else:
                self._answered(grape, None)

    def _answered(self, grape: int, latency: float | None) -> None:
        was_down = self._health.is_down(grape)
        if self._health.answered(grape, latency, self._now()):
            self._tell(grape, True, "it answers again" if was_down else "it answers")
        if was_down:
            returned, self.returned = self.returned, asyncio.Event()
            returned.set()

    def _failed(self, grape: int, reason: str) -> None:
        if self._health.failed(grape, reason, self._now()):
            self._tell(grape, False, reason)
        self._look_again[grape].set()

    def _slow(self, grape: int) -> None:
        self._health.slow(grape, self._now())
        self._look_again[grape].set()

    def _tell(self, grape: int, up: bool, reason: str) -> None:
        if self._on_state is not None:
            try:
                self._on_state(self.urls[grape], up, reason)
            except Exception:
                log.exception("on_state of a Link failed")

    # Several Grapes

    async def first(
        self, ask: Callable[[int], Awaitable[T]], good: Callable[[list[T]], bool]
    ) -> list[T]:
        """Request from one Grape after the other, the next when the last one failed, was slow or
        not sufficient. Returns the answers as soon as they are `good`, else all.

        Raises:
            GrapeUnreachable, GrapeRefused: no answer at all.
        """
        waiting = deque(self._health.order(self._now()))
        running: dict[asyncio.Task[T], tuple[int, float]] = {}
        answers: list[T] = []
        errors: dict[int, GrenacheError] = {}
        hedge_at = self._now() + HEDGE
        try:
            while True:
                if not (waiting or running or answers):
                    waiting.extend(self._resort(errors))
                if waiting:
                    grape = waiting.popleft()
                    running[_task(ask(grape))] = (grape, self._now())
                if not running:
                    break
                timeout = None
                if answers:  # an unconfirmed one does not wait for a Grape that hangs
                    timeout = max(0.0, self._confirmed_by(running) - self._now())
                elif waiting:
                    timeout = max(hedge_at - self._now(), NEXT_HEDGE)
                done, _ = await asyncio.wait(
                    running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if not done and not waiting:
                    self._mark_slow(running)
                    break
                for task in done:
                    grape, _ = running.pop(task)
                    try:
                        answers.append(task.result())
                    except VersionRefused:
                        raise
                    except GrenacheError as error:
                        errors[grape] = error
                        continue
                    if good(answers):
                        self._mark_slow(running)
                        return answers
        finally:
            await _cancel(running)
        if answers:
            return answers
        raise self._whole(errors)

    async def several(
        self, ask: Callable[[int], Awaitable[T]], *, patient: bool = False
    ) -> tuple[list[T], dict[int, GrenacheError]]:
        """Request from several Grapes at once, and from others in place of those that fail. Returns
        at least one answer, and the errors, when all have answered or the rest is late: `patient` waits for GRACE
        after the first answer, others only for as long again as that took, or HEDGE.

        Raises:
            GrapeUnreachable, GrapeRefused: no answer at all.
        """
        begun = self._now()
        waiting = deque(self._health.order(begun))
        running: dict[asyncio.Task[T], tuple[int, float]] = {}
        answers: list[T] = []
        errors: dict[int, GrenacheError] = {}
        first_took: float | None = None
        try:
            while True:
                if not (waiting or running or answers):
                    waiting.extend(self._resort(errors))
                while waiting and len(running) + len(answers) < AT_ONCE:
                    grape = waiting.popleft()
                    running[_task(ask(grape))] = (grape, self._now())
                if not running:
                    break
                timeout = None
                if answers:
                    if first_took is None:
                        first_took = self._now() - begun
                    until = begun + first_took + (GRACE if patient else first_took)
                    if not patient:
                        until = max(until, self._confirmed_by(running))
                    timeout = max(0.0, until - self._now())
                done, _ = await asyncio.wait(
                    running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    self._mark_slow(running)
                    for grape, since in running.values():
                        text = f"no answer in {self._now() - since:.1g} s"
                        errors[grape] = GrapeUnreachable(text)
                    break
                for task in done:
                    grape, _ = running.pop(task)
                    try:
                        answers.append(task.result())
                    except GrenacheError as error:
                        errors[grape] = error
        finally:
            await _cancel(running)
        if answers:
            return answers, errors
        raise self._whole(errors)

    def _mark_slow(self, running: dict[asyncio.Task[T], tuple[int, float]]) -> None:
        """Mark the Grapes that have not answered for long, while another one has."""
        for grape, since in running.values():
            if self._now() - since >= HEDGE - 1e-6:  # the timer's time is a rounded sum
                self._slow(grape)

    def _confirmed_by(self, running: dict[asyncio.Task[T], tuple[int, float]]) -> float:
        """Return the time until which Grapes may answer beside another that has answered."""
        now = self._now()
        return max(
            since + (NEXT_HEDGE if self._health.is_slow(grape, now) else HEDGE)
            for grape, since in running.values()
        )

    def _resort(self, errors: dict[int, GrenacheError]) -> list[int]:
        """Return the Grapes to try when none that was up has answered."""
        if _refusal(errors.values()) is not None:
            return []
        return [grape for grape in self._health.resort(self._now()) if grape not in errors]

    def _whole(self, errors: dict[int, GrenacheError]) -> GrenacheError:
        """Combine the errors of several Grapes into one: a refusal is more specific than a timeout."""
        refusal = _refusal(errors.values())
        if refusal is not None:
            return GrapeRefused(refusal.code, self.text(errors, known=refusal.code))
        silent = {
            grape: errors.get(grape) or GrapeUnreachable(one.detail)
            for grape, one in enumerate(self.status())
        }
        return GrapeUnreachable(self.text(silent))

    def text(self, errors: dict[int, GrenacheError], *, known: str = "") -> str:
        """Describe each Grape's error. `known`: code to leave out."""
        return "; ".join(
            f"{self.urls[grape]}: {_phrase(error, known)}" for grape, error in errors.items()
        )


def _phrase(error: GrenacheError, known: str) -> str:
    if error.detail and (error.code == known or isinstance(error, GrapeUnreachable | NotAGrape)):
        return error.detail
    return str(error)


def _task(work: Awaitable[T]) -> asyncio.Task[T]:
    async def run() -> T:
        return await work

    return asyncio.get_running_loop().create_task(run())


async def _cancel(tasks: dict[asyncio.Task[T], Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _refusal(errors: Iterable[GrenacheError]) -> GrapeRefused | None:
    """Return the most specific refusal, or None."""
    refusals = [error for error in errors if isinstance(error, GrapeRefused)]
    return min(refusals, key=lambda error: isinstance(error, NotAGrape), default=None)
