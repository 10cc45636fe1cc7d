"""Shares of a bounded history of trades.

A trade between two identities of one person costs next to nothing, so one person can fill a history of the newest trades.
When a history is full, the trades of this node stay longest, and of the others each maker has an equal
share: makers with fewer trades keep all, those above the share lose their oldest. To push out the trades of an honest maker
takes as many makers as the history has trades for its share of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from exchange.market.candles import TradeRecord

TAPE: Final = 1000  # trades of a market in memory ...
TAPE_SLACK: Final = 1000  # ... and this many more until they are brought down to their shares
LEAST_OF_OTHERS: Final = 10  # a part of this many of a history is for trades of others


def share(counts: Iterable[int], room: int) -> int:
    """Return the greatest share of each maker with which trades in these numbers fit into `room`."""
    rising = sorted(counts)
    for place, count in enumerate(rising):
        if count * (len(rising) - place) > room:
            return room // (len(rising) - place)
        room -= count
    return rising[-1] if rising else room


def excess(counts: Counter[str], own: str, most: int) -> Counter[str]:
    """Return how many of its trades each holder loses, for `most` to be left. `counts`: trades by maker, and under `own`
    those of this node, which stay longest but leave a part for others."""
    total = counts.total()
    if total <= most:
        return Counter()
    others = total - counts[own]
    room = min(others, max(most - counts[own], most // LEAST_OF_OTHERS))
    each = share((count for who, count in counts.items() if who != own), room)
    limits = {own: most - room}
    return Counter(
        {who: n - limits.get(who, each) for who, n in counts.items() if n > limits.get(who, each)}
    )


def in_shares(trades: Sequence[TradeRecord], node: str, most: int) -> list[TradeRecord]:
    """Return at most `most` of the trades, in their order; `trades` has the oldest first."""
    if len(trades) <= most:
        return list(trades)
    holders = [node if trade.taker == node else trade.maker for trade in trades]
    over = excess(Counter(holders), node, most)
    kept: list[TradeRecord] = []
    for who, trade in zip(holders, trades, strict=True):
        if over[who]:
            over[who] -= 1
        else:
            kept.append(trade)
    return kept


class Tape:
    """Latest trades of a market in memory: at most `TAPE`, in shares."""

    def __init__(self, node: str, trades: Iterable[TradeRecord]) -> None:
        """`node`: this node. `trades`: the latest, oldest first."""
        self._node = node
        self._trades: list[TradeRecord] = []  # in order of arrival
        self.extend(trades)

    def extend(self, trades: Iterable[TradeRecord]) -> None:
        """Add trades. The shares are made when `TAPE_SLACK` too many are here, and when they are read."""
        self._trades.extend(trades)
        if len(self._trades) >= TAPE + TAPE_SLACK:
            self._trades = in_shares(self._trades, self._node, TAPE)

    def newest(self, limit: int) -> list[TradeRecord]:
        """Return the newest trades, newest first."""
        self._trades = in_shares(self._trades, self._node, TAPE)
        return sorted(self._trades, key=lambda trade: trade.key, reverse=True)[:limit]
