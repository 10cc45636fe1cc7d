"""Disk of a node, which survives a crash: tables in memory with the journal's meaning, or the real journal in a file.

`commit` gets the records as they were at the drain. The memory disk keeps them encoded, so nothing on
it can change with the objects of a node that went on running. It folds the records by itself: what it is
compared with are the journal and its State, in tests/unit/exchange/journal/test_journal.py and test_journal_state.py. It
stands for the journal in the unit tests of engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import msgspec

from exchange.journal.journal import Journal
from exchange.model.events import Batch, Snapshot
from exchange.model.records import (
    Account,
    ApiKey,
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    GiveUpFeed,
    Order,
    PendingTake,
    Posting,
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
    unfolded,
)
from tests.simulation.statements import Listed, Past

WORK_EVERY = 20  # commits to a step of what the journal does behind them

_pack = msgspec.json.Encoder().encode  # not the journal's own way


def _unpack(data: bytes, kind: Any) -> Any:
    return msgspec.json.decode(data, type=kind)


class DiskError(Exception):
    """Invalid record of an engine: a second copy of a fill, or a change of a final decision."""


class Disk(Protocol):
    def commit(self, records: list[Record]) -> None: ...

    def recover(self) -> Recovered: ...

    def orders(self) -> list[Order]:
        """Every order ever written."""
        ...

    def fills(self) -> list[Fill]:
        """Every fill ever written."""
        ...

    def postings(self) -> list[Posting]:
        """Every line of the ledger ever written."""
        ...

    def past(self) -> Past:
        """Source of statements."""
        ...

    def reopen(self) -> None:
        """The process died: what was committed stays."""
        ...

    def close(self) -> None: ...


class MemoryDisk:
    def __init__(self) -> None:
        self._meta: dict[str, int] = {}
        self._orders: dict[int, bytes] = {}
        self._takes: dict[int, bytes] = {}
        self._decisions: dict[tuple[str, int], bytes] = {}
        self._marks: dict[str, int] = {}
        self._fills: dict[tuple[str, int, str], bytes] = {}
        self._batches: dict[tuple[str, str], dict[int, bytes]] = {}
        self._snapshots: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._postings: list[bytes] = []
        self._balances: dict[tuple[str, str], int] = {}
        self._accounts: dict[int, bytes] = {}
        self._keys: dict[str, bytes] = {}
        self._nonces: dict[tuple[str, int], int] = {}
        self._credit: dict[tuple[str, str], int | None] = {}
        self._halts: dict[str, str] = {}
        self._given_up: dict[tuple[str, str], bytes] = {}

    def commit(self, records: list[Record]) -> None:
        for record in unfolded(records):
            self._write(record)

    def _write(self, record: Record) -> None:
        match record:
            case Order() as order:
                self._orders[order.number] = _pack(order)
            case GiveUpFeed(owner, market):
                self._batches.pop((owner, market), None)
                self._snapshots.pop((owner, market), None)
                self._given_up.pop((owner, market), None)
                self._given_up[owner, market] = _pack(record)
            case PutBatch(owner, batch):
                self._given_up.pop((owner, batch.market), None)
                self._batches.setdefault((owner, batch.market), {}).setdefault(
                    batch.first, _pack(batch)
                )
            case Fill() as fill:
                _insert(self._fills, (fill.taker, fill.take, fill.role), _pack(fill))
            case PendingTake() as take:
                self._takes[take.take] = _pack(take)
            case DropTake(number):
                self._takes.pop(number, None)
            case Decision() as decision:
                self._decide(decision)
            case DropDecisions(taker, below):
                for key in [k for k in self._decisions if k[0] == taker and k[1] < below]:
                    del self._decisions[key]
                self._marks[taker] = below
            case PutMeta(name, value):
                self._meta[name] = value
            case Transaction() as transaction:
                for posting in transaction.postings():
                    self._postings.append(_pack(posting))
                    self._balances[posting.holder, posting.asset] = posting.balance
            case Account() as account:
                self._accounts[account.number] = _pack(account)
            case ApiKey() as key:
                self._keys[key.key] = _pack(key)
            case PutNonce(key, digits, nonce):
                self._nonces[key, digits] = nonce
            case PutCredit(peer, asset, limit):
                self._credit[peer, asset] = limit
            case PutHalt(market, None):
                self._halts.pop(market, None)
            case PutHalt(market, str() as reason):
                self._halts[market] = reason
            case PutSnapshot(owner, market, snapshot):
                self._given_up.pop((owner, market), None)
                last = snapshot.batch.last
                self._snapshots[owner, market] = last, _pack(snapshot)
                held = self._batches.get((owner, market), {})
                for first in [first for first in held if first <= last]:
                    del held[first]

    def _decide(self, decision: Decision) -> None:
        """A reservation alone may be decided again."""
        key = decision.taker, decision.take
        held = self._decisions.get(key)
        if held is not None and not _unpack(held, Decision).until:
            raise DiskError(f"{key} is decided already")
        self._decisions[key] = _pack(decision)

    def recover(self) -> Recovered:
        feeds = []
        for owner, market in sorted({*self._batches, *self._snapshots}):
            last, data = self._snapshots.get((owner, market), (0, None))
            held = self._batches.get((owner, market), {})
            feeds.append(
                StoredFeed(
                    owner,
                    market,
                    _unpack(data, Snapshot) if data is not None else None,
                    [_unpack(held[first], Batch) for first in sorted(held) if first > last],
                )
            )
        return Recovered(
            meta=dict(self._meta),
            orders=self.orders(),
            takes=[_unpack(data, PendingTake) for _, data in sorted(self._takes.items())],
            decisions=[_unpack(data, Decision) for _, data in sorted(self._decisions.items())],
            marks=dict(self._marks),
            feeds=feeds,
            balances=dict(self._balances),
            accounts=[_unpack(data, Account) for _, data in sorted(self._accounts.items())],
            keys=[_unpack(data, ApiKey) for _, data in sorted(self._keys.items())],
            nonces=dict(self._nonces),
            credit=dict(self._credit),
            halts=dict(self._halts),
            given_up=[_unpack(data, GiveUpFeed) for data in self._given_up.values()],
        )

    def orders(self) -> list[Order]:
        return [_unpack(data, Order) for _, data in sorted(self._orders.items())]

    def fills(self) -> list[Fill]:
        return [_unpack(data, Fill) for data in self._fills.values()]

    def postings(self) -> list[Posting]:
        return [_unpack(data, Posting) for data in self._postings]

    def past(self) -> Past:
        return Listed(self.fills(), self.postings())

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


def _insert(table: dict[Any, bytes], key: Any, value: bytes) -> None:
    if key in table:
        raise DiskError(f"{key} is written already")
    table[key] = value


@contextmanager
def unforced_writes() -> Iterator[None]:
    """Leave out fsync: a simulated crash ends a process, not the machine, so nothing written is lost."""
    with patch("os.fsync", lambda fd: None), patch("os.fdatasync", lambda fd: None):
        yield


class JournalDisk:
    """The production journal; a crash closes the file between two commits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commits = 0
        self._open()

    def _open(self) -> None:
        # Small segments, so that short runs see snapshots too; no thread, so that runs repeat.
        self._journal = Journal(
            self._path, sync="normal", background=False, segment_bytes=4096, snapshot_bytes=8192
        )

    def commit(self, records: list[Record]) -> None:
        self._journal.commit(records)
        self._commits += 1
        if self._commits % WORK_EVERY == 0:
            self._journal.work()

    def recover(self) -> Recovered:
        return self._journal.recover()

    def orders(self) -> list[Order]:
        found = self._journal.history().orders(limit=-1) + self._journal.recover().orders
        return sorted({order.number: order for order in found}.values(), key=lambda o: o.number)

    def fills(self) -> list[Fill]:
        return self._journal.history().fills(limit=-1)[::-1]

    def postings(self) -> list[Posting]:
        return self._journal.history().ledger(limit=-1)[::-1]

    def past(self) -> Past:
        return self._journal.history()

    def reopen(self) -> None:
        self._journal.close()
        self._open()

    def close(self) -> None:
        self._journal.close()
