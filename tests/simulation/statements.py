"""Statements of every two nodes at the end of a run, made of what is on their disks.

They are signed, searched and judged by the production code. What they say is put together here once more,
as the figures of `tests.simulation.books` are.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from exchange.journal.archive import FOREVER
from exchange.ledger.balances import PEER
from exchange.ledger.reconciliation import FORMAT, DifferenceSearch, Evidence, evaluate
from exchange.ledger.statements import (
    VERSION,
    Position,
    Settlement,
    SignedDocument,
    Statement,
    StatementPart,
    StatementQuestion,
    StatementTrade,
    TradesHasher,
    UndecidedTake,
    amounts,
    make_part,
    sign_document,
    text_of,
    trade_of,
    units,
)
from exchange.model.decimals import plain
from exchange.model.records import Fill, PendingTake, Posting
from tests.simulation.invariants import Violation
from tests.simulation.keys import RealKeys


class Past(Protocol):
    """Part of `exchange.journal.archive.Archive` that statements use."""

    def cut(self) -> tuple[int, int]: ...

    def fills_with(
        self, counterparty: str, upto: int, *, first: int = 0, last: int = FOREVER
    ) -> Iterator[Fill]: ...

    def last_postings(self, holder: str, upto: int) -> list[Posting]: ...

    def moves_of(self, holder: str, upto: int) -> list[Posting]: ...


class Listed:
    """The same of what was written, in that order. Cuts are not looked at: nothing more comes."""

    def __init__(self, fills: Sequence[Fill], postings: Sequence[Posting]) -> None:
        self._cut = len(fills), len(postings)
        self._fills: defaultdict[str, list[Fill]] = defaultdict(list)
        self._postings: defaultdict[str, list[Posting]] = defaultdict(list)
        for fill in sorted(fills, key=lambda fill: fill.take):
            self._fills[fill.counterparty].append(fill)
        for posting in postings:
            self._postings[posting.holder].append(posting)

    def cut(self) -> tuple[int, int]:
        return self._cut

    def fills_with(
        self, counterparty: str, upto: int, *, first: int = 0, last: int = FOREVER
    ) -> Iterator[Fill]:
        return (fill for fill in self._fills[counterparty] if first <= fill.take <= last)

    def last_postings(self, holder: str, upto: int) -> list[Posting]:
        return list({posting.asset: posting for posting in self._postings[holder]}.values())

    def moves_of(self, holder: str, upto: int) -> list[Posting]:
        own = reversed(self._postings[holder])
        return [posting for posting in own if posting.kind not in ("trade", "fee")]


@dataclass(slots=True)
class Side:
    """Node of a statement: its identity and its disk."""

    keys: RealKeys
    past: Past
    takes: Sequence[PendingTake]
    decimals: dict[str, int]
    time: int  # us

    def knows(self, peer: str) -> bool:
        return bool(self.past.last_postings(PEER + peer, self.past.cut()[1]))

    def statement(self, network: str, peer: str) -> Statement:
        own, holder, cut = self.keys.node_id, PEER + peer, self.past.cut()
        digests = {own: TradesHasher(), peer: TradesHasher()}
        traded: Counter[str] = Counter()
        for trade in map(trade_of, self.past.fills_with(peer, cut[0])):
            digests[trade.taker].add(trade)
            traded.update(amounts(trade, own))
        paid = self._payments(holder, cut[1])
        settled: Counter[str] = Counter()
        for each in paid:
            settled[each.asset] += units(each.amount)
        balances = {
            posting.asset: plain(posting.balance, self.decimals[posting.asset])
            for posting in self.past.last_postings(holder, cut[1])
        }
        positions = [
            Position(asset, balance, text_of(traded[asset]), text_of(settled[asset]))
            for asset, balance in sorted(balances.items())
        ]
        folded = [digests[own].digest, digests[peer].digest]
        asked = [
            UndecidedTake(t.take, t.market, t.maker_order, t.side, t.price, t.quantity)
            for t in sorted(self.takes, key=lambda take: take.take)
            if t.maker == peer
        ]
        return Statement(
            *(VERSION, network, own, peer, self.time, cut, positions, folded),
            *(paid, len(paid), asked, len(asked)),
        )

    def _payments(self, holder: str, upto: int) -> list[Settlement]:
        """The latest first. A line that says "decimals 8 to 10" is the last one in units of its time."""
        scale = dict(self.decimals)
        found = []
        for move in self.past.moves_of(holder, upto):
            if move.kind == "transfer":
                scale[move.asset] = int(move.reference.split()[1])
            else:
                text = plain(move.amount, scale[move.asset])
                found.append(Settlement(move.asset, text, move.time))
        return found

    def part(self, network: str, said: Statement, question: StatementQuestion) -> StatementPart:
        last = question.first + (1 << question.bits) - 1
        found = self.past.fills_with(said.peer, said.cut[0], first=question.first, last=last)
        trades = (trade_of(fill) for fill in found if fill.taker == question.taker)
        return make_part(network, said.node, said.peer, said.cut, question, trades)


def all_agree(network: str, sides: Sequence[Side]) -> None:
    """Statements of every two nodes agree, and nothing is under way, once all was delivered."""
    for ours, theirs in itertools.permutations(sides, 2):
        if ours.knows(theirs.keys.node_id) or theirs.knows(ours.keys.node_id):
            _agree(network, ours, theirs)


def lacking(network: str, ours: Side, theirs: Side) -> list[StatementTrade]:
    """Return the trades that only the other side has."""
    mine = ours.statement(network, theirs.keys.node_id)
    other = theirs.statement(network, ours.keys.node_id)
    search = DifferenceSearch(mine, other)
    while (question := search.next()) is not None:
        search.add(ours.part(network, mine, question), theirs.part(network, other, question))
    assert search.complete
    assert not [found for found in search.trades if found.theirs is None]
    return [found.theirs for found in search.trades if found.theirs is not None]


def _agree(network: str, ours: Side, theirs: Side) -> None:
    node, peer = ours.keys.node_id, theirs.keys.node_id
    mine, other = ours.statement(network, peer), theirs.statement(network, node)
    search = DifferenceSearch(mine, other)
    parts: list[tuple[SignedDocument, SignedDocument]] = []
    while (question := search.next()) is not None:
        own = ours.part(network, mine, question)
        answered = theirs.part(network, other, question)
        parts.append((sign_document(ours.keys, own), sign_document(theirs.keys, answered)))
        search.add(own, answered)
    said = sign_document(ours.keys, mine), sign_document(theirs.keys, other)
    evidence = Evidence(FORMAT, network, node, peer, *said, parts)
    found = evaluate(ours.keys, evidence)
    if not found.agree or found.asked or found.trades:
        odd = [asset for asset in found.assets if asset.difference]
        raise Violation(
            "statements_agree",
            f"{node} and {peer}: {odd}, trades {found.trades[:3]}, payments "
            f"{found.settlements[:3]}, takes {found.asked[:3]}",
        )
