"""Statements made from a real journal, and asked for by other nodes, over calls that need no network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from exchange_kit import NETWORK, Mail
from order_kit import KEY, UNIT, CoinNetwork, with_fees

from exchange.journal.journal import Journal
from exchange.ledger import reconciliation, statement_checks, statements
from exchange.ledger.statements import SignedDocument, Statement, StatementPart, StatementQuestion
from exchange.model.instruments import Instrument
from node.service.committer import Committer
from node.service.statement_service import (
    BUSY_REPEATS,
    MAX_STRANGERS,
    PART,
    STATEMENT,
    PartRequest,
    StatementService,
)
from node.views.statement_views import ReconciliationView
from node.views.views import ServiceError
from p2p.base.errors import DeliveryError, RpcError, RpcTimeout

Handler = Callable[[str, Any], Awaitable[Any]]


class Wire:
    """Calls between nodes in memory. What is said is encoded, as on a link."""

    def __init__(self) -> None:
        self.handlers: dict[tuple[str, str], tuple[Handler, Any]] = {}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda method: None
        self.alter: Callable[[SignedDocument], SignedDocument] = lambda signed: signed

    def end(self, node: str) -> End:
        return End(self, node)


class End:
    def __init__(self, wire: Wire, node: str) -> None:
        self._wire = wire
        self._node = node

    def serve(self, method: str, handler: Handler, *, body_type: Any = Any) -> None:
        self._wire.handlers[self._node, method] = (handler, body_type)

    async def call(
        self, to: str, method: str, payload: Any = None, *, timeout: float, result_type: Any
    ) -> Any:
        wire = self._wire
        wire.calls.append(method)
        wire.before(method)
        if (to, method) not in wire.handlers:
            raise DeliveryError(f"no way to {to}", [])
        handler, body_type = wire.handlers[to, method]
        body = msgspec.msgpack.decode(msgspec.msgpack.encode(payload), type=body_type)
        answer = msgspec.msgpack.encode(await handler(self._node, body))
        return wire.alter(msgspec.msgpack.decode(answer, type=result_type))


class Durable:
    """`Committer`'s promise: what was done is on the disk."""

    def __init__(self, network: CoinNetwork, i: int, mail: list[Mail]) -> None:
        self._network = network
        self._i = i
        self._mail = mail
        self.journal = cast(Any, network.nodes[i].store)._journal

    async def durable(self) -> None:
        self._mail += self._network.drain(self._i)


class Bench:
    """Nodes with journals, and their statements."""

    def __init__(self, path: Path, n: int = 2, **options: Any) -> None:
        self.network = CoinNetwork(n, path=path, **options)
        self.wire = Wire()
        self.mail: list[Mail] = []  # sent by a node that was asked for a statement
        self.statements = [self.service(i) for i in range(n)]

    def service(self, i: int) -> StatementService:
        node = self.network.nodes[i]
        return StatementService(
            self.network[i],
            cast(Committer, Durable(self.network, i, self.mail)),
            lambda: self.network.now,
            node.keys,
            NETWORK,
            self.wire.end(node.keys.node_id),
        )

    def deliver(self) -> None:
        while self.mail:
            self.network.deliver(self.mail.pop(0))
        self.network.exchange()

    def reconcile(self, i: int = 0, j: int = 1) -> ReconciliationView:
        return asyncio.run(self.statements[i].reconcile(self.network.id(j)))

    def trade(self, price: int, quantity: int, maker: int = 1, taker: int = 0) -> None:
        self.network.ask(maker, price, quantity)
        self.network.exchange()
        self.network.bid(taker, price, quantity)
        self.network.exchange()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, instrument=with_fees("0.001", "0.002"))
    yield made
    made.network.close()


def positions(view: ReconciliationView) -> dict[str, tuple[str, str]]:
    return {row.asset: (row.ours, row.theirs) for row in view.assets}


def test_a_trade_whose_taker_waits_for_the_answer_is_under_way(bench: Bench) -> None:
    network = bench.network
    held: list[Mail] = []

    def hold(mail: Mail) -> list[Mail]:
        if mail.sender == 0:
            return [mail]
        held.append(mail)
        return []

    bench.trade(100, 1)
    network.ask(1, 100, 2)
    network.exchange()
    network.on_mail = hold  # neither the answer nor the fill in the feed
    network.bid(0, 100, 2)
    network.exchange()
    for i, j, whose in ((0, 1, "theirs"), (1, 0, "ours")):
        view = bench.reconcile(i, j)
        assert view.agree
        (trade,) = view.trades
        assert trade.under_way == "pending"
        assert getattr(trade, whose).quantity == "2"
        assert [(t.taker, t.quantity) for t in view.pending] == [
            ("ours" if i == 0 else "theirs", "2")
        ]
        usd = next(row for row in view.assets if row.asset == "USD")
        assert (usd.difference, usd.under_way, usd.unexplained) == ("-200", "-200", "0")
    network.on_mail = lambda mail: [mail]
    for mail in held:
        network.deliver(mail)
    network.exchange()
    view = bench.reconcile()
    assert (view.agree, view.trades, view.pending) == (True, [], [])


def test_a_trade_that_comes_between_the_two_statements_is_no_difference(bench: Bench) -> None:
    """In every way: this node is the taker or the maker, the answer has come or not."""
    bench.trade(100, 1)

    def trade_now(method: str) -> None:
        if method == STATEMENT:
            bench.trade(100, 2, maker=1, taker=0)
            bench.trade(100, 3, maker=0, taker=1)

    bench.wire.before = trade_now
    view = bench.reconcile()
    assert view.agree
    assert (view.trades_count, view.peer_trades_count) == (1, 3)
    assert sorted(trade.under_way for trade in view.trades) == ["later", "later"]


def test_a_payment_of_one_side_is_open_until_the_other_records_it(bench: Bench) -> None:
    bench.trade(100, 5)
    time = bench.network[0].us(bench.network.now)
    bench.network[0].ledger.settle(time, bench.network.id(1), "USD", -500 * UNIT, "wire")
    view = bench.reconcile()
    assert not view.agree
    (paid,) = view.settlements
    assert (paid.recorded_by, paid.direction, paid.amount) == ("ours", "paid", "500")
    assert positions(view)["USD"] == ("0", "500")
    bench.network[1].ledger.settle(time + 5, bench.network.id(0), "USD", 500 * UNIT, "")
    assert bench.reconcile().agree


def test_a_side_without_its_history_is_found_out(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(statements, "MAX_TRADES", 4)
    monkeypatch.setattr(reconciliation, "MAX_TRADES", 4)
    monkeypatch.setattr(statement_checks, "MAX_TRADES", 4)
    for module in (statements, reconciliation, statement_checks):
        monkeypatch.setattr(module, "CHILD_BITS", 1)
    for _ in range(9):
        bench.trade(100, 1)
    journal: Journal = cast(Any, bench.network.nodes[1].store)._journal
    archive = journal.history()
    archive._writer.execute("DELETE FROM fills WHERE id IN (3, 7)")
    view = bench.reconcile()
    assert not view.agree
    assert view.trades_complete
    assert {(t.theirs, t.under_way) for t in view.trades} == {(None, "")}
    assert len(view.trades) == 2
    assert bench.wire.calls.count(PART) > 1  # a table, and then trades
    assert [(r.asset, r.difference, r.lost, r.unexplained) for r in view.assets] == [
        ("COIN", "0", "2", "0"),
        ("USD", "0", "-200", "0"),
    ]


def test_payments_in_coarser_units_of_the_past_keep_their_amount(bench: Bench) -> None:
    network = bench.network
    time = network[0].us(network.now)
    for i, sign in ((0, 1), (1, -1)):
        network[i].ledger.settle(time, network.id(1 - i), "USD", sign * 7 * UNIT, "")
        network[i].ledger.settle(time, network.id(1 - i), "USD", -sign * 7 * UNIT, "back")
        network[i].ledger.settle(time, network.id(1 - i), "COIN", sign * UNIT, "")
    network.exchange()
    finer = Instrument("COIN-USD", Decimal("0.000001"), Decimal("0.00001"))
    network.markets, network.instruments = (finer.key,), (finer,)
    network.restart(0)
    assert network[0].ledger.decimals["USD"] == 11
    bench.statements[0] = bench.service(0)
    network[0].ledger.settle(time, network.id(1), "USD", 3 * 10**11, "")
    network[1].ledger.settle(time, network.id(0), "USD", -3 * UNIT, "")
    view = bench.reconcile()
    assert view.agree
    assert positions(view) == {"COIN": ("1", "1"), "USD": ("3", "3")}


# Who may ask what


def serve(bench: Bench, i: int, caller: str, method: str, body: Any) -> SignedDocument:
    handler, _ = bench.wire.handlers[bench.network.id(i), method]

    async def ask() -> SignedDocument:
        answer: SignedDocument = await handler(caller, body)
        return answer

    return asyncio.run(ask())


def test_a_requester_gets_statements_about_itself_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.trade(100, 2)
    third = bench.network.id(2)
    signed = serve(bench, 0, third, STATEMENT, {"peer": bench.network.id(1)})
    said = statement_checks.open_document(
        bench.network.nodes[2].keys, signed, Statement, network=NETWORK, node=bench.network.id(0), peer=third
    )  # fmt: skip
    assert (said.positions, [digest.count for digest in said.trades]) == ([], [0, 0])
    everything = StatementQuestion(third, 0, 62, False)
    part = serve(bench, 0, third, PART, PartRequest(said.cut, everything))
    found = statement_checks.open_document(
        bench.network.nodes[2].keys,
        part,
        StatementPart,
        network=NETWORK,
        node=bench.network.id(0),
        peer=third,
    )
    assert found.trades == []
    others = PartRequest(said.cut, StatementQuestion(bench.network.id(1), 0, 62, False))
    with pytest.raises(RpcError, match="not about trades"):
        serve(bench, 0, third, PART, others)
    bench.network.close()


def test_a_part_of_a_statement_that_was_never_made_is_refused(bench: Bench) -> None:
    question = StatementQuestion(bench.network.id(1), 0, 62, False)
    with pytest.raises(RpcError, match="no such statement"):
        serve(bench, 0, bench.network.id(1), PART, PartRequest((99, 0), question))


def test_a_node_is_served_one_statement_at_a_time(bench: Bench) -> None:
    handler, _ = bench.wire.handlers[bench.network.id(0), STATEMENT]

    async def both() -> list[object]:
        peer = bench.network.id(1)
        return await asyncio.gather(
            handler(peer, None),
            handler(peer, None),
            handler("another", None),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(both())
    assert isinstance(first, SignedDocument)
    assert isinstance(second, RpcError)
    assert second.code == "busy"
    assert isinstance(third, SignedDocument)


def test_strangers_do_not_take_the_places_of_nodes_with_trades(bench: Bench) -> None:
    bench.trade(100, 1)
    handler, _ = bench.wire.handlers[bench.network.id(0), STATEMENT]

    async def crowd() -> list[object]:
        strangers = (handler(f"stranger {n}", None) for n in range(100))
        return await asyncio.gather(
            *strangers, handler(bench.network.id(1), None), return_exceptions=True
        )

    *strangers, known = asyncio.run(crowd())
    assert isinstance(known, SignedDocument)
    assert [isinstance(found, SignedDocument) for found in strangers].count(True) == MAX_STRANGERS


@pytest.mark.parametrize(("refusals", "outcome"), [(BUSY_REPEATS, "agree"), (99, "busy")])
def test_a_busy_peer_is_asked_again_a_few_times(bench: Bench, refusals: int, outcome: str) -> None:
    left = iter(range(refusals))

    def busy(method: str) -> None:
        if next(left, None) is not None:
            raise RpcError("busy", "later", retry_after_s=0.001)

    bench.wire.before = busy
    if outcome == "agree":
        assert bench.reconcile().agree
    else:
        assert outcome in problem(bench).detail
    assert bench.wire.calls == [STATEMENT] * (1 + BUSY_REPEATS)


# What goes wrong


def problem(bench: Bench) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        bench.reconcile()
    return error.value


def test_a_statement_that_is_not_the_peers_is_refused(bench: Bench) -> None:
    bench.trade(100, 1)
    bench.wire.alter = lambda signed: msgspec.structs.replace(signed, signature=bytes(64))
    found = problem(bench)
    assert (found.status, found.code) == (502, "bad_statement")
    assert bench.network.id(1) in found.detail
    assert "bad_signature" in found.detail


def test_an_unreachable_node_is_named(bench: Bench) -> None:
    def silent(method: str) -> None:
        raise RpcTimeout("no answer")

    def old(method: str) -> None:
        raise RpcError("unknown_method", method)

    bench.wire.before = silent
    assert problem(bench).code == "no_answer"
    bench.wire.before = old
    assert problem(bench).code == "bad_statement"
    bench.wire.before = lambda method: bench.wire.handlers.clear()
    assert problem(bench).code == "unreachable"


def test_statements_are_not_kept_in_memory(bench: Bench) -> None:
    """A cut is of the history, which does not change: an old one can still be asked about."""
    bench.trade(100, 1)
    peer = bench.network.id(1)
    signed = serve(bench, 0, peer, STATEMENT, None)
    keys = bench.network.nodes[1].keys
    about = {"network": NETWORK, "node": bench.network.id(0), "peer": peer}
    said = statement_checks.open_document(keys, signed, Statement, **about)
    bench.trade(100, 1)
    bench.network.restart(0)
    bench.statements[0] = bench.service(0)
    question = StatementQuestion(bench.network.id(0), 0, 62, False)
    part = statement_checks.open_document(
        keys, serve(bench, 0, peer, PART, PartRequest(said.cut, question)), StatementPart, **about
    )
    assert [trade.market for trade in part.trades] == [KEY]
