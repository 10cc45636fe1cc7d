"""Two statements compared: whether both nodes say the same of each other, and if not, in what they differ.

`Search` finds the trades that only one side has, by questions whose answers are of a bounded size.
`judge` makes the comparison of what was said, from the signed documents alone: the node that asks, and
whoever gets the documents later, come to the same result.

What is under way is no disagreement. The asking node's statement is made before the other's, so a trade
that it alone has as maker is one whose taker still waits for the answer. A trade that the other alone
has may have come since: the asking node looks at its history once more afterwards (`after`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final, Literal

import msgspec

from exchange.ledger.statement_checks import KeyChecker, open_document
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

MAX_QUESTIONS: Final = 300  # of one search
MAX_DIFFERENCES: Final = 2000  # trades; a search that found so many ends
MAX_SKEW: Final = 24 * 3_600_000_000  # us that the two statements may lie apart
FORMAT: Final = "exchange-node reconciliation 1"
NOTHING: Final = digest_of(())

Whose = Literal["ours", "theirs"]


class TradeDifference(msgspec.Struct, frozen=True):
    """A trade that only one side has, or each in another way. `under_way`: pending, the taker waits for
    the answer; later, it came after our statement; else "" and it is a disagreement."""

    ours: StatementTrade | None
    theirs: StatementTrade | None
    under_way: Literal["", "pending", "later"] = ""


class OpenSettlement(msgspec.Struct, frozen=True):
    """A payment that only one side recorded, in its own words."""

    whose: Whose
    settlement: Settlement


class AssetComparison(msgspec.Struct, frozen=True):
    """Units of 10 ** -`statements.DECIMALS`; above zero: we owe it, in the words of each side."""

    asset: str
    ours: int
    theirs: int
    under_way: int  # of the difference: by trades that are
    lost: int  # of the difference: what a side cannot show trades or settlements for
    unexplained: int  # of the difference: by nothing that was found

    @property
    def difference(self) -> int:
        return self.ours - self.theirs


class Comparison(msgspec.Struct, frozen=True):
    ours: Statement
    theirs: Statement
    assets: list[AssetComparison]
    trades: list[TradeDifference]
    settlements: list[OpenSettlement]
    asked: list[tuple[Whose, UndecidedTake]]  # takes without an answer, whoever asked
    complete: bool  # whether every trade that differs is among `trades`
    matched: bool  # whether settlements were compared one by one

    @property
    def agree(self) -> bool:
        """Both say the same, but for what is under way."""
        return (
            self.complete
            and not self.settlements
            and all(trade.under_way for trade in self.trades)
            and all(asset.difference == asset.under_way for asset in self.assets)
        )


class Evidence(msgspec.Struct, frozen=True):
    """All that was said in one reconciliation, signed by those who said it."""

    format: str
    network: str
    node: str  # who asked
    peer: str
    ours: SignedDocument
    theirs: SignedDocument
    parts: list[
        tuple[SignedDocument, SignedDocument]
    ] = []  # ours and theirs, in the order of the search
    after: SignedDocument | None = None  # our statement once more
    after_parts: list[SignedDocument] = []


# Which trades differ


class DifferenceSearch:
    """Ask both sides the question that `next` gives, give the answers to `add`, until there is none."""

    def __init__(self, ours: Statement, theirs: Statement) -> None:
        self._ours = ours
        self._theirs = theirs
        self._agenda: list[tuple[StatementQuestion, TradesDigest, TradesDigest]] = []
        self._asked = 0
        self.complete = True
        self.trades: list[TradeDifference] = []
        self.only_theirs: list[StatementQuestion] = []  # in whose answers there are such trades
        both = zip((ours.node, theirs.node), ours.trades, reversed(theirs.trades), strict=True)
        for taker, mine, other in both:
            self._consider(taker, mine, other)

    def _consider(self, taker: str, ours: TradesDigest, theirs: TradesDigest) -> None:
        """Ask about the takes that both digests are of, if they differ."""
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
        if self._asked >= MAX_QUESTIONS or len(self.trades) >= MAX_DIFFERENCES:
            self.complete = False
            return None
        return self._agenda[0][0]

    def add(self, ours: StatementPart, theirs: StatementPart) -> None:
        """Both answers to the question.

        Raises:
            StatementError: one is an answer to another question, or not what its statement says.
        """
        question, mine, other = self._agenda.pop(0)
        self._asked += 1
        for part, said, told in ((ours, self._ours, mine), (theirs, self._theirs, other)):
            self._check(part, said, told, question)
        if question.table:
            self._descend(question, ours, theirs)
        else:
            self._compare(question, ours.trades, theirs.trades)

    @staticmethod
    def _check(
        part: StatementPart, said: Statement, told: TradesDigest, question: StatementQuestion
    ) -> None:
        if part.question != question or part.cut != said.cut:
            raise StatementError("malformed", f"node {said.node} answered another question")
        if question.table:
            fits = sum(row.digest.count for row in part.rows) == told.count
        else:
            fits = digest_of(part.trades) == told
        if not fits:
            raise StatementError(
                "contradiction",
                f"the trades that node {said.node} shows are not those that it signed",
            )

    def _descend(
        self, question: StatementQuestion, ours: StatementPart, theirs: StatementPart
    ) -> None:
        mine = {row.index: row.digest for row in ours.rows}
        other = {row.index: row.digest for row in theirs.rows}
        found = len(self._agenda)
        for index in sorted(mine.keys() | other.keys()):
            self._consider(question.taker, mine.get(index, NOTHING), other.get(index, NOTHING))
        if found == len(self._agenda):  # the whole differs, and none of its parts
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
    """What follows from the documents.

    Raises:
        StatementError: a document is not what it should be, or one that is needed is not there.
    """
    network, node, peer = evidence.network, evidence.node, evidence.peer
    if evidence.format != FORMAT:
        raise StatementError("malformed", f"this is no {FORMAT!r}")
    if node == peer:
        raise StatementError("malformed", "both statements are of one node")

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
    """`asked`: takes of ours without an answer, when ours was said or after. `later`: trades that we
    have had since."""
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
    """Payments have no names that both know: the same amount of the same asset is the same payment, the
    earliest with the earliest."""
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
    """`settlements`: None when only their sums can be compared."""
    balances: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    under_way: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for said, balance, sign in ((ours, balances[0], 1), (theirs, balances[1], -1)):
        for position in said.positions:
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
