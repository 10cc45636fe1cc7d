"""The bots of a soak: what a bot can do, whatever its API, and the habits that it does it by.

A bot does one thing at a time. What is not answered is asked again, with the same client id, until it is:
the record then says what this client was told, and the nodes are held to it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol, TypeVar

from tests.soak.told import Known, Record, Refusal, Side, State, Unanswered, Wish

T = TypeVar("T")

RETRY: Final = 0.3  # seconds
SWITCH_MS: Final = 4000  # of a dead man's switch
SILENCE: Final = 8.0  # seconds: how long after a shorter one was armed all has to be over
RESTARTED: Final = 25.0  # the same for a switch that is in the journal, with a restart in it
# Refusals that a bot with these habits may get. Any other is a fault.
EXPECTED: Final = frozenset(
    {
        *("insufficient_balance", "order_done", "halted", "account_frozen", "reduce_only"),
        *("too_many_orders", "price_band", "bad_order", "out_of_range", "10001", "10000", "10020"),
    }
)


@dataclass(frozen=True)
class Ground:
    """A market as the bots see it: where its price wanders, in steps of the market."""

    market: str
    tick: Decimal
    lot: Decimal
    middle: int  # ticks
    spread: int  # ticks: the scale of all distances
    size: int  # lots: of a usual order

    def fair(self, now: float) -> int:
        """Ticks; a slow wave with a quick one on it. `now` is seconds since the start."""
        wave = math.sin(now / 19) + 0.4 * math.sin(now / 3.1)
        return self.middle + int(self.spread * wave)

    def price(self, ticks: int) -> Decimal:
        return self.tick * max(1, ticks)

    def quantity(self, lots: int) -> Decimal:
        return self.lot * max(1, lots)


GROUNDS: Final = (
    Ground("BTC-USD", Decimal("0.1"), Decimal("0.00001"), 300_000, 40, 3_000),
    Ground("ETH-USD", Decimal("0.01"), Decimal("0.0001"), 200_000, 60, 4_000),
    Ground("TEST-USD", Decimal("0.01"), Decimal(1), 1_000, 6, 10),
)


class Api(Protocol):
    """One client of one account. Requests raise `Refusal` or `Unanswered`."""

    name: str
    streams: bool  # whether news come by themselves
    heard: int  # messages that did

    def heard_all(self, restarted: bool) -> bool:
        """True if news of every end had to arrive without a request, given restarts of the node."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def place(self, wish: Wish) -> State: ...
    async def amend(
        self, number: int, quantity: Decimal | None, price: Decimal | None
    ) -> State: ...
    async def cancel(self, number: int) -> State: ...
    async def cancel_all(self, group: int | None = None) -> list[State]: ...
    async def look(self, number: int) -> State: ...
    async def fills(self) -> None: ...


@dataclass
class Bot:
    """`clock` is seconds since the start of the soak. `pause` is the mean wait between two acts."""

    api: Api
    record: Record
    rng: random.Random
    habit: Callable[[Bot], Awaitable[None]]
    clock: Callable[[], float]
    pause: float
    calm_since: Callable[[float], bool]  # whether there was no fault since then (monotonic seconds)
    latencies: list[float] = field(default_factory=list)  # seconds: of submissions answered at once
    acts: int = 0
    retries: int = 0
    silences: int = 0  # that a dead man's switch ended
    _next_client: int = 1

    async def run(self, stop: asyncio.Event) -> None:
        """Act until `stop`; then everything that was asked for has an answer."""
        while not stop.is_set():
            try:
                await self.habit(self)
                await self._catch_up()
            except Refusal as refusal:
                self.record.refused[refusal.code] += 1
                if refusal.code not in EXPECTED:
                    self.record.fault(f"an unexpected refusal: {refusal}")
            self.acts += 1
            await asyncio.sleep(self.rng.expovariate(1 / self.pause))

    # Acts

    def wish(self, ground: Ground, side: Side, lots: int, ticks: int | None, **more: Any) -> Wish:
        self._next_client += 1
        price = None if ticks is None else ground.price(ticks)
        quantity = ground.quantity(lots)
        return Wish(
            client=self._next_client,
            market=ground.market,
            side=side,
            quantity=quantity,
            price=price,
            **more,
        )

    async def place(self, wish: Wish) -> Known:
        self.record.wishes[wish.client] = wish
        began, retries = time.perf_counter(), self.retries
        try:
            state = await self.insist(lambda: self.api.place(wish))
        except Refusal:
            self.record.wishes.pop(wish.client, None)
            raise
        if self.retries == retries:
            self.latencies.append(time.perf_counter() - began)
        return self.record.acknowledged(wish, state)

    async def amend(
        self, number: int, quantity: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        self.record.asked(number, quantity, price)
        try:
            state = await self.insist(lambda: self.api.amend(number, quantity, price))
        except Refusal as refusal:
            await self._refused(number, refusal)
            raise
        self.record.told(state)

    async def cancel(self, number: int) -> None:
        try:
            state = await self.insist(lambda: self.api.cancel(number))
        except Refusal as refusal:
            await self._refused(number, refusal)
            raise
        self.record.told(state).cancelled = True

    async def _refused(self, number: int, refusal: Refusal) -> None:
        """An order that cannot be changed has ended, or ends when other nodes have answered: ask which."""
        if refusal.code == "order_done":
            await self.look(number)

    async def _catch_up(self) -> None:
        """Read orders where no stream brings news of them."""
        if not self.api.streams:
            for known in self.record.open[:3]:
                await self.look(known.first.number)

    async def cancel_all(self, group: int | None = None) -> None:
        for state in await self.insist(lambda: self.api.cancel_all(group)):
            self.record.told(state).cancelled = True

    async def look(self, number: int) -> State:
        state = await self.insist(lambda: self.api.look(number))
        self.record.told(state)
        return state

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer."""
        while True:
            try:
                return await ask()
            except Unanswered:
                self.record.unanswered += 1
                self.retries += 1
                await asyncio.sleep(RETRY)

    # Choices

    @property
    def now(self) -> float:
        return self.clock()

    def ground(self) -> Ground:
        return self.rng.choice(GROUNDS)

    def side(self) -> Side:
        return "buy" if self.rng.random() < 0.5 else "sell"

    def lots(self, ground: Ground) -> int:
        return max(1, round(ground.size * self.rng.lognormvariate(0, 0.7)))

    def away(self, ground: Ground, side: Side, distance: float) -> int:
        """A price this many spreads behind the fair one; below 0: beyond it, so that it trades."""
        sign = 1 if side == "buy" else -1
        return ground.fair(self.now) - round(sign * distance * ground.spread)

    def any_open(self) -> Known | None:
        known = self.record.open
        return self.rng.choice(known) if known else None


# Habits. Each is one act.


async def make(bot: Bot) -> None:
    """Quote on both sides, move quotes after the price, cancel old ones."""
    resting = bot.record.open
    chance = bot.rng.random()
    if len(resting) > 14:
        await bot.cancel(resting[0].first.number)
    elif chance < 0.55 or not resting:
        ground, side = bot.ground(), bot.side()
        price = bot.away(ground, side, bot.rng.uniform(0.1, 2.0))
        await bot.place(
            bot.wish(ground, side, bot.lots(ground), price, post_only=bot.rng.random() < 0.4)
        )
    elif chance < 0.8:
        await _move(bot, bot.rng.choice(resting))
    elif chance < 0.97:
        await bot.cancel(bot.rng.choice(resting).first.number)
    else:
        await bot.cancel_all()


async def _move(bot: Bot, known: Known) -> None:
    """Change a quote: its price, its quantity, or both."""
    if known.wish is None or known.wish.price is None:
        await bot.look(known.first.number)
        return
    ground = next(g for g in GROUNDS if g.market == known.first.market)
    price = quantity = None
    if bot.rng.random() < 0.6:
        price = ground.price(bot.away(ground, known.first.side, bot.rng.uniform(0.1, 2.0)))
    if price is None or bot.rng.random() < 0.3:
        quantity = known.filled + ground.quantity(bot.lots(ground))
    await bot.amend(known.first.number, quantity, price)


async def take(bot: Bot) -> None:
    """Trade at once: IOC, fill-or-kill, at the market, or a limit that crosses."""
    ground, side = bot.ground(), bot.side()
    lots = max(1, bot.lots(ground) // 2)
    price = bot.away(ground, side, -bot.rng.uniform(0.5, 2.5))
    chance = bot.rng.random()
    if chance < 0.35:
        await bot.place(bot.wish(ground, side, lots, price, tif="ioc"))
    elif chance < 0.65:
        await bot.place(bot.wish(ground, side, 2 * lots, price, tif="fok"))
    elif chance < 0.85:
        await bot.place(bot.wish(ground, side, lots, None, kind="market"))
    elif chance < 0.95:
        await bot.place(bot.wish(ground, side, lots, price))
    else:
        await bot.insist(bot.api.fills)
    if len(bot.record.open) > 10:
        await bot.cancel_all()


async def trigger(bot: Bot) -> None:
    """Conditional orders: stops, stop-limits, trailing stops, pairs."""
    known = bot.any_open()
    if known is not None and (len(bot.record.open) > 10 or bot.rng.random() < 0.25):
        await bot.cancel(known.first.number)
        return
    ground, side = bot.ground(), bot.side()
    lots = bot.lots(ground)
    beyond = bot.away(ground, side, -bot.rng.uniform(0.2, 1.0))
    stop = ground.price(beyond)
    sign = 1 if side == "buy" else -1
    chance = bot.rng.random()
    if chance < 0.3:
        wish = bot.wish(ground, side, lots, None, kind="stop", stop=stop)
    elif chance < 0.6:
        limit = beyond + sign * ground.spread
        wish = bot.wish(ground, side, lots, limit, kind="stop_limit", stop=stop)
    elif chance < 0.8:
        trailing_offset = ground.price(ground.spread)
        wish = bot.wish(
            ground, side, lots, None, kind="trailing_stop", trailing_offset=trailing_offset
        )
    else:
        behind = bot.away(ground, side, bot.rng.uniform(0.2, 1.0))
        wish = bot.wish(ground, side, lots, behind, oco_stop=stop)
    await bot.place(wish)


async def lurk(bot: Bot) -> None:
    """Orders that show less than they are: hidden ones, and icebergs where the API has them."""
    known = bot.any_open()
    if known is not None and (len(bot.record.open) > 8 or bot.rng.random() < 0.3):
        if bot.rng.random() < 0.5:
            await bot.cancel(known.first.number)
        else:
            await _move(bot, known)
        return
    ground, side = bot.ground(), bot.side()
    lots = 3 * bot.lots(ground)
    price = bot.away(ground, side, bot.rng.uniform(-0.3, 0.6))
    if bot.api.name == "native" and bot.rng.random() < 0.6:
        display_quantity = ground.quantity(max(1, lots // 5))
        await bot.place(bot.wish(ground, side, lots, price, display_quantity=display_quantity))
    else:
        await bot.place(bot.wish(ground, side, lots, price, hidden=True))


async def expire(bot: Bot) -> None:
    """Orders in groups that end at a time, if they are not cancelled with their group first."""
    ground, side = bot.ground(), bot.side()
    group = bot.rng.randint(1, 5)
    if bot.rng.random() < 0.2:
        await bot.cancel_all(group)
        return
    expires = (int(time.time()) + bot.rng.randint(2, 8)) * 1000
    price = bot.away(ground, side, bot.rng.uniform(0.0, 1.5))
    wish = bot.wish(
        *(ground, side, bot.lots(ground), price), tif="gtd", expires_ms=expires, group=group
    )
    await bot.place(wish)


async def spend(bot: Bot) -> None:
    """More than the account has, now and then; sales that may only reduce."""
    ground, side = bot.ground(), bot.side()
    chance = bot.rng.random()
    if chance < 0.3:
        await bot.place(bot.wish(ground, side, ground.size * 500, bot.away(ground, side, 1.0)))
    elif chance < 0.5:
        crossing = bot.away(ground, "sell", -1.0)
        wish = bot.wish(ground, "sell", ground.size, crossing, reduce_only=True, tif="ioc")
        if bot.api.name == "native":
            await bot.place(wish)
    elif chance < 0.9:
        await bot.place(bot.wish(ground, side, bot.lots(ground), bot.away(ground, side, 0.5)))
    else:
        await bot.cancel_all()
    if len(bot.record.open) > 10:
        await bot.cancel(bot.record.open[0].first.number)


async def die(bot: Bot) -> None:
    """Quotes behind a dead man's switch: silence, or the end of the connection, has to end them all."""
    if bot.rng.random() < 0.1 and bot.record.open:
        await _fall_silent(bot)
        return
    if len(bot.record.open) > 10:
        await bot.cancel_all()
    ground, side = bot.ground(), bot.side()
    arm = getattr(bot.api, "cancel_after", None)
    if arm is not None:
        await bot.insist(lambda: arm(SWITCH_MS))
    price = bot.away(ground, side, bot.rng.uniform(0.1, 1.5))
    await bot.place(bot.wish(ground, side, bot.lots(ground), price))


async def _fall_silent(bot: Bot) -> None:
    """Say nothing until the switch has ended all orders. A node that was killed cannot see a connection
    end, so there only a silence without faults counts. The native switch is in the journal and has to act
    in any case; what waits for other nodes' answers is not counted."""
    mine = [known.first.number for known in bot.record.open]
    drop = getattr(bot.api, "drop", None)
    arm = getattr(bot.api, "cancel_after", None)
    if drop is not None:
        await drop()
    elif arm is not None:
        await bot.insist(lambda: arm(1000))
    else:
        return
    began = time.monotonic()
    left: list[State] = []
    while time.monotonic() < began + (SILENCE if drop is not None else RESTARTED):
        await asyncio.sleep(0.5)
        left = [state for n in mine if not (state := await bot.look(n)).ended]
        if not left:
            bot.silences += 1
            return
    free = [state for state in left if not state.how.startswith("pending")]
    if bot.calm_since(began) or (arm is not None and free):
        bot.record.fault(f"the dead man's switch left these open: {left}")
    await bot.cancel_all()
