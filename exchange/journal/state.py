"""State of a restarted node: folded from the journal's records one by one, and encoded as records
for a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from exchange.model.events import Batch, Snapshot
from exchange.model.records import (
    FAULT_META,
    Account,
    ApiKey,
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    GiveUpFeed,
    LocalTrade,
    Order,
    PendingTake,
    PutBatch,
    PutCredit,
    PutHalt,
    PutMeta,
    PutNonce,
    PutSnapshot,
    Record,
    Recovered,
    StoredFeed,
    Transaction,
    UnfitRecord,
)
from p2p.ground.bounded_map import BoundedMap

MAX_GIVEN_UP = 1000  # feeds given up that are remembered
RECENT = 10_000  # finished orders kept, by time of finishing


class PutBalance(msgspec.Struct, frozen=True, array_like=True, tag="balance", gc=False):
    """Balance after all postings so far. In snapshots only."""

    holder: str
    asset: str
    balance: int


SnapshotRecord = Record | PutBalance


class _Feed:
    __slots__ = ("batches", "cut", "snapshot")

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.batches: dict[int, Batch] = {}  # by first event
        self.cut = False  # a batch is set aside: those after it do not connect


class JournalState:
    """Fold of a journal: apply all records in order, then call `recovered` or `records`."""

    def __init__(self) -> None:
        self._open: dict[int, Order] = {}
        self._done: dict[int, Order] = {}  # in the order of finishing
        self._meta: dict[str, int] = {}
        self._takes: dict[int, PendingTake] = {}
        self._decisions: dict[str, dict[int, Decision]] = {}
        self._marks: dict[str, int] = {}
        self._feeds: dict[tuple[str, str], _Feed] = {}
        self._balances: dict[tuple[str, str], int] = {}
        self._accounts: dict[int, Account] = {}
        self._keys: dict[str, ApiKey] = {}
        self._nonces: dict[tuple[str, int], int] = {}
        self._credit: dict[tuple[str, str], int | None] = {}
        self._halts: dict[str, str] = {}
        self._given_up: BoundedMap[tuple[str, str], GiveUpFeed] = BoundedMap(MAX_GIVEN_UP)
        self._unfit = 0
        self._how: dict[type, Callable[[Any], None]] = {
            Order: self._order,
            Fill: lambda record: None,  # history only: the filled order has a record of its own
            LocalTrade: self._trade,
            Transaction: self._transaction,
            PutBatch: self._batch,
            PutSnapshot: self._snapshot,
            Decision: self._decision,
            DropDecisions: self._drop_decisions,
            PendingTake: self._take,
            DropTake: self._drop_take,
            PutMeta: self._put_meta,
            Account: self._account,
            ApiKey: self._key,
            PutNonce: self._nonce,
            PutCredit: self._put_credit,
            PutHalt: self._halt,
            GiveUpFeed: self._give_up,
            PutBalance: self._balance,
            UnfitRecord: self._put_aside,
        }

    def apply(self, records: Iterable[SnapshotRecord]) -> None:
        """Advance by records."""
        how = self._how
        for record in records:
            how[type(record)](record)
        if len(self._done) > 2 * RECENT:
            self._trim()

    def _trim(self) -> None:
        for number in list(islice(self._done, max(len(self._done) - RECENT, 0))):
            del self._done[number]

    def _order(self, order: Order) -> None:
        if order.done:
            self._open.pop(order.number, None)
            self._done[order.number] = order
        else:
            self._open[order.number] = order

    def _transaction(self, record: Transaction) -> None:
        for line in record.lines:
            self._balances[line.holder, line.asset] = line.balance

    def _trade(self, record: LocalTrade) -> None:
        movements = record.movements()
        if movements is not None:
            self._transaction(movements)

    def _balance(self, record: PutBalance) -> None:
        self._balances[record.holder, record.asset] = record.balance

    def _batch(self, record: PutBatch) -> None:
        batch = record.batch
        feed = self._feed(record.owner, batch.market)
        if not feed.cut:
            feed.batches.setdefault(batch.first, batch)

    def _snapshot(self, record: PutSnapshot) -> None:
        feed = self._feed(record.owner, record.market)
        feed.snapshot, feed.cut = record.snapshot, False
        last = record.snapshot.batch.last
        for first in [first for first in feed.batches if first <= last]:
            del feed.batches[first]

    def _feed(self, owner: str, market: str) -> _Feed:
        feed = self._feeds.get((owner, market))
        if feed is None:
            feed = self._feeds[owner, market] = _Feed()
            self._given_up.pop((owner, market), None)
        return feed

    def _give_up(self, record: GiveUpFeed) -> None:
        name = record.owner, record.market
        self._feeds.pop(name, None)
        self._given_up[name] = record

    def _decision(self, decision: Decision) -> None:
        self._decisions.setdefault(decision.taker, {})[decision.take] = decision

    def _drop_decisions(self, record: DropDecisions) -> None:
        held = self._decisions.get(record.taker, {})
        for take in [take for take in held if take < record.below]:
            del held[take]
        if not held:
            self._decisions.pop(record.taker, None)
        self._marks[record.taker] = record.below

    def _take(self, take: PendingTake) -> None:
        self._takes[take.take] = take

    def _drop_take(self, record: DropTake) -> None:
        self._takes.pop(record.take, None)

    def _put_meta(self, record: PutMeta) -> None:
        if record.name.startswith(FAULT_META) and not record.value:
            self._meta.pop(record.name, None)
        else:
            self._meta[record.name] = record.value

    def _account(self, account: Account) -> None:
        self._accounts[account.number] = account

    def _key(self, key: ApiKey) -> None:
        self._keys[key.key] = key

    def _nonce(self, record: PutNonce) -> None:
        self._nonces[record.key, record.digits] = record.nonce

    def _put_credit(self, record: PutCredit) -> None:
        self._credit[record.peer, record.asset] = record.limit

    def _halt(self, record: PutHalt) -> None:
        if record.reason is None:
            self._halts.pop(record.market, None)
        else:
            self._halts[record.market] = record.reason

    def _put_aside(self, record: UnfitRecord) -> None:
        self._unfit += 1
        if record.kind == "give_up":
            self._feeds.pop(record.feed, None)
        elif record.feed != ("", ""):
            self._feed(*record.feed).cut = True

    # Results

    def recovered(self) -> Recovered:
        """Return the state for a restart; orders, takes and the like sorted by number."""
        self._trim()
        return Recovered(
            meta=self._meta,
            orders=_by_number({**self._done, **self._open}),
            takes=_by_number(self._takes),
            decisions=[
                decision
                for _, held in sorted(self._decisions.items())
                for decision in _by_number(held)
            ],
            marks=self._marks,
            feeds=[
                StoredFeed(owner, market, feed.snapshot, self._batches_of(feed))
                for (owner, market), feed in sorted(self._feeds.items(), key=lambda item: item[0])
            ],
            balances=self._balances,
            accounts=_by_number(self._accounts),
            keys=[key for _, key in sorted(self._keys.items())],
            nonces=self._nonces,
            credit=self._credit,
            halts=self._halts,
            given_up=list(self._given_up.values()),
            unfit=self._unfit,
        )

    @staticmethod
    def _batches_of(feed: _Feed) -> list[Batch]:
        last = 0 if feed.snapshot is None else feed.snapshot.batch.last
        return [batch for first, batch in sorted(feed.batches.items()) if first > last]

    def records(self) -> Iterator[SnapshotRecord]:
        """Yield records that rebuild this state when applied to an empty one."""
        self._trim()
        for name, value in self._meta.items():
            yield PutMeta(name, value)
        yield from self._accounts.values()
        yield from self._keys.values()
        for (key_name, digits), nonce in self._nonces.items():
            yield PutNonce(key_name, digits, nonce)
        for (peer, asset), limit in self._credit.items():
            yield PutCredit(peer, asset, limit)
        for market, reason in self._halts.items():
            yield PutHalt(market, reason)
        for (holder, asset), balance in self._balances.items():
            yield PutBalance(holder, asset, balance)
        yield from chain(self._done.values(), self._open.values())
        yield from self._takes.values()
        for taker, below in self._marks.items():
            yield DropDecisions(taker, below)
        for decisions in self._decisions.values():
            yield from decisions.values()
        yield from self._given_up.values()
        for (owner, market), feed in self._feeds.items():
            if feed.snapshot is not None:
                yield PutSnapshot(owner, market, feed.snapshot)
            for batch in self._batches_of(feed):
                yield PutBatch(owner, batch)

    def release(self) -> Iterator[None]:
        """Free the orders, a thousand for each `next`: freeing millions at once would block the node for
        some tenths of a second."""
        while self._open:
            for _ in range(min(1000, len(self._open))):
                self._open.popitem()
            yield


def _by_number(held: dict[int, Any]) -> list[Any]:
    return [value for _, value in sorted(held.items())]
