"""Statements: only what their signer said counts, and a comparison finds exactly what differs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from exchange_kit import Keys
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.ledger import reconciliation, statement_checks, statements
from exchange.ledger.reconciliation import (
    FORMAT,
    Comparison,
    DifferenceSearch,
    Evidence,
    compare,
    evaluate,
)
from exchange.ledger.statement_checks import is_question, open_document
from exchange.ledger.statements import (
    CHILD_BITS,
    VERSION,
    Position,
    Settlement,
    SignedDocument,
    Statement,
    StatementError,
    StatementPart,
    StatementQuestion,
    StatementTrade,
    TradesDigest,
    TradesHasher,
    UndecidedTake,
    amounts,
    make_part,
    market_of,
    sign_document,
    text_of,
    trade_of,
    units,
)
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.model.records import Fill

replace = msgspec.structs.replace
A, B, STRANGER = Keys(1), Keys(2), Keys(3)
BTC = Instrument("BTC-USD", Decimal("0.1"), Decimal("0.00001"))
FINE = "0." + "0" * 20 + "1"
WIDE = 10**15  # what take numbers begin at


class Books:
    """Records of one node about the other."""

    def __init__(self, keys: Keys, peer: Keys) -> None:
        self.keys = keys
        self.peer = peer
        self.trades: list[StatementTrade] = []
        self.settlements: list[Settlement] = []
        self.asked: list[UndecidedTake] = []
        self.lost: dict[str, int] = {}  # of its balances: what it has no history for

    @property
    def id(self) -> str:
        return self.keys.node_id

    def paid(self, asset: str, amount: str, time: int = 1) -> None:
        self.settlements.append(Settlement(asset, amount, time))

    def statement(self) -> Statement:
        traded: dict[str, int] = {}
        settled: dict[str, int] = {}
        foldings = {self.id: TradesHasher(), self.peer.node_id: TradesHasher()}
        for trade in sorted(self.trades, key=lambda t: t.take):
            foldings[trade.taker].add(trade)
            for asset, amount in amounts(trade, self.id).items():
                traded[asset] = traded.get(asset, 0) + amount
        for each in self.settlements:
            settled[each.asset] = settled.get(each.asset, 0) + units(each.amount)
        positions = [
            Position(
                asset,
                text_of(traded.get(asset, 0) + settled.get(asset, 0) + self.lost.get(asset, 0)),
                text_of(traded.get(asset, 0)),
                text_of(settled.get(asset, 0)),
            )
            for asset in sorted({*traded, *settled, *self.lost})
        ]
        return Statement(
            VERSION,
            "net",
            self.id,
            self.peer.node_id,
            1000,
            (len(self.trades), len(self.settlements)),
            positions,
            [foldings[self.id].digest, foldings[self.peer.node_id].digest],
            self.settlements,
            len(self.settlements),
            self.asked,
            len(self.asked),
        )

    def part(self, question: StatementQuestion) -> StatementPart:
        last = question.first + (1 << question.bits) - 1
        found = sorted(
            (
                t
                for t in self.trades
                if t.taker == question.taker and question.first <= t.take <= last
            ),
            key=lambda t: t.take,
        )
        cut = (len(self.trades), len(self.settlements))
        return make_part("net", self.id, self.peer.node_id, cut, question, found)


def pair() -> tuple[Books, Books]:
    return Books(A, B), Books(B, A)


def trade(take: int = WIDE, *, taker: Keys = A, **changes: Any) -> StatementTrade:
    made = StatementTrade(taker.node_id, take, BTC.key, BUY, 300_000, 50_000, 7, 9, 500)
    return replace(made, **changes)


def evidence(ours: Books, theirs: Books, later: Iterable[StatementTrade] = ()) -> Evidence:
    """As `node.service.statement_service` gathers it. `later`: what we have had by the time of the second look."""
    mine, other = ours.statement(), theirs.statement()
    search = DifferenceSearch(mine, other)
    parts = []
    while (question := search.next()) is not None:
        pair_ = (ours.part(question), theirs.part(question))
        parts.append((sign_document(ours.keys, pair_[0]), sign_document(theirs.keys, pair_[1])))
        search.add(*pair_)
    found = Evidence(
        FORMAT,
        "net",
        ours.id,
        theirs.id,
        sign_document(ours.keys, mine),
        sign_document(theirs.keys, other),
        parts,
    )
    if search.only_theirs:
        ours.trades += later
        return replace(
            found,
            after=sign_document(ours.keys, ours.statement()),
            after_parts=[sign_document(ours.keys, ours.part(q)) for q in search.only_theirs],
        )
    return found


def compared(ours: Books, theirs: Books, later: Iterable[StatementTrade] = ()) -> Comparison:
    return evaluate(STRANGER, evidence(ours, theirs, later))


# What is said


def test_both_nodes_state_the_same_trade_and_opposite_amounts() -> None:
    common: dict[str, Any] = {"market": BTC.key, "price": 300_000, "quantity": 50_000, "time": 500}
    taken = Fill(
        A.node_id, 5, "taker", order=9, side=SELL, counterparty=B.node_id, counterparty_order=7,
        account=3, fee=12, fee_asset="USD", **common,
    )  # fmt: skip
    given_ = Fill(
        A.node_id, 5, "maker", order=7, side=BUY, counterparty=A.node_id, counterparty_order=9,
        **common,
    )  # fmt: skip
    said = trade_of(taken)
    assert said == trade_of(given_)
    assert (said.side, said.maker_order, said.taker_order) == (SELL, 7, 9)
    here, there = amounts(said, A.node_id), amounts(said, B.node_id)
    assert {asset: text_of(amount) for asset, amount in here.items()} == {
        "BTC": "0.5",  # sold: this node owes it
        "USD": "-15000",
    }
    assert there == {asset: -amount for asset, amount in here.items()}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "BTC-USD@x/1",
        "BTC-USD@1/-",
        "BTC USD@1/1",
        "@1/1",
        "BTC-U D@1/1",
        "BTC-USD@-1/1",
        "BTC-USD@1/0",
    ],
)
def test_invalid_market_names_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a market"):
        market_of(key)


# What is checked


def check(signed: SignedDocument, **changes: str) -> Statement:
    about = {"network": "net", "node": A.node_id, "peer": B.node_id, **changes}
    return open_document(STRANGER, signed, Statement, **about)


def refusal(call: Callable[..., object], *args: Any, **more: Any) -> str:
    with pytest.raises(StatementError) as error:
        call(*args, **more)
    assert error.value.detail
    return error.value.code


def some_books() -> Books:
    ours, _ = pair()
    ours.trades = [trade(WIDE), trade(WIDE + 4, taker=B)]
    ours.paid("USD", "-15000")
    ours.asked = [UndecidedTake(WIDE + 9, BTC.key, 4, BUY, 300_000, 1)]
    return ours


def test_another_key_network_node_or_kind_is_refused() -> None:
    said = some_books().statement()
    signed = sign_document(A, said)
    assert refusal(check, sign_document(B, said)) == "wrong_key"
    assert refusal(check, replace(signed, key=B.public_key)) == "wrong_key"
    assert refusal(check, replace(signed, signature=bytes(64))) == "bad_signature"
    assert refusal(check, replace(signed, body=signed.body[:-1] + b"\x00")) == "bad_signature"
    assert refusal(check, signed, network="other") == "wrong_network"
    assert refusal(check, signed, peer=STRANGER.node_id) == "wrong_node"
    assert refusal(check, sign_document(B, said), node=B.node_id, peer=A.node_id) == "wrong_node"
    assert refusal(check, replace(signed, kind="part")) == "malformed"
    assert refusal(check, replace(signed, key=b"")) == "malformed"
    assert refusal(check, replace(signed, body=bytes(statements.MAX_BODY + 1))) == "malformed"


def signed_body(body: bytes) -> SignedDocument:
    return SignedDocument(
        "statement", body, A.public_key, A.sign(statements.signed_hash("statement", body))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"time": -1},
        {"cut": (0, 2**62)},
        {"positions": [Position("USD", "1", "1", "0")] * 2},
        {"positions": [Position("USD", "1.50", "1", "0")]},
        {"positions": [Position("USD", "1e5", "1", "0")]},
        {"positions": [Position("USD", "-0", "1", "0")]},
        {"positions": [Position("U D", "1", "1", "0")]},
        {"trades": [TradesDigest(0, bytes(32))]},
        {"trades": [TradesDigest(0, bytes(31)), TradesDigest(0, bytes(32))]},
        {"trades": [TradesDigest(-1, bytes(32)), TradesDigest(0, bytes(32))]},
        {"settlement_count": 5},
        {"settlements": [Settlement("USD", "x", 1)]},
        {"asked_count": 0},
        {"asked": [UndecidedTake(0, BTC.key, 4, BUY, 1, 1)]},
        {"asked": [UndecidedTake(5, "B C-USD", 4, BUY, 1, 1)]},
        {"asked": [UndecidedTake(5, BTC.key, 4, 0, 1, 1)]},
        {"asked": [UndecidedTake(5, BTC.key, 4, BUY, 0, 1)]},
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any]) -> None:
    assert (
        refusal(check, sign_document(A, replace(some_books().statement(), **changes)))
        == "malformed"
    )


def test_only_the_canonical_encoding_of_a_statement_is_accepted() -> None:
    body = sign_document(A, some_books().statement()).body
    assert check(signed_body(body))
    assert refusal(check, signed_body(b"\xdc\x00\x0c" + body[1:])) == "malformed"  # a longer head
    assert refusal(check, signed_body(body + b"\x00")) == "malformed"
    assert refusal(check, signed_body(b"")) == "malformed"


@given(st.binary(max_size=200))
def test_any_signed_bytes_are_a_statement_or_refused(body: bytes) -> None:
    assert refusal(check, signed_body(body)) == "malformed"


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    signed = sign_document(A, some_books().statement())
    at = data.draw(st.integers(0, len(signed.body) - 1))
    changed = bytearray(signed.body)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert refusal(check, replace(signed, body=bytes(changed))) == "bad_signature"


@pytest.mark.parametrize(
    "question",
    [
        StatementQuestion(STRANGER.node_id, 0, 10, False),
        StatementQuestion(A.node_id, 1, 10, False),
        StatementQuestion(A.node_id, -1024, 10, False),
        StatementQuestion(A.node_id, 2**62, 10, False),
        StatementQuestion(A.node_id, 0, 63, False),
        StatementQuestion(A.node_id, 0, CHILD_BITS - 1, True),
    ],
)
def test_impossible_questions_are_refused(question: StatementQuestion) -> None:
    assert not is_question(question, A.node_id, B.node_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"trades": [trade(2048)]},
        {"trades": [trade(5, taker=B)]},
        {"trades": [trade(5), trade(4)]},
        {"trades": [trade(5, quantity=0)]},
        {"trades": [trade(5, market=f"BTC-USD@{FINE}/{FINE}", price=1, quantity=1)]},
        {"rows": [statements.DigestRow(0, TradesDigest(1, bytes(32), 1, 1))]},
        {
            "question": StatementQuestion(A.node_id, 0, 12, True),
            "rows": [statements.DigestRow(1, TradesDigest(1, bytes(32), 1, 1))],
        },
        {
            "question": StatementQuestion(A.node_id, 0, 12, True),
            "rows": [statements.DigestRow(0, reconciliation.NOTHING)],
        },
    ],
)
def test_parts_with_trades_outside_the_question_are_refused(changes: dict[str, Any]) -> None:
    cut = (2, 1)
    fine = StatementPart(
        VERSION,
        "net",
        A.node_id,
        B.node_id,
        cut,
        StatementQuestion(A.node_id, 0, 10, False),
        [],
        [],
    )
    about = {"network": "net", "node": A.node_id, "peer": B.node_id}
    assert open_document(STRANGER, sign_document(A, fine), StatementPart, **about) == fine
    bad = sign_document(A, replace(fine, **changes))
    assert refusal(open_document, STRANGER, bad, StatementPart, **about) == "malformed"


# What is compared


def test_missing_and_different_trades_are_listed() -> None:
    ours, theirs = pair()
    both = [trade(WIDE + n) for n in range(5)]
    mine, other = trade(WIDE + 50, taker=B), trade(WIDE + 60, taker=B)
    changed = trade(WIDE + 3, quantity=50_001)
    ours.trades = [*both, mine]
    theirs.trades = [*both[:3], changed, both[4], other]
    found = compared(ours, theirs)
    assert not found.agree
    assert found.complete
    assert {(row.ours, row.theirs, row.under_way) for row in found.trades} == {
        (both[3], changed, ""),
        (mine, None, ""),
        (None, other, ""),
    }
    (btc, usd) = found.assets
    assert (text_of(btc.difference), text_of(usd.difference)) == ("0.00001", "-0.3")
    assert btc.unexplained == usd.unexplained == 0


def test_undecided_takes_explain_a_difference() -> None:
    ours, theirs = pair()
    given_, taken = trade(WIDE, taker=B), trade(WIDE + 1, taker=A)
    ours.trades, theirs.trades = [given_], [taken]
    asked = UndecidedTake(given_.take, BTC.key, 7, BUY, 300_000, 50_000)
    theirs.asked, ours.asked = [asked], [replace(asked, take=taken.take)]
    found = compared(ours, theirs)
    assert [row.under_way for row in found.trades] == ["pending", "pending"]
    assert found.agree
    # The taker knows what it was granted: what the maker does not have then is no trade under way.
    ours.trades, theirs.trades = [trade(WIDE + 1, taker=A)], []
    assert not compared(ours, theirs).agree


def test_later_trades_explain_a_difference() -> None:
    ours, theirs = pair()
    new = trade(WIDE, taker=B)
    theirs.trades = [new]
    found = compared(ours, theirs, later=[new])
    assert [row.under_way for row in found.trades] == ["later"]
    assert found.agree
    ours, _ = pair()
    assert not compared(ours, theirs, later=[trade(WIDE, taker=B, price=1)]).agree


def test_payments_are_matched_by_amount_and_asset() -> None:
    ours, theirs = pair()
    for time in (1, 2, 3):
        ours.paid("USD", "100", time)
    theirs.paid("USD", "-100", 9)
    ours.paid("BTC", "-1", 4)
    theirs.paid("BTC", "1", 5)
    theirs.paid("BTC", "-1", 6)  # the other direction is another payment
    found = compared(ours, theirs)
    assert not found.agree
    assert [(row.whose, row.settlement) for row in found.settlements] == [
        ("theirs", Settlement("BTC", "-1", 6)),
        ("ours", Settlement("USD", "100", 2)),
        ("ours", Settlement("USD", "100", 3)),
    ]
    assert [(row.asset, text_of(row.difference), row.unexplained) for row in found.assets] == [
        ("BTC", "-1", 0),
        ("USD", "200", 0),
    ]


def test_payments_that_cancel_out_are_still_a_disagreement() -> None:
    ours, theirs = pair()
    ours.paid("USD", "5")
    ours.paid("USD", "-5")
    found = compared(ours, theirs)
    assert [row.difference for row in found.assets] == [0]
    assert not found.agree


def test_too_many_payments_are_compared_by_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair()
    for _ in range(5):
        ours.paid("USD", "2")
    theirs.paid("USD", "-10")
    assert not compared(ours, theirs).agree
    monkeypatch.setattr(statement_checks, "MAX_SETTLEMENTS", 4)
    monkeypatch.setattr(reconciliation, "MAX_SETTLEMENTS", 4)
    mine = replace(ours.statement(), settlements=ours.settlements[:4])
    found = compare(mine, theirs.statement(), DifferenceSearch(mine, theirs.statement()), (), ())
    assert not found.matched
    assert found.agree


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300), st.sampled_from([1, 40, 10**6]))
def test_a_search_finds_exactly_the_trades_that_differ(seed: int, many: int, spread: int) -> None:
    rng = random.Random(seed)
    takes = rng.sample(range(WIDE, WIDE + many * spread + 1), many)
    every = [
        trade(take, taker=rng.choice((A, B)), time=rng.randrange(1, 9)) for take in sorted(takes)
    ]
    ours, theirs = pair()
    lacks = rng.choice((0.0, 0.02, 0.5))
    ours.trades = [each for each in every if rng.random() >= lacks]
    theirs.trades = [each for each in every if rng.random() >= lacks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "MAX_TRADES", 8)
        patch.setattr(statement_checks, "MAX_TRADES", 8)
        patch.setattr(reconciliation, "MAX_TRADES", 8)
        patch.setattr(statements, "CHILD_BITS", 3)
        patch.setattr(statement_checks, "CHILD_BITS", 3)
        patch.setattr(reconciliation, "CHILD_BITS", 3)
        found = compared(ours, theirs)
    assert found.complete
    mine, other = set(ours.trades), set(theirs.trades)
    assert {row.ours for row in found.trades if row.theirs is None} == mine - other
    assert {row.theirs for row in found.trades if row.ours is None} == other - mine
    assert found.agree is (mine == other)
    assert all(row.unexplained == 0 for row in found.assets)


def test_a_search_ends_when_all_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "MAX_QUESTIONS", 5)
    monkeypatch.setattr(statements, "MAX_TRADES", 4)
    monkeypatch.setattr(reconciliation, "MAX_TRADES", 4)
    ours, theirs = pair()
    ours.trades = [trade(WIDE + n) for n in range(400)]
    found = compared(ours, theirs)
    assert not found.complete
    assert not found.agree
    assert len(found.ours.trades) == 2


def test_a_part_that_contradicts_its_statement_is_refused() -> None:
    ours, theirs = pair()
    ours.trades, theirs.trades = [trade()], [trade(price=1)]
    mine, other = ours.statement(), theirs.statement()
    search = DifferenceSearch(mine, other)
    question = search.next()
    assert question is not None
    theirs.trades = []
    lie = replace(theirs.part(question), cut=other.cut)
    assert refusal(search.add, ours.part(question), lie) == "contradiction"


def test_a_part_of_another_cut_is_refused() -> None:
    ours, theirs = pair()
    ours.trades, theirs.trades = [trade()], [trade(price=1)]
    search = DifferenceSearch(ours.statement(), theirs.statement())
    question = search.next()
    assert question is not None
    theirs.trades.append(trade(WIDE + 2))
    assert refusal(search.add, ours.part(question), theirs.part(question)) == "malformed"


def test_evidence_holds_without_its_nodes_and_not_when_it_is_tampered_with() -> None:
    ours, theirs = pair()
    ours.trades = [trade(WIDE + n) for n in range(3)]
    theirs.trades = [*ours.trades[:2], trade(WIDE + 9, taker=B)]
    made = evidence(ours, theirs, later=[trade(WIDE + 8, taker=B)])
    kept = msgspec.json.decode(msgspec.json.encode(made), type=Evidence)
    assert {row.ours or row.theirs for row in evaluate(STRANGER, kept).trades} == {
        trade(WIDE + 2),
        trade(WIDE + 9, taker=B),
    }
    forged = sign_document(STRANGER, theirs.statement())
    for bad in (
        replace(kept, theirs=forged),
        replace(kept, theirs=kept.ours),
        replace(kept, node=theirs.id, peer=ours.id),
        replace(kept, peer=ours.id),
        replace(kept, network="other"),
        replace(kept, parts=kept.parts[:1]),
        replace(kept, parts=list(reversed(kept.parts))),
        replace(kept, after_parts=[kept.parts[1][0]]),
        replace(kept, format="another"),
    ):
        assert refusal(evaluate, STRANGER, bad)


def test_statements_of_different_days_are_not_compared() -> None:
    ours, theirs = pair()
    old = replace(ours.statement(), time=reconciliation.MAX_SKEW + 1001)
    kept = replace(evidence(ours, theirs), ours=sign_document(A, old))
    assert refusal(evaluate, STRANGER, kept) == "malformed"


def test_many_trades_are_requested_by_table() -> None:
    question = StatementQuestion(A.node_id, 0, 12, False)
    trades = [trade(n + 1) for n in range(statements.MAX_TRADES + 1)]
    assert refusal(make_part, "net", A.node_id, B.node_id, (0, 0), question, trades) == "too_many"
    table = make_part(
        "net", A.node_id, B.node_id, (0, 0), replace(question, table=True), iter(trades)
    )
    assert sum(row.digest.count for row in table.rows) == len(trades)
    assert [row.index for row in table.rows] == list(range(len(trades) // 64 + 1))
