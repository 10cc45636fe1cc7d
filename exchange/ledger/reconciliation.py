"""Reconciliation: comparison of two nodes' statements about each other.

Theory of operation. `DifferenceSearch` finds the trades that only one side has, by questions whose
answers have a bounded size. `evaluate` derives the comparison from the signed documents alone, so the
requesting node and any later reader of the documents come to the same result.

Trades under way are not a disagreement. The requesting node makes its statement first, so a trade that
it alone has as maker is one whose taker still waits for the result. A trade that the other node alone
has may be newer than our statement: the requesting node states its history once more afterwards
(`after`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final, Literal

import msgspec

from exchange.ledger.statement_checks import open_document
from exchange.ledger.statements import (
    CHILD_BITS,
    MAX_SETTLEMENTS,
    MAX_TRADES,
    Settlement,
    SignedDocument,
    Statement,
    StatementError,
    StatementPart,
    StatementQuestion,
    StatementTrade,
    TradesDigest,
    UndecidedTake,
    amounts,
    digest_of,
    units,
)
from exchange.model.ports import KeyChecker

MAX_QUESTIONS: Final = 300  # of one search
MAX_DIFFERENCES: Final = 2000  # trades after which a search ends
MAX_SKEW: Final = 24 * 3_600_000_000  # us that the two statements may lie apart
FORMAT: Final = "exchange-node reconciliation 1"
NOTHING: Final = digest_of(())

Whose = Literal["ours", "theirs"]


class TradeDifference(msgspec.Struct, frozen=True):
    """Trade that only one side has, or that the two sides record differently. `under_way`:
    "pending", the taker waits for the result; "later", newer than our statement; "" for a
    disagreement."""

    ours: StatementTrade | None
    theirs: StatementTrade | None
    under_way: Literal["", "pending", "later"] = ""


class OpenSettlement(msgspec.Struct, frozen=True):
    """Payment that only one side recorded."""

    whose: Whose
    settlement: Settlement


class AssetComparison(msgspec.Struct, frozen=True):
    """Positions of both sides in one asset. Units of 10 ** -`statements.DECIMALS`; positive: we owe it."""

    asset: str
    ours: int
    theirs: int
    under_way: int  # part of the difference caused by trades under way
    lost: int  # part of the difference for which a side has no trades or settlements
    unexplained: int  # the rest of the difference

    @property
    def difference(self) -> int:
        return self.ours - self.theirs


class Comparison(msgspec.Struct, frozen=True):
    """Result of a reconciliation."""

    ours: Statement
    theirs: Statement
    assets: list[AssetComparison]
    trades: list[TradeDifference]
    settlements: list[OpenSettlement]
    asked: list[tuple[Whose, UndecidedTake]]  # undecided takes of both sides
    complete: bool  # `trades` has every trade that differs
    matched: bool  # settlements were compared one by one

    @property
    def agree(self) -> bool:
        """True if both sides agree, apart from trades under way."""
        return (
            self.complete
            and not self.settlements
            and all(trade.under_way for trade in self.trades)
            and all(asset.difference == asset.under_way for asset in self.assets)
        )


class Evidence(msgspec.Struct, frozen=True):
    """All signed documents of one reconciliation."""

    format: str
    network: str
    node: str  # the requesting node
    peer: str
    ours: SignedDocument
    theirs: SignedDocument
    parts: list[
        tuple[SignedDocument, SignedDocument]
    ] = []  # ours and theirs, in the order of the search
    after: SignedDocument | None = None  # our statement once more
    after_parts: list[SignedDocument] = []


# Search for differing trades


class DifferenceSearch:
    """Bisection for the trades that differ: send the question of `next` to both sides, pass their
    answers to `add`, and repeat until `next` returns None."""

    def __init__(self, ours: Statement, theirs: Statement) -> None:
        self._ours = ours
        self._theirs = theirs
        self._agenda: list[tuple[StatementQuestion, TradesDigest, TradesDigest]] = []
        self._question_count = 0
        self.complete = True
        self.trades: list[TradeDifference] = []
        self.only_theirs: list[StatementQuestion] = []  # questions that found trades of theirs only
        both = zip((ours.node, theirs.node), ours.trades, reversed(theirs.trades), strict=True)
        for taker, mine, other in both:
            self._consider(taker, mine, other)

    def _consider(self, taker: str, ours: TradesDigest, theirs: TradesDigest) -> None:
        """Queue a question about the takes of both digests, if the digests differ."""
        if ours == theirs:
            return
        some = [digest for digest in (ours, theirs) if digest.count]
        low = min((digest.first for digest in some), default=0)
        bits = (low ^ max((digest.last for digest in some), default=0)).bit_length()
        first = low >> bits << bits
        table = max(ours.count, theirs.count) > MAX_TRADES
        if table and bits < CHILD_BITS:  # more trades than takes
            self.complete = False
        else:
            self._agenda.append((StatementQuestion(taker, first, bits, table), ours, theirs))

    def next(self) -> StatementQuestion | None:
        if not self._agenda:
            return None
        if self._question_count >= MAX_QUESTIONS or len(self.trades) >= MAX_DIFFERENCES:
            self.complete = False
            return None
        return self._agenda[0][0]

    def add(self, ours: StatementPart, theirs: StatementPart) -> None:
        """Process both answers to the current question.

        Raises:
            StatementError: an answer belongs to another question or contradicts its statement.
        """
        question, mine, other = self._agenda.pop(0)
        self._question_count += 1
        for part, statement, digest in ((ours, self._ours, mine), (theirs, self._theirs, other)):
            self._check(part, statement, digest, question)
        if question.table:
            self._descend(question, ours, theirs)
        else:
            self._compare(question, ours.trades, theirs.trades)

    @staticmethod
    def _check(
        part: StatementPart, statement: Statement, digest: TradesDigest, question: StatementQuestion
    ) -> None:
        if part.question != question or part.cut != statement.cut:
            raise StatementError(
                "malformed", f"node {statement.node} answered another question than the one sent"
            )
        if question.table:
            fits = sum(row.digest.count for row in part.rows) == digest.count
        else:
            fits = digest_of(part.trades) == digest
        if not fits:
            raise StatementError(
                "contradiction",
                f"the trades that node {statement.node} shows are not those that it signed",
            )

    def _descend(
        self, question: StatementQuestion, ours: StatementPart, theirs: StatementPart
    ) -> None:
        mine = {row.index: row.digest for row in ours.rows}
        other = {row.index: row.digest for row in theirs.rows}
        found = len(self._agenda)
        for index in sorted(mine.keys() | other.keys()):
            self._consider(question.taker, mine.get(index, NOTHING), other.get(index, NOTHING))
        if found == len(self._agenda):  # the digest of the whole differs, those of its parts do not
            self.complete = False

    def _compare(
        self, question: StatementQuestion, ours: list[StatementTrade], theirs: list[StatementTrade]
    ) -> None:
        mine, other = Counter(ours), Counter(theirs)
        by_take = {trade.take: trade for trade in (other - mine).elements()}
        for trade in (mine - other).elements():
            self.trades.append(TradeDifference(trade, by_take.pop(trade.take, None)))
        if by_take:
            self.only_theirs.append(question)
            self.trades += [TradeDifference(None, trade) for trade in by_take.values()]


# The comparison


def evaluate(keys: KeyChecker, evidence: Evidence) -> Comparison:
    """Verify the documents of a reconciliation and compare them.

    Raises:
        StatementError: a document is invalid or missing.
    """
    network, node, peer = evidence.network, evidence.node, evidence.peer
    if evidence.format != FORMAT:
        raise StatementError(
            "malformed", f"unknown format {evidence.format[:40]!r}, expected {FORMAT!r}"
        )
    if node == peer:
        raise StatementError("malformed", f"both statements are of node {node}")

    def own(signed: SignedDocument) -> StatementPart:
        return open_document(keys, signed, StatementPart, network=network, node=node, peer=peer)

    ours = open_document(keys, evidence.ours, Statement, network=network, node=node, peer=peer)
    theirs = open_document(keys, evidence.theirs, Statement, network=network, node=peer, peer=node)
    if abs(ours.time - theirs.time) > MAX_SKEW:
        raise StatementError("malformed", "the two statements are more than a day apart")
    search = DifferenceSearch(ours, theirs)
    parts = iter(evidence.parts)
    while search.next() is not None:
        mine, other = next(parts, (None, None))
        if mine is None or other is None:
            raise StatementError("malformed", "a part that the comparison needs is missing")
        search.add(
            own(mine),
            open_document(keys, other, StatementPart, network=network, node=peer, peer=node),
        )
    later: set[StatementTrade] = set()
    asked = {take.take for take in ours.asked}
    if evidence.after is not None:
        after = open_document(
            keys, evidence.after, Statement, network=network, node=node, peer=peer
        )
        asked |= {take.take for take in after.asked}
        for signed in evidence.after_parts:
            part = own(signed)
            if part.cut != after.cut:
                raise StatementError(
                    "malformed", "a part is not of the statement that it came with"
                )
            later.update(part.trades)
    return compare(ours, theirs, search, asked, later)


def compare(
    ours: Statement,
    theirs: Statement,
    search: DifferenceSearch,
    asked: Collection[int],
    later: Collection[StatementTrade],
) -> Comparison:
    """Compare two statements after a finished search. `asked`: our takes that were undecided at our
    statement or after it. `later`: our trades since then."""
    waiting = {take.take for take in theirs.asked}
    trades = []
    for found in search.trades:
        mine, other = found.ours, found.theirs
        if mine is not None and other is None:
            if mine.taker == theirs.node and mine.take in waiting:
                found = TradeDifference(mine, None, "pending")
        elif mine is None and other is not None:
            if other in later:
                found = TradeDifference(None, other, "later")
            elif other.taker == ours.node and other.take in asked:
                found = TradeDifference(None, other, "pending")
        trades.append(found)
    matched = max(ours.settlement_count, theirs.settlement_count) <= MAX_SETTLEMENTS
    settlements = _open_settlements(ours.settlements, theirs.settlements) if matched else []
    return Comparison(
        ours,
        theirs,
        _assets(ours, theirs, trades, settlements if matched else None),
        trades,
        settlements,
        [*(("ours", take) for take in ours.asked), *(("theirs", take) for take in theirs.asked)],
        search.complete,
        matched,
    )


def _open_settlements(
    ours: Iterable[Settlement], theirs: Iterable[Settlement]
) -> list[OpenSettlement]:
    """Pair payments by asset and amount, earliest with earliest, and return the rest: payments have no
    identifier that both sides know."""
    mine: dict[tuple[str, int], list[Settlement]] = {}
    other: dict[tuple[str, int], list[Settlement]] = {}
    for payments, sign, found in ((ours, 1, mine), (theirs, -1, other)):
        for paid in sorted(payments, key=lambda paid: paid.time):
            found.setdefault((paid.asset, sign * units(paid.amount)), []).append(paid)
    rows: list[OpenSettlement] = []
    for key in sorted(mine.keys() | other.keys()):
        here, there = mine.get(key, []), other.get(key, [])
        rows += [OpenSettlement("ours", paid) for paid in here[len(there) :]]
        rows += [OpenSettlement("theirs", paid) for paid in there[len(here) :]]
    return rows


def _assets(
    ours: Statement,
    theirs: Statement,
    trades: Iterable[TradeDifference],
    settlements: Iterable[OpenSettlement] | None,
) -> list[AssetComparison]:
    """Explain the difference in each asset. `settlements`: None if only their sums can be compared."""
    balances: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    under_way: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for statement, balance, sign in ((ours, balances[0], 1), (theirs, balances[1], -1)):
        for position in statement.positions:
            total, settled = units(position.balance), units(position.settled)
            balance[position.asset] += sign * total
            lost[position.asset] += total - units(position.traded) - settled
            if settlements is None:
                known[position.asset] += settled
    for trade in trades:
        for each, node in ((trade.ours, ours.node), (trade.theirs, theirs.node)):
            if each is not None:
                for asset, amount in amounts(each, node).items():
                    (under_way if trade.under_way else known)[asset] += amount
    for row in settlements or ():
        known[row.settlement.asset] += units(row.settlement.amount)
    assets = sorted({*balances[0], *balances[1], *known, *under_way})
    return [
        AssetComparison(
            asset,
            mine := balances[0][asset],
            other := balances[1][asset],
            under_way[asset],
            lost[asset],
            mine - other - under_way[asset] - lost[asset] - known[asset],
        )
        for asset in assets
    ]
