"""Statements about other nodes: made from the journal, exchanged with them, and compared.

A node discloses to another only their mutual trades: the requester is authenticated by its link, or
by its signature without one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from exchange.engine.engine import Engine
from exchange.journal.archive import Archive
from exchange.ledger.balances import PEER
from exchange.ledger.reconciliation import FORMAT, DifferenceSearch, Evidence, evaluate
from exchange.ledger.statement_checks import is_question, open_document
from exchange.ledger.statements import (
    MAX_ASKED,
    MAX_SETTLEMENTS,
    VERSION,
    Position,
    Settlement,
    SignedDocument,
    Statement,
    StatementError,
    StatementPart,
    StatementQuestion,
    StatementTrade,
    TradesHasher,
    UndecidedTake,
    bought,
    make_part,
    sign_document,
    text_of,
    trade_of,
    units,
    worth,
)
from exchange.model.decimals import plain
from exchange.model.ports import SigningKeys
from exchange.model.records import PendingTake, Posting
from node.service.committer import Committer
from node.views.statement_views import ReconciliationView, reconciliation
from node.views.views import ServiceError
from p2p.base.errors import P2PError, RpcError, RpcTimeout

T = TypeVar("T")

STATEMENT: Final = "statement"
PART: Final = "statement_part"
TIMEOUT: Final = 60.0  # s, for one answer: a million trades take some seconds to go through
LONGEST: Final = 240.0  # s, for a comparison with all its questions
REST_MAX: Final = 1.0  # s; work on statements is followed by a rest as long as it was, at most this
MAX_WAITING: Final = (
    32  # nodes with trades waiting for a statement; further requests are refused as busy
)
MAX_STRANGERS: Final = 4  # nodes without trades, whose keys are free, besides
BUSY_REPEATS: Final = 5  # of a request that is refused as busy
BUSY_PAUSE: Final = 5.0  # s between them at most, whatever the peer says
_DECIMALS: Final = re.compile(r"decimals (\d+) to \d+", re.ASCII)


class PartRequest(msgspec.Struct, frozen=True):
    """A question about the history of a statement: its `cut`."""

    cut: tuple[int, int]
    question: StatementQuestion


class StatementRpc(Protocol):
    """The part of `p2p.rpc.rpc.Rpc` that statements need."""

    def serve(
        self,
        method: str,
        handler: Callable[[str, Any], Awaitable[Any]],
        *,
        body_type: Any = Any,
    ) -> None: ...

    async def call(
        self, to: str, method: str, payload: Any = None, *, timeout: float, result_type: Any
    ) -> Any: ...


class StatementService:
    """See the module's docstring. `clock` is the engine's: monotonic seconds."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        clock: Callable[[], float],
        keys: SigningKeys,
        network: str,
        rpc: StatementRpc,
    ) -> None:
        self._engine = engine
        self._committer = committer
        self._clock = clock
        self._keys = keys
        self._network = network
        self._rpc = rpc
        self._reading = asyncio.Lock()
        self._rest_until = 0.0
        self._served: dict[str, bool] = {}  # node: it has trades with this one
        rpc.serve(STATEMENT, self._serve_statement)
        rpc.serve(PART, self._serve_part, body_type=PartRequest)

    # For others

    async def _serve_statement(self, caller: str, body: object) -> SignedDocument:
        return await self._serve(caller, lambda: self._statement(caller))

    async def _serve_part(self, caller: str, request: PartRequest) -> SignedDocument:
        question = request.question
        if not is_question(question, self._keys.node_id, caller):
            raise RpcError("bad_request", "the question is not about trades between the two nodes")
        return await self._serve(caller, lambda: self._part(caller, request.cut, question))

    async def _serve(
        self, caller: str, make: Callable[[], Awaitable[Statement | StatementPart]]
    ) -> SignedDocument:
        """Serve requests one at a time for each node, and for few nodes at once: a statement may be long work.
        Strangers have places of their own."""
        known = self._engine.ledger.has_dealt_with(caller)
        waiting = list(self._served.values()).count(known)
        if caller in self._served or waiting >= (MAX_WAITING if known else MAX_STRANGERS):
            raise RpcError("busy", "another statement is being made", retry_after_s=1.0)
        self._served[caller] = known
        try:
            return sign_document(self._keys, await make())
        except StatementError as error:
            raise RpcError(error.code, error.detail) from None
        finally:
            del self._served[caller]

    # Making

    async def _statement(self, peer: str) -> Statement:
        # In this order: a take that has its answer when the history is read is in the history, or it
        # is among the queried ones.
        takes = [take for take in self._engine.orders.takes.pending if take.maker == peer]
        await self._committer.durable()
        time, decimals = self._engine.us(self._clock()), dict(self._engine.ledger.decimals)
        return await self._read(
            lambda past: _statement(
                past, self._network, self._keys.node_id, peer, time, takes, decimals
            )
        )

    async def _part(
        self, peer: str, cut: tuple[int, int], question: StatementQuestion
    ) -> StatementPart:
        node = self._keys.node_id

        def make(past: Archive) -> StatementPart:
            fills, postings = past.cut()
            if not (0 <= cut[0] <= fills and 0 <= cut[1] <= postings):
                raise StatementError("unknown_cut", "this node has made no such statement")
            last = question.first + (1 << question.bits) - 1
            found = past.fills_with(peer, cut[0], first=question.first, last=last)
            trades = (trade_of(fill) for fill in found if fill.taker == question.taker)
            return make_part(self._network, node, peer, cut, question, trades)

        return await self._read(make)

    async def _read(self, make: Callable[[Archive], T]) -> T:
        """In a thread, one at a time, and then a rest: trading goes on."""
        async with self._reading:
            began = self._clock()
            if began < self._rest_until:
                await asyncio.sleep(self._rest_until - began)
                began = self._clock()
            try:
                return await asyncio.to_thread(lambda: make(self._committer.journal.history()))
            finally:
                now = self._clock()
                self._rest_until = now + min(now - began, REST_MAX)

    # Comparing

    async def reconcile(self, peer: str) -> ReconciliationView:
        """Compare with what `peer`, a full node id, says.

        Raises:
            ServiceError: it does not answer, or not as an honest node does.
        """
        try:
            async with asyncio.timeout(LONGEST):
                evidence = await self._evidence(peer)
            found = await asyncio.to_thread(evaluate, self._keys, evidence)
            return reconciliation(found, evidence)
        except TimeoutError:
            raise ServiceError(
                504, "no_answer", f"the comparison took longer than {LONGEST:g} s; try again"
            ) from None
        except StatementError as error:
            raise ServiceError(
                502,
                "bad_statement",
                f"node {peer} gave no statement that can be used: {error.detail} ({error.code})",
            ) from None

    async def lacking(self, peer: str) -> tuple[list[StatementTrade], bool]:
        """Return the trades with `peer` that its signed statement has and this node's journal lacks, and if
        these are all of them.

        Raises:
            ServiceError: as for `reconcile`.
        """
        try:
            async with asyncio.timeout(LONGEST):
                evidence = await self._evidence(peer)
            found = await asyncio.to_thread(evaluate, self._keys, evidence)
        except TimeoutError:
            raise ServiceError(504, "no_answer", f"node {peer} took too long") from None
        except StatementError as error:
            raise ServiceError(502, "bad_statement", f"{error.detail} ({error.code})") from None
        trades = [trade.theirs for trade in found.trades if trade.ours is None and trade.theirs]
        return trades, found.complete

    async def _evidence(self, peer: str) -> Evidence:
        ours = await self._statement(peer)  # before theirs, see exchange.ledger.reconciliation
        signed = await self._ask(peer, STATEMENT, None)
        theirs = self._opened(signed, Statement, peer)
        search = DifferenceSearch(ours, theirs)
        parts: list[tuple[SignedDocument, SignedDocument]] = []
        while (question := search.next()) is not None:
            other = await self._ask(peer, PART, PartRequest(theirs.cut, question))
            mine = await self._part(peer, ours.cut, question)
            parts.append((sign_document(self._keys, mine), other))
            search.add(mine, self._opened(other, StatementPart, peer))
        evidence = Evidence(
            FORMAT,
            self._network,
            self._keys.node_id,
            peer,
            sign_document(self._keys, ours),
            signed,
            parts,
        )
        if not search.only_theirs:
            return evidence
        after = await self._statement(peer)
        again = [await self._part(peer, after.cut, q) for q in search.only_theirs]
        return msgspec.structs.replace(
            evidence,
            after=sign_document(self._keys, after),
            after_parts=[sign_document(self._keys, part) for part in again],
        )

    def _opened(self, signed: SignedDocument, kind: type[Any], peer: str) -> Any:
        return open_document(
            self._keys, signed, kind, network=self._network, node=peer, peer=self._keys.node_id
        )

    async def _ask(self, peer: str, method: str, body: PartRequest | None) -> SignedDocument:
        try:
            signed = await self._ask_patiently(peer, method, body)
        except RpcTimeout:
            raise ServiceError(
                504, "no_answer", f"node {peer} did not answer within {TIMEOUT:g} s; try again"
            ) from None
        except RpcError as error:
            raise ServiceError(
                502, "bad_statement", f"node {peer} gives no statement: {error}"
            ) from None
        except P2PError as error:
            raise ServiceError(502, "unreachable", str(error)) from None
        return signed

    async def _ask_patiently(
        self, peer: str, method: str, body: PartRequest | None
    ) -> SignedDocument:
        """Repeat a request that is refused as busy a few times. Raises as `StatementRpc.call`."""
        repeats = 0
        while True:
            try:
                signed: SignedDocument = await self._rpc.call(
                    peer, method, body, timeout=TIMEOUT, result_type=SignedDocument
                )
                return signed
            except RpcError as error:
                if error.code != "busy" or repeats == BUSY_REPEATS:
                    raise
                repeats += 1
                await asyncio.sleep(min(error.retry_after_s or 1.0, BUSY_PAUSE))


def _statement(
    past: Archive,
    network: str,
    node: str,
    peer: str,
    time: int,
    takes: list[PendingTake],
    decimals: dict[str, int],
) -> Statement:
    """Build the statement of `node` about `peer`. `decimals` are those of its ledger."""
    cut = past.cut()
    digests = {node: TradesHasher(), peer: TradesHasher()}
    got: dict[str, tuple[int, int]] = {}  # by market: lots, ticks * lots
    for fill in past.fills_with(peer, cut[0]):
        trade = trade_of(fill)
        digests[trade.taker].add(trade)
        lots, value = bought(trade, node)
        before = got.get(trade.market, (0, 0))
        got[trade.market] = (before[0] + lots, before[1] + value)
    traded: dict[str, int] = {}
    for market, (lots, value) in got.items():
        for asset, amount in worth(market, lots, value).items():
            traded[asset] = traded.get(asset, 0) + amount
    settlements, settled = _settlements(past.moves_of(PEER + peer, cut[1]), decimals)
    balances = {
        posting.asset: plain(posting.balance, decimals[posting.asset])
        for posting in past.last_postings(PEER + peer, cut[1])
        if posting.asset in decimals
    }
    assets = sorted(balances.keys() | traded.keys() | settled.keys())
    takes = sorted(takes, key=lambda take: take.take)
    return Statement(
        VERSION,
        network,
        node,
        peer,
        time,
        cut,
        [
            Position(
                asset,
                balances.get(asset, "0"),
                text_of(traded.get(asset, 0)),
                text_of(settled.get(asset, 0)),
            )
            for asset in assets
        ],
        [digests[node].digest, digests[peer].digest],
        settlements[:MAX_SETTLEMENTS],
        len(settlements),
        [
            UndecidedTake(t.take, t.market, t.maker_order, t.side, t.price, t.quantity)
            for t in takes[:MAX_ASKED]
        ],
        len(takes),
    )


def _settlements(
    moves: list[Posting], decimals: dict[str, int]
) -> tuple[list[Settlement], dict[str, int]]:
    """Payments, the latest first, and their sums by asset in units of 10 ** -`statements.DECIMALS`.

    `moves`: the latest first. Lines before one that says "decimals 8 to 10" (`Ledger.rescale`) count in
    units of their time.
    """
    scale = dict(decimals)
    found: list[Settlement] = []
    sums: dict[str, int] = {}
    for move in moves:
        asset = move.asset
        if match := _DECIMALS.fullmatch(move.reference) if move.kind == "transfer" else None:
            scale[asset] = int(match[1])
        elif move.kind == "settlement" and asset in scale:
            text = plain(move.amount, scale[asset])
            found.append(Settlement(asset, text, move.time))
            sums[asset] = sums.get(asset, 0) + units(text)
    return found, sums
