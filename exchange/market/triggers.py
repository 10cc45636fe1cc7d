"""Conditional orders of one market that wait for a trade at their stop price.

A buy is triggered by a trade at its stop or above, a sell by one at its stop or below. The stop of a
trailing sell is the highest price since it was placed less its distance, of a trailing buy the lowest
price plus its distance; it follows the market and never goes back.

Plain stops are in a heap for each side, so a trade that reaches none costs one comparison. Trailing
ones must not be looked at one by one either, though each new high moves the stops of all sells. They
are kept by the extreme that they hang on: a new high is then *one* extreme for all the sells whose own
was lower, so their groups are merged, the smaller into the larger, and an order changes its group at
most log2(n) times as long as it waits. Inside a group the order with the smallest distance has the
closest stop, and a heap over the groups has the group with the closest one on top. A trade costs
O(log n), and O(log n) for each order that it triggers or each group that it ends.

Entries that are removed or changed stay in the heaps until they come up or are more than half of one.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

_NEVER: Final = -(2**62)  # the extreme of orders placed before there was any price
_SLACK: Final = (
    64  # entries of a heap that may be out of date before it is looked whether to rebuild
)


class Triggers:
    """See the module's docstring. Prices in ticks. An order number is added once at a time:
    ValueError otherwise; KeyError for a number that does not wait."""

    def __init__(self) -> None:
        # "height" below: a price of a sell, and the negative price of a buy. The market must fall to
        # the height of a stop, so both sides are one kind of thing, and the greatest height is next.
        self._sides: dict[int, tuple[_Stops, _Trails]] = {
            1: (_Stops(), _Trails()),
            -1: (_Stops(), _Trails()),
        }
        self._where: dict[int, int] = {}  # number -> side, of all that wait

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, number: object) -> bool:
        return number in self._where

    def add(self, number: int, side: int, stop: int) -> None:
        """Wait for `stop`. Nothing is compared with the market before its next trade."""
        self._enter(number, side)
        self._sides[side][0].set(number, -side * stop)

    def add_trailing(self, number: int, side: int, trailing_offset: int, last: int | None) -> None:
        """Wait at a distance of `trailing_offset` ticks, at least 1. `last` is the extreme to begin with: the price
        of the last trade, or None when there was none, then the first trade sets it. A stop that was
        in force before a restart is had back with its stop - side * trailing_offset."""
        if trailing_offset < 1:
            raise ValueError(f"a trailing distance is at least 1 tick, got {trailing_offset}")
        self._enter(number, side)
        self._sides[side][1].add(number, trailing_offset, _NEVER if last is None else -side * last)

    def remove(self, number: int) -> None:
        stops, trails = self._sides[self._where.pop(number)]
        if number in stops:
            stops.remove(number)
        else:
            trails.remove(number)

    def amend(
        self, number: int, *, stop: int | None = None, trailing_offset: int | None = None
    ) -> None:
        """Give a plain stop another price, or a trailing one another distance (from the same extreme).
        ValueError when it is of the other kind."""
        side = self._where[number]
        stops, trails = self._sides[side]
        if number in stops:
            if stop is None or trailing_offset is not None:
                raise ValueError(f"order {number} has a stop price, and no trailing distance")
            stops.set(number, -side * stop)
        else:
            if trailing_offset is None or stop is not None:
                raise ValueError(f"order {number} has a trailing distance, and no stop of its own")
            if trailing_offset < 1:
                raise ValueError(f"a trailing distance is at least 1 tick, got {trailing_offset}")
            extreme = trails.extreme(number)
            trails.remove(number)
            trails.add(number, trailing_offset, extreme)

    def stop_of(self, number: int) -> int | None:
        """Where the order is triggered now; None for a trailing one that has seen no price. The stop of a
        trailing sell can be 0 or less: no trade reaches it before the market has risen."""
        side = self._where[number]
        stops, trails = self._sides[side]
        height = stops.height(number) if number in stops else trails.height(number)
        return None if height is None else -side * height

    def trailing(self) -> dict[int, int]:
        """The stops of all trailing orders that have one, by number. O(n)."""
        found: dict[int, int] = {}
        for side, (_, trails) in self._sides.items():
            for number in trails.numbers:
                height = trails.height(number)
                if height is not None:
                    found[number] = -side * height
        return found

    def on_trade(self, price: int) -> list[int]:
        """A trade took place: the orders that it triggers, which wait no longer.

        In the order in which the market reached their stops: buys from the lowest stop up, sells from
        the highest down, orders of one stop by number. Buys come before sells, which matters only when
        an order was placed with its stop on the wrong side of the market.
        """
        triggered: list[int] = []
        for side, (stops, trails) in self._sides.items():
            height = -side * price
            reached = stops.reached(height) + trails.reached(height)
            if reached:
                reached.sort()
                triggered.extend(number for _, number in reached)
        for number in triggered:
            del self._where[number]
        return triggered

    def _enter(self, number: int, side: int) -> None:
        if side not in self._sides:
            raise ValueError(f"a side is 1 (buy) or -1 (sell), got {side!r}")
        if number in self._where:
            raise ValueError(f"order {number} waits already")
        self._where[number] = side


class _Stops:
    """Plain stops of one side."""

    def __init__(self) -> None:
        self._heights: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []  # (-height, number)

    def __contains__(self, number: int) -> bool:
        return number in self._heights

    def set(self, number: int, height: int) -> None:
        self._heights[number] = height
        heappush(self._heap, (-height, number))
        if len(self._heap) > 2 * len(self._heights) + _SLACK:
            self._heap = [(-height, number) for number, height in self._heights.items()]
            heapify(self._heap)

    def remove(self, number: int) -> None:
        del self._heights[number]

    def height(self, number: int) -> int:
        return self._heights[number]

    def reached(self, height: int) -> list[tuple[int, int]]:
        """(-height of its stop, number) of those that the market has fallen to; they are removed."""
        found: list[tuple[int, int]] = []
        heap = self._heap
        while heap and heap[0][0] <= -height:
            entry = heappop(heap)
            if self._heights.get(entry[1]) == -entry[0]:
                del self._heights[entry[1]]
                found.append(entry)
        return found


class _Group:
    """Trailing orders that hang on one extreme."""

    __slots__ = ("extreme", "heap", "members")

    def __init__(self, extreme: int) -> None:
        self.extreme = extreme
        self.members: dict[int, int] = {}  # number -> distance
        self.heap: list[tuple[int, int]] = []  # (distance, number)

    def add(self, number: int, trailing_offset: int) -> None:
        self.members[number] = trailing_offset
        heappush(self.heap, (trailing_offset, number))
        if len(self.heap) > 2 * len(self.members) + _SLACK:
            self.heap = [
                (trailing_offset, number) for number, trailing_offset in self.members.items()
            ]
            heapify(self.heap)

    def closest(self) -> int | None:
        """The height of the closest stop; None when the group is empty."""
        heap = self.heap
        while heap:
            trailing_offset, number = heap[0]
            if self.members.get(number) == trailing_offset:
                return self.extreme - trailing_offset
            heappop(heap)
        return None


class _Trails:
    """Trailing stops of one side."""

    def __init__(self) -> None:
        self._group_of: dict[int, _Group] = {}
        self._groups: dict[int, _Group] = {}  # by extreme
        self._extremes: list[int] = []  # heap; every group's, and some that are gone
        # The closest stop of each group, as (-height, extreme). An entry holds while its group's
        # closest stop is that height.
        self._next: list[tuple[int, int]] = []

    @property
    def numbers(self) -> list[int]:
        return list(self._group_of)

    def add(self, number: int, trailing_offset: int, extreme: int) -> None:
        group = self._groups.get(extreme)
        if group is None:
            group = self._groups[extreme] = _Group(extreme)
            heappush(self._extremes, extreme)
            if len(self._extremes) > 2 * len(self._groups) + _SLACK:
                self._extremes = sorted(self._groups)
        group.add(number, trailing_offset)
        self._group_of[number] = group
        self._announce(group)

    def remove(self, number: int) -> None:
        group = self._group_of.pop(number)
        del group.members[number]
        self._announce(group)

    def extreme(self, number: int) -> int:
        return self._group_of[number].extreme

    def height(self, number: int) -> int | None:
        group = self._group_of[number]
        return None if group.extreme == _NEVER else group.extreme - group.members[number]

    def reached(self, height: int) -> list[tuple[int, int]]:
        """Follow the market to `height`. (-height of its stop, number) of those that it has fallen to;
        they are removed."""
        if self._extremes and self._extremes[0] < height:
            self._rise(height)
        found: list[tuple[int, int]] = []
        while self._next and self._next[0][0] <= -height:
            negative, extreme = heappop(self._next)
            group = self._groups.get(extreme)
            if group is None or group.closest() != -negative:
                continue
            while (stop := group.closest()) is not None and stop >= height:
                number = heappop(group.heap)[1]
                del group.members[number], self._group_of[number]
                found.append((-stop, number))
            self._announce(group)
        return found

    def _rise(self, height: int) -> None:
        """A new extreme for all groups that hang lower."""
        largest = self._groups.pop(height, None)
        while self._extremes and self._extremes[0] <= height:
            group = self._groups.pop(heappop(self._extremes), None)
            if group is None:
                continue
            if largest is None:
                largest = group
                continue
            if len(group.members) > len(largest.members):
                largest, group = group, largest
            for number, trailing_offset in group.members.items():
                largest.add(number, trailing_offset)
                self._group_of[number] = largest
        if largest is not None:
            largest.extreme = height
            self._groups[height] = largest
            heappush(self._extremes, height)
            self._announce(largest)

    def _announce(self, group: _Group) -> None:
        """The group's closest stop may be another one now."""
        stop = group.closest()
        if stop is None:
            self._groups.pop(group.extreme, None)
            return
        heappush(self._next, (-stop, group.extreme))
        if len(self._next) > 2 * len(self._groups) + _SLACK:
            self._next = [
                (-stop, group.extreme)
                for group in self._groups.values()
                if (stop := group.closest()) is not None
            ]
            heapify(self._next)
