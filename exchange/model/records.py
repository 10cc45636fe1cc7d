"""What the exchange asks to be made durable, and what it starts from.

Records of one `drain` are committed together, before any message or acknowledgement that follows
from them leaves the node.

They are journaled as arrays: another order of fields, or another field that is not the last one with
a default, is another format (`exchange.journal.journal.SCHEMA_VERSION`). None of them can be part of a cycle,
so the collector need not look at them, of which there may be millions.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from exchange.model.commands import HOUSE, Kind, SelfTrade, TimeInForce
from exchange.model.events import Batch, Snapshot

TakePhase = Literal["", "reserve", "granted", "commit", "given_up"]
Permission = Literal["read", "trade"]
PostingKind = Literal["deposit", "withdrawal", "trade", "fee", "settlement", "transfer"]


class Order(msgspec.Struct, array_like=True, tag="order", gc=False):
    """An own order. Integers: ticks, lots, microseconds since the epoch.

    At all times `filled + pending + reserved <= quantity`; the rest is free unless the order is cancelled
    or untriggered, and of a limit order that is not hidden the free quantity (`display_quantity` of it at most) is what
    its feed shows.
    """

    number: int
    market: str
    side: int
    price: int | None  # None: at the market
    quantity: int
    time: int
    client_id: str | None = None
    account: int = HOUSE
    group: int = 0
    kind: Kind = "limit"  # as it was placed
    self_trade: SelfTrade = "none"
    worst_price: int = 0  # market order: the worst price it may trade at; 0: any
    opened: bool = False  # the feed has an `Opened` for it
    shown: int = 0  # the quantity that the feed shows
    filled: int = 0
    value: int = 0  # sum of price * quantity over its fills (ticks * lots)
    cancelled: bool = False  # nothing more may be filled but what is pending
    done: bool = False
    reason: str = ""  # why it ended, or is about to: filled, cancelled, ioc, expired, ...
    updated: int = 0  # us: its last change
    pending: int = 0  # asked of other owners, outcome unknown
    reserved: int = 0  # promised to fill-or-kill takers: off show, neither filled nor free
    priority: int = 0  # us: its time in the book once it lost its place; 0: `time`
    tif: TimeInForce = "gtc"
    expires: int = 0  # us; 0: never
    post_only: bool = False
    hidden: bool = False
    display_quantity: int = 0  # iceberg: lots on show at a time; 0: all
    reduce_only: bool = False
    stop: int = 0  # trigger price; 0: not conditional
    trailing_offset: int = 0  # distance of a trailing stop, ticks
    untriggered: bool = False  # conditional and not triggered yet: neither matched nor shown
    linked_order: int = 0  # one cancels the other: the other's number
    altered: bool = False  # what can be amended is not what it was when it was placed

    @property
    def free(self) -> int:
        if self.cancelled or self.untriggered:
            return 0
        return self.quantity - self.filled - self.pending - self.reserved

    @property
    def left(self) -> int:
        """What may still be filled: of a cancelled order only what others decide about."""
        if self.cancelled:
            return self.pending + self.reserved
        return self.quantity - self.filled


class PendingTake(msgspec.Struct, array_like=True, tag="take", gc=False):
    """A take that was asked of another owner (or is about to be) and is not resolved."""

    take: int
    market: str
    order: int  # our order
    maker: str
    maker_order: int
    side: int  # our order's side
    price: int
    quantity: int
    void: bool = False  # ask that it be refused if it is not decided yet
    seen: int = 0  # how far the maker's feed was held here when it was asked
    phase: TakePhase = (
        ""  # of a fill-or-kill order's take: reserve, granted, then commit or given_up
    )


class Decision(msgspec.Struct, frozen=True, array_like=True, tag="decision", gc=False):
    """What this node, as owner, answered to a take. `quantity` 0 is a refusal."""

    taker: str
    take: int
    market: str
    order: int
    price: int
    quantity: int
    time: int
    number: int
    reason: str  # "" filled, "reserved", or why not
    until: int = 0  # us: a reservation ends then


class Fill(msgspec.Struct, frozen=True, array_like=True, tag="fill", gc=False):
    """One own side of a trade. (`taker`, `take`, `role`) is unique."""

    taker: str
    take: int
    role: str  # maker, taker
    market: str
    order: int  # our order
    side: int  # our order's side
    price: int
    quantity: int
    time: int
    counterparty: str
    counterparty_order: int
    account: int = HOUSE  # our order's
    fee: int = 0  # what the account paid, in units of `fee_asset`; negative: a rebate
    fee_asset: str = ""


class Account(msgspec.Struct, frozen=True, array_like=True, tag="account", gc=False):
    """Who may trade on this node. Number 0 is the house."""

    number: int
    name: str
    created: int  # us
    frozen: bool = False  # may look and cancel, not trade or withdraw
    max_open_orders: int = 1000
    orders_per_minute: int = 6000


class ApiKey(msgspec.Struct, frozen=True, array_like=True, tag="key", gc=False):
    """A key of an account. `secret` is what the signatures of its requests are verified with."""

    key: str
    secret: str
    account: int
    permissions: frozenset[Permission]
    created: int  # us
    label: str = ""
    revoked: int = 0  # us; 0: valid

    def __repr__(self) -> str:  # without the secret: reprs end up in logs
        return f"ApiKey({self.key}, account {self.account})"


class Posting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of the ledger, by itself. The amounts of one transaction sum to zero for each asset.

    Holders: "account:<number>" (what the node owes the account), "peer:<node id>" (what it owes that
    node; negative: is owed), "fees", "outside" (what came in or left). Amounts in the asset's units.
    """

    transaction: int
    holder: str
    asset: str
    amount: int
    balance: int  # of the holder in the asset, after it
    time: int  # us
    kind: PostingKind
    reference: str  # what it is about: a trade's id, a note


class TransactionLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `Posting` has of its own."""

    holder: str
    asset: str
    amount: int
    balance: int
    kind: PostingKind


class Transaction(msgspec.Struct, frozen=True, array_like=True, tag="transaction", gc=False):
    """What moved at once in the ledger."""

    number: int
    time: int  # us
    reference: str
    lines: tuple[TransactionLine, ...]

    def postings(self) -> list[Posting]:
        number, time, reference = self.number, self.time, self.reference
        return [
            Posting(
                number,
                line.holder,
                line.asset,
                line.amount,
                line.balance,
                time,
                line.kind,
                reference,
            )
            for line in self.lines
        ]


class PutMeta(msgspec.Struct, frozen=True, array_like=True, tag="meta", gc=False):
    name: str
    value: int


class DropTake(msgspec.Struct, frozen=True, array_like=True, tag="drop_take", gc=False):
    take: int


class DropDecisions(msgspec.Struct, frozen=True, array_like=True, tag="drop_decisions", gc=False):
    """Forget decisions for `taker` below `below`, and remember the mark itself."""

    taker: str
    below: int


class PutNonce(msgspec.Struct, frozen=True, array_like=True, tag="nonce", gc=False):
    """The greatest nonce used with a key, for each number of digits: clients count in ms or in us."""

    key: str
    digits: int
    nonce: int


class PutCredit(msgspec.Struct, frozen=True, array_like=True, tag="credit", gc=False):
    """How much a peer ("" for every other one) may owe in an asset; None: no limit."""

    peer: str
    asset: str
    limit: int | None


class PutHalt(msgspec.Struct, frozen=True, array_like=True, tag="halt", gc=False):
    """A market is halted, and why; `reason` None: not any more."""

    market: str
    reason: str | None


class PutBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch", gc=False):
    owner: str
    batch: Batch


class PutSnapshot(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """The feed can be rebuilt from here: batches up to the snapshot's are dropped."""

    owner: str
    market: str
    snapshot: Snapshot


class GiveUpFeed(msgspec.Struct, frozen=True, array_like=True, tag="give_up"):
    """Another owner's feed is not held any more (`exchange.feeds.feed_limits`). `batch`: the last batch
    held, the proof for its owner of how far its feed went."""

    owner: str
    market: str
    reason: str
    batch: Batch | None


Record = (
    PutMeta
    | Order
    | PendingTake
    | DropTake
    | Decision
    | DropDecisions
    | Fill
    | Transaction
    | Account
    | ApiKey
    | PutNonce
    | PutCredit
    | PutHalt
    | PutBatch
    | PutSnapshot
    | GiveUpFeed
)


class StoredFeed(msgspec.Struct):
    owner: str
    market: str
    snapshot: Snapshot | None = None
    batches: list[Batch] = []


class Recovered(msgspec.Struct):
    """All that a node remembers when it starts."""

    meta: dict[str, int] = {}
    orders: list[Order] = []  # not done, and the most recent done ones
    takes: list[PendingTake] = []
    decisions: list[Decision] = []
    marks: dict[str, int] = {}  # taker -> takes below are forgotten
    feeds: list[StoredFeed] = []
    balances: dict[tuple[str, str], int] = {}  # (holder, asset) -> the last posting's balance
    accounts: list[Account] = []
    keys: list[ApiKey] = []
    nonces: dict[tuple[str, int], int] = {}  # (key, digits)
    credit: dict[tuple[str, str], int | None] = {}  # (peer, asset)
    halts: dict[str, str] = {}  # market -> why
    given_up: list[GiveUpFeed] = []
