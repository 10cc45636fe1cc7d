"""Record of all requests and answers of a soak's clients, to which the nodes are held at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Side = Literal["buy", "sell"]
Kind = Literal["limit", "market", "stop", "stop_limit", "trailing_stop"]


class Refusal(Exception):
    """The node answered that it did nothing. `code` is its dialect's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class Unanswered(Exception):
    """No answer: it may have been done, or not."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An order that a bot wants. `client` is its client id in every dialect."""

    client: int
    market: str
    side: Side
    quantity: Decimal
    price: Decimal | None = None
    kind: Kind = "limit"
    tif: Literal["gtc", "ioc", "fok", "gtd"] = "gtc"
    expires_ms: int | None = None  # since the epoch
    post_only: bool = False
    hidden: bool = False
    display_quantity: Decimal | None = None
    reduce_only: bool = False
    stop: Decimal | None = None
    trailing_offset: Decimal | None = None
    oco_stop: Decimal | None = None
    group: int = 0


@dataclass(frozen=True, kw_only=True)
class State:
    """An order as an API tells it."""

    number: int
    client: int | None
    market: str
    side: Side
    quantity: Decimal
    filled: Decimal
    ended: bool
    how: str  # the status, in the words of the API


@dataclass(frozen=True)
class ToldFill:
    """A fill as an API tells it. `trade` is the native id, or Bitfinex's whole number."""

    trade: str | int
    number: int
    quantity: Decimal
    price: Decimal


@dataclass
class Known:
    """One order that was acknowledged to its client."""

    wish: Wish | None  # None: the second one of a pair, which nobody asked for by itself
    first: State
    filled: Decimal
    quantities: set[Decimal]  # that were asked for, or told as the outcome of a change
    prices: list[Decimal]  # limits that it ever had
    ended: State | None = None
    cancelled: bool = False  # the client asked for that, and it was granted


@dataclass
class Record:
    """One client's. `name` is its account's."""

    name: str
    orders: dict[int, Known] = field(default_factory=dict)
    fills: dict[tuple[str | int, int], ToldFill] = field(default_factory=dict)  # trade, order
    wishes: dict[int, Wish] = field(default_factory=dict)  # by client id: not answered yet
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.name}: {text}")

    def acknowledged(self, wish: Wish, state: State) -> Known:
        """The answer to a wish."""
        self.wishes.pop(wish.client, None)
        known = self.told(state, wish)
        if (state.market, state.side) != (wish.market, wish.side):
            self.fault(f"asked for {wish}, got {state}")
        if known.wish is not None and known.wish.client != wish.client:
            self.fault(f"order {state.number} is the answer to {known.wish} and to {wish}")
        known.wish = wish
        return known

    def told(self, state: State, wish: Wish | None = None) -> Known:
        """The state of an order, from wherever it was told; answers and news overtake each other."""
        known = self.orders.get(state.number)
        if known is None:
            if wish is None and state.client is not None:
                wish = self.wishes.get(state.client)
            prices = [wish.price] if wish is not None and wish.price is not None else []
            quantities = {state.quantity} if wish is None else {state.quantity, wish.quantity}
            known = Known(wish, state, state.filled, quantities, prices)
            self.orders[state.number] = known
        if (state.market, state.side) != (known.first.market, known.first.side):
            self.fault(f"order {state.number} became another one: {known.first}, then {state}")
        if state.filled > state.quantity:
            self.fault(f"order {state.number} is overfilled: {state}")
        known.filled = max(known.filled, state.filled)
        known.quantities.add(state.quantity)
        if known.ended is None:
            if state.ended:
                known.ended = state
        elif state.ended and state.filled != known.ended.filled:
            self.fault(f"order {state.number} ended twice: {known.ended}, then {state}")
        if known.ended is not None and known.filled > known.ended.filled:
            self.fault(
                f"order {state.number} was filled after its end: {known.ended}, then {state}"
            )
        return known

    def asked(self, number: int, quantity: Decimal | None, price: Decimal | None) -> None:
        """A change is about to be asked for."""
        known = self.orders[number]
        if quantity is not None:
            known.quantities.add(quantity)
        if price is not None:
            known.prices.append(price)

    def told_fill(self, fill: ToldFill) -> None:
        before = self.fills.setdefault((fill.trade, fill.number), fill)
        if before != fill:
            self.fault(f"one fill was told in two ways: {before} and {fill}")

    @property
    def open(self) -> list[Known]:
        """Those that are open as far as is known, the oldest first."""
        return [known for known in self.orders.values() if known.ended is None]
