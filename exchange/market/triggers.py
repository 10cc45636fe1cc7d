"""Triggers: conditional orders of one market by the trade price that triggers them.

A trade at its stop or above triggers a buy, a trade at its stop or below a sell. The stop of a trailing
sell is the highest price since it was placed less its offset, of a trailing buy the lowest price plus
its offset; it follows the market and never goes back.

Theory of operation. Plain stops are in a heap for each side, so a trade that triggers none costs one
comparison. Trailing stops must not be visited one by one either, though each new high moves the stops
of all sells. They are grouped by the extreme that they follow. A new high becomes the one extreme of all
sells whose extreme was lower, so their groups are merged, the smaller into the larger, and an order
changes its group at most log2(n) times. Within a group the order with the smallest offset has the
closest stop, and a heap over the groups has the group with the closest stop first. A trade costs
O(log n), and O(log n) for each order that it triggers or each group that it ends.

Rules of this file:
- Both sides share one code by `height`: the price of a sell, the negative price of a buy. The market
  falls to a stop, so the greatest height is next; heaps keep the negative height.
- A group without members is removed at once.
"""

from __future__ import annotations

from typing import Final

from p2p.ground.keyed_heap import KeyedHeap

_NEVER: Final = -(2**62)  # extreme of orders placed before the first trade


class Triggers:
    """Stops and trailing stops of one market. Prices in ticks.

    Raises ValueError when an order number is added twice, KeyError for an unknown order number.
    """

    def __init__(self) -> None:
        # Plain stops (-height by order number) and trailing stops of each side.
        self._sides: dict[int, tuple[KeyedHeap[int, int], _TrailingStops]] = {
            1: (KeyedHeap(), _TrailingStops()),
            -1: (KeyedHeap(), _TrailingStops()),
        }
        self._side_of: dict[int, int] = {}  # by order number

    def __len__(self) -> int:
        return len(self._side_of)

    def __contains__(self, number: object) -> bool:
        return number in self._side_of

    def add(self, number: int, side: int, stop: int) -> None:
        """Add a plain stop. It is first compared with the next trade."""
        self._register(number, side)
        self._sides[side][0].set(number, side * stop)

    def add_trailing(self, number: int, side: int, trailing_offset: int, last: int | None) -> None:
        """Add a trailing stop at `trailing_offset` ticks, at least 1, from the market.

        `last` is the extreme to start from: the price of the last trade, or None without trades, when
        the first trade sets it. To restore a stop after a restart pass its
        stop - side * trailing_offset.
        """
        _check_offset(trailing_offset)
        self._register(number, side)
        extreme = _NEVER if last is None else -side * last
        self._sides[side][1].add(number, trailing_offset, extreme)

    def remove(self, number: int) -> None:
        stops, trailing = self._sides[self._side_of.pop(number)]
        if number in stops:
            stops.discard(number)
        else:
            trailing.remove(number)

    def amend(
        self, number: int, *, stop: int | None = None, trailing_offset: int | None = None
    ) -> None:
        """Change the price of a plain stop, or the offset of a trailing stop, which keeps its extreme.

        Raises:
            ValueError: the stop is of the other kind.
        """
        side = self._side_of[number]
        stops, trailing = self._sides[side]
        if number in stops:
            if stop is None or trailing_offset is not None:
                raise ValueError(f"order {number} has a stop price and no trailing offset")
            stops.set(number, side * stop)
            return
        if trailing_offset is None or stop is not None:
            raise ValueError(f"order {number} has a trailing offset and no stop price of its own")
        _check_offset(trailing_offset)
        extreme = trailing.extreme(number)
        trailing.remove(number)
        trailing.add(number, trailing_offset, extreme)

    def stop_of(self, number: int) -> int | None:
        """Return the present stop of an order; None for a trailing stop before the first trade. The stop
        of a trailing sell can be 0 or less: no trade reaches it before the market has risen."""
        side = self._side_of[number]
        stops, trailing = self._sides[side]
        height = -stops.values[number] if number in stops else trailing.height(number)
        return None if height is None else -side * height

    def trailing(self) -> dict[int, int]:
        """Return the present stops of all trailing orders by order number. O(n)."""
        found: dict[int, int] = {}
        for side, (_, trailing) in self._sides.items():
            for number in trailing.numbers:
                height = trailing.height(number)
                if height is not None:
                    found[number] = -side * height
        return found

    def on_trade(self, price: int) -> list[int]:
        """Process a trade: remove and return the orders that it triggers.

        They are in the order in which the market reached their stops: buys from the lowest stop up,
        sells from the highest down, orders with equal stops by number. Buys precede sells, which
        matters only for orders placed with their stop on the wrong side of the market.
        """
        triggered: list[int] = []
        for side, (stops, trailing) in self._sides.items():
            height = -side * price
            reached = stops.pop_through(-height) + trailing.pop_reached(height)
            if reached:
                reached.sort()
                triggered.extend(number for _, number in reached)
        for number in triggered:
            del self._side_of[number]
        return triggered

    def _register(self, number: int, side: int) -> None:
        if side not in self._sides:
            raise ValueError(f"a side is 1 (buy) or -1 (sell), got {side!r}")
        if number in self._side_of:
            raise ValueError(f"order {number} is already among the triggers")
        self._side_of[number] = side


def _check_offset(offset: int) -> None:
    if offset < 1:
        raise ValueError(f"a trailing offset is at least 1 tick, got {offset}")


class _Group:
    """Trailing orders that follow one extreme."""

    __slots__ = ("extreme", "offsets")

    def __init__(self, extreme: int) -> None:
        self.extreme = extreme
        self.offsets: KeyedHeap[int, int] = KeyedHeap()  # by order number

    def closest(self) -> int | None:
        """Return the height of the closest stop; None for an empty group."""
        first = self.offsets.first()
        return None if first is None else self.extreme - first[0]


class _TrailingStops:
    """Trailing stops of one side."""

    def __init__(self) -> None:
        self._group_of: dict[int, _Group] = {}  # by order number
        self._groups: dict[int, _Group] = {}  # by extreme
        self._extremes: KeyedHeap[int, int] = KeyedHeap()  # of all groups; key and value are equal
        self._closest: KeyedHeap[int, int] = KeyedHeap()  # by extreme: -height of the closest stop

    @property
    def numbers(self) -> list[int]:
        return list(self._group_of)

    def add(self, number: int, offset: int, extreme: int) -> None:
        group = self._groups.get(extreme)
        if group is None:
            group = self._groups[extreme] = _Group(extreme)
            self._extremes.set(extreme, extreme)
        group.offsets.set(number, offset)
        self._group_of[number] = group
        self._update(group)

    def remove(self, number: int) -> None:
        group = self._group_of.pop(number)
        group.offsets.discard(number)
        self._update(group)

    def extreme(self, number: int) -> int:
        return self._group_of[number].extreme

    def height(self, number: int) -> int | None:
        group = self._group_of[number]
        return None if group.extreme == _NEVER else group.extreme - group.offsets.values[number]

    def pop_reached(self, height: int) -> list[tuple[int, int]]:
        """Follow the market to `height`. Removes and returns (-height of its stop, number) of the
        orders whose stop is reached."""
        lowest = self._extremes.first()
        if lowest is not None and lowest[0] < height:
            self._raise_extremes(height)
        found: list[tuple[int, int]] = []
        while (next_ := self._closest.first()) is not None and next_[0] <= -height:
            group = self._groups[next_[1]]
            while (stop := group.closest()) is not None and stop >= height:
                _, number = group.offsets.pop_first()
                del self._group_of[number]
                found.append((-stop, number))
            self._update(group)
        return found

    def _raise_extremes(self, height: int) -> None:
        """Merge all groups with a lower extreme into one at `height`."""
        largest = self._groups.pop(height, None)
        for _, extreme in self._extremes.pop_through(height):
            self._closest.discard(extreme)
            group = self._groups.pop(extreme, None)
            if group is None:  # the group at `height`
                continue
            if largest is None:
                largest = group
                continue
            if len(group.offsets) > len(largest.offsets):
                largest, group = group, largest
            for number, offset in group.offsets.values.items():
                largest.offsets.set(number, offset)
                self._group_of[number] = largest
        if largest is not None:
            largest.extreme = height
            self._groups[height] = largest
            self._extremes.set(height, height)
            self._update(largest)

    def _update(self, group: _Group) -> None:
        """Record the closest stop of a group after a change; remove the group if it is empty."""
        stop = group.closest()
        if stop is None:
            del self._groups[group.extreme]
            self._extremes.discard(group.extreme)
            self._closest.discard(group.extreme)
        else:
            self._closest.set(group.extreme, -stop)
