"""Records for the journal's tests: one of each kind, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
from exchange_kit import M, Owner

from exchange.model.events import BUY, SELL, Opened, Snapshot
from exchange.model.records import (
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
    Terms,
    Transaction,
    TransactionLine,
)

replace = msgspec.structs.replace

ORDER = Order(
    *(1, M, BUY, 100, 10, 1000, "mine"),
    **{"filled": 3, "cancelled": True, "opened": True, "shown": 5, "value": 300},
    terms=Terms("limit", "none", pending=2),
)
TAKE = PendingTake(7, M, 1, "maker", 9, BUY, 100, 5, True, 44, "commit")
DECISION = Decision("taker", 7, M, 1, 100, 5, 1000, 44, "why", 60)
FILL = Fill("taker", 7, "maker", M, 1, BUY, 100, 5, 1000, "taker", 3, 2, 17, "BTC")
LOCAL = LocalTrade(
    *("node", 8, M, BUY, 100, 5, 1000, 3, 1, 2, 0),
    **{"taker_fee": 4, "transaction": 6, "base_amount": 500, "quote_amount": 900},
    balances=(496, -500, -900, 900, 4, 0),
)
LINE = TransactionLine("account:2", "BTC", 500, 1500, "trade")
TRANSACTION = Transaction(
    5, 1000, "taker:7", (LINE, TransactionLine("fees", "BTC", -500, 70, "fee"))
)
POSTING = TRANSACTION.postings()[0]
ACCOUNT = Account(2, "desk", 1000, True, 5, 60)
KEY = ApiKey("key", "secret", 2, frozenset({"read", "trade"}), 1000, "bot", 2000)

OWNER = Owner(9)
BATCHES = [OWNER.batch(Opened(number, BUY, 100, 5, 1000 + number)) for number in range(1, 9)]
SNAPSHOT = Snapshot(BATCHES[3], b"h" * 32, [b"page", b"another"])  # nothing here looks into it

RECORDS: list[Record] = [
    PutMeta("next_order", 5),
    ORDER,
    TAKE,
    DropTake(8),
    DECISION,
    DropDecisions("other", 9),
    FILL,
    LOCAL,
    TRANSACTION,
    ACCOUNT,
    KEY,
    PutNonce("key", 13, 1_700_000_000_000),
    PutCredit("peer", "BTC", 100),
    PutHalt(M, "a reason"),
    PutBatch("other", BATCHES[0]),
    PutSnapshot(OWNER.id, M, SNAPSHOT),
    GiveUpFeed("gone", M, "its owner is absent", BATCHES[1]),
]


def random_records(rng: random.Random, count: int) -> list[Record]:
    """Records that an engine could put, in no sensible order. Fills and final decisions are put once."""
    fresh = iter(range(10**9))

    def order() -> Record:
        return replace(
            ORDER,
            number=rng.randrange(1, 40),
            market=rng.choice((M, "ETH-USD")),
            side=rng.choice((BUY, SELL)),
            client_id=rng.choice((None, "a", "b")),
            filled=rng.randrange(5),
            done=rng.random() < 0.4,
            account=rng.randrange(3),
            updated=rng.randrange(1000),
            value=rng.choice((5, 2**80)),
        )

    def fill() -> Record:
        return replace(
            FILL,
            take=next(fresh),
            market=rng.choice((M, "ETH-USD")),
            order=rng.randrange(1, 40),
            account=rng.randrange(3),
            time=rng.randrange(1000),
        )

    def transaction() -> Record:
        lines = [
            replace(
                LINE,
                holder=rng.choice(("account:1", "account:2", "fees")),
                asset=rng.choice(("BTC", "USD")),
                balance=rng.choice((7, -(2**90))),
            )
            for _ in range(rng.randint(1, 2))
        ]
        time = rng.randrange(1000)
        return replace(TRANSACTION, number=next(fresh), time=time, lines=tuple(lines))

    def local() -> Record:
        number = next(fresh)
        accounts = {"taker_account": rng.randrange(3), "maker_account": rng.randrange(3)}
        balances = (*(rng.choice((7, -(2**90))) for _ in range(4)), 4, 0)
        return replace(LOCAL, take=number, transaction=number, balances=balances, **accounts)

    kinds: list[Callable[[], Record]] = [
        order,
        order,
        order,
        fill,
        local,
        transaction,
        lambda: replace(TAKE, take=rng.randrange(9)),
        lambda: DropTake(rng.randrange(9)),
        lambda: replace(DECISION, take=rng.randrange(9)),
        lambda: DropDecisions("taker", rng.randrange(9)),
        lambda: PutMeta(rng.choice("abc"), rng.randrange(9)),
        lambda: replace(ACCOUNT, number=rng.randrange(4), frozen=rng.random() < 0.5),
        lambda: replace(KEY, key=rng.choice("xyz"), revoked=rng.randrange(3)),
        lambda: PutNonce(rng.choice("xyz"), rng.choice((13, 16)), rng.randrange(2**70)),
        lambda: PutCredit(rng.choice(("", "p")), "BTC", rng.choice((None, 0, 5))),
        lambda: PutHalt(rng.choice((M, "ETH-USD")), rng.choice((None, "", "why"))),
        lambda: PutBatch(OWNER.id, rng.choice(BATCHES)),
        lambda: PutBatch("other", rng.choice(BATCHES)),
        lambda: PutSnapshot(OWNER.id, M, SNAPSHOT),
        lambda: GiveUpFeed(rng.choice((OWNER.id, "other", "gone")), M, "why", BATCHES[1]),
    ]
    return [rng.choice(kinds)() for _ in range(count)]
