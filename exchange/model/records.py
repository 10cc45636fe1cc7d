"""Records: the durable state of an engine, written to the journal and read at the start.

Rules of this file:
- The records of one `drain` are committed together, before any message or acknowledgement that follows
  from them leaves the node.
- Records are journaled as arrays. Another order of fields, or a new field that is not last with a
  default, is another format (`exchange.journal.journal.SCHEMA_VERSION`). Names of fields are not stored.
- No record is part of a reference cycle, so `gc=False` spares the collector millions of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec

from exchange.model.codec import unpacker
from exchange.model.commands import HOUSE, Kind, SelfTrade, TimeInForce
from exchange.model.events import BUY, Batch, Snapshot
from exchange.model.instruments import assets_of
from exchange.model.peer_values import MarketKey
from p2p.ground.peer_texts import is_earlier_text

T = TypeVar("T")

TakePhase = Literal["", "reserve", "granted", "commit", "given_up"]
Permission = Literal["read", "trade"]
PostingKind = Literal["deposit", "withdrawal", "trade", "fee", "settlement", "transfer"]


class Terms(msgspec.Struct, array_like=True, gc=False):
    """Terms that few orders have, and the state that goes with them. Integers as in `Order`."""

    kind: Kind  # as it was placed
    self_trade: SelfTrade
    tif: TimeInForce = "gtc"
    expires: int = 0  # us; 0: never
    post_only: bool = False
    hidden: bool = False
    display_quantity: int = 0  # iceberg: lots displayed at a time; 0: all
    reduce_only: bool = False
    stop: int = 0  # trigger price; 0: not conditional
    trailing_offset: int = 0  # of a trailing stop, ticks
    untriggered: bool = False  # waits for its stop: neither matched nor displayed
    linked_order: int = 0  # number of the other order of a pair
    altered: bool = False  # amendable fields differ from the placed order
    priority: int = 0  # us: time in the book after a loss of priority; 0: `time`
    pending: int = 0  # requested of other owners, outcome unknown
    reserved: int = 0  # for fill-or-kill takers: not displayed, neither filled nor free


class _Term(Generic[T]):
    """Field of `Terms` as an attribute of an order: the default while the order has none."""

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, order: Order, owner: type) -> T:
        terms = order.terms
        return self._default if terms is None else cast(T, getattr(terms, self._name))

    def __set__(self, order: Order, value: T) -> None:
        terms = order.terms
        if terms is None:
            if value == self._default:
                return
            terms = order.terms = Terms(order.kind, order.self_trade)
        setattr(terms, self._name, value)


class Order(msgspec.Struct, array_like=True, tag="order:2", gc=False):
    """Own order. Integers: ticks, lots, microseconds since the epoch.

    At all times `filled + pending + reserved <= quantity`; the rest is free unless the order is
    cancelled or untriggered. The feed shows the free quantity of a limit order that is not hidden, of an
    iceberg `display_quantity` at most.

    The fields are what every order has. What few have stands aside in `terms`, and can be read and set as
    attributes of the order. Code that runs for every order looks at `terms` first: without it, the order is a plain
    limit or market order that no other node takes part in.
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
    worst_price: int = 0  # of a market order; 0: any
    opened: bool = False  # the feed has its `Opened`
    shown: int = 0  # quantity that the feed shows
    filled: int = 0
    value: int = 0  # sum of price * quantity over its fills (ticks * lots)
    cancelled: bool = False  # only the pending quantity may still be filled
    done: bool = False
    reason: str = ""  # of its end: filled, cancelled, ioc, expired, ...
    updated: int = 0  # us: last change
    terms: Terms | None = None

    tif = _Term[TimeInForce]("gtc")
    expires = _Term(0)
    post_only = _Term(False)
    hidden = _Term(False)
    display_quantity = _Term(0)
    reduce_only = _Term(False)
    stop = _Term(0)
    trailing_offset = _Term(0)
    untriggered = _Term(False)
    linked_order = _Term(0)
    altered = _Term(False)
    priority = _Term(0)
    pending = _Term(0)
    reserved = _Term(0)

    @property
    def kind(self) -> Kind:
        """Order type as it was placed."""
        if self.terms is not None:
            return self.terms.kind
        return "market" if self.price is None else "limit"

    @property
    def self_trade(self) -> SelfTrade:
        """Mode of the self-trade prevention."""
        if self.terms is not None:
            return self.terms.self_trade
        return default_self_trade(self.account)

    @property
    def free(self) -> int:
        if self.cancelled:
            return 0
        terms = self.terms
        if terms is None:
            return self.quantity - self.filled
        if terms.untriggered:
            return 0
        return self.quantity - self.filled - terms.pending - terms.reserved

    @property
    def left(self) -> int:
        """Quantity that may still be filled: of a cancelled order what other owners decide about."""
        if self.cancelled:
            return self.pending + self.reserved
        return self.quantity - self.filled

    def __copy__(self) -> Order:
        """Return a copy that later changes do not reach."""
        found = copy_plain(self)
        if found.terms is not None:
            found.terms = copy(found.terms)
        return found


# Stands in where many of the terms are read; the kind and the self-trade prevention follow from the order.
NO_TERMS: Final = Terms("limit", "none")
# Copy of an order without terms.
copy_plain: Final[Callable[[Order], Order]] = msgspec.Struct.__copy__  # type: ignore[attr-defined]


def default_self_trade(account: int) -> SelfTrade:
    """Return the self-trade prevention of an order that states none."""
    return "none" if account == HOUSE else "cancel_newest"


class EarlierOrder(msgspec.Struct, frozen=True, array_like=True, tag="order", gc=False):
    """Order as journals before 0.3 have it."""

    number: int
    market: str
    side: int
    price: int | None
    quantity: int
    time: int
    client_id: str | None = None
    account: int = HOUSE
    group: int = 0
    kind: Kind = "limit"
    self_trade: SelfTrade = "none"
    worst_price: int = 0
    opened: bool = False
    shown: int = 0
    filled: int = 0
    value: int = 0
    cancelled: bool = False
    done: bool = False
    reason: str = ""
    updated: int = 0
    pending: int = 0
    reserved: int = 0
    priority: int = 0
    tif: TimeInForce = "gtc"
    expires: int = 0
    post_only: bool = False
    hidden: bool = False
    display_quantity: int = 0
    reduce_only: bool = False
    stop: int = 0
    trailing_offset: int = 0
    untriggered: bool = False
    linked_order: int = 0
    altered: bool = False

    def order(self) -> Order:
        """Return the order in its present form."""
        fields = msgspec.structs.asdict(self)
        order = Order(**{name: fields[name] for name in Order.__struct_fields__ if name in fields})
        if (self.kind, self.self_trade) != (order.kind, order.self_trade):
            order.terms = Terms(self.kind, self.self_trade)
        for name in Terms.__struct_fields__[2:]:
            setattr(order, name, fields[name])
        return order


class PendingTake(msgspec.Struct, array_like=True, tag="take", gc=False):
    """Take of another owner's order without a final answer."""

    take: int
    market: str
    order: int  # our order
    maker: str
    maker_order: int
    side: int  # our order's side
    price: int
    quantity: int
    void: bool = False  # request a refusal if it is not decided yet
    seen: int = 0  # number of the maker's feed here at the first request
    phase: TakePhase = ""  # of a fill-or-kill order: reserve, granted, then commit or given_up
    until: tuple[int, int] | None = None  # its end by its maker's clock


class Decision(msgspec.Struct, frozen=True, array_like=True, tag="decision", gc=False):
    """Answer of this node, as owner, to a take. `quantity` 0 is a refusal."""

    taker: str
    take: int
    market: MarketKey  # as the taker wrote it
    order: int
    price: int
    quantity: int
    time: int
    number: int
    reason: str  # "" filled, "reserved", or the reason of a refusal
    until: int = 0  # us: end of a reservation


class Fill(msgspec.Struct, frozen=True, array_like=True, tag="fill", gc=False):
    """Own side of a trade. (`taker`, `take`, `role`) is unique."""

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
    fee: int = 0  # paid by the account, in units of `fee_asset`; negative: a rebate
    fee_asset: str = ""


class Account(msgspec.Struct, frozen=True, array_like=True, tag="account", gc=False):
    """Account of a client of this node. Number 0 is the house."""

    number: int
    name: str
    created: int  # us
    frozen: bool = False  # it may read and cancel, not trade or withdraw
    max_open_orders: int = 1000
    orders_per_minute: int = 6000


class ApiKey(msgspec.Struct, frozen=True, array_like=True, tag="key", gc=False):
    """API key of an account. `secret` verifies the signatures of its requests."""

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
    """Posting of the ledger with its transaction. The amounts of a transaction sum to zero per asset.

    Holders: "account:<number>" (debt of the node to the account), "peer:<node id>" (debt to that node;
    negative: debt of that node), "fees", "outside" (deposits and withdrawals). Amounts in the asset's
    units.
    """

    transaction: int
    holder: str
    asset: str
    amount: int
    balance: int  # of the holder in the asset, afterwards
    time: int  # us
    kind: PostingKind
    reference: str  # a trade's id, a note


class TransactionLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Posting without the fields that its transaction has."""

    holder: str
    asset: str
    amount: int
    balance: int
    kind: PostingKind


class Transaction(msgspec.Struct, frozen=True, array_like=True, tag="transaction", gc=False):
    """Movements of the ledger that are made together."""

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


class LocalTrade(msgspec.Struct, frozen=True, array_like=True, tag="trade", gc=False):
    """Trade between two orders of this node: one record for both sides and for what moved in the ledger.

    `unfolded` writes it out as a transaction and two fills, which is how journals before 0.3 have it.
    """

    node: str
    take: int
    market: str
    side: int  # the taker's
    price: int
    quantity: int
    time: int
    taker_order: int
    maker_order: int
    taker_account: int = HOUSE
    maker_account: int = HOUSE
    taker_fee: int = 0  # in units of the asset that the side receives; negative: a rebate
    maker_fee: int = 0
    transaction: int = 0  # its number in the ledger; 0: nothing moved
    base_amount: int = 0
    quote_amount: int = 0
    # Balances after the trade: the buyer's and the seller's of the base asset, the same of the quote asset, and
    # the fee income in both.
    balances: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    posted: int = 0  # time of the movements; 0: `time`

    def fills(self) -> tuple[Fill, Fill]:
        """Return the fills of maker and taker."""
        node, side, take, market = self.node, self.side, self.take, self.market
        price, quantity, time = self.price, self.quantity, self.time
        base, quote = assets_of(market)
        received, paid = (base, quote) if side == BUY else (quote, base)
        return (
            Fill(
                *(node, take, "maker", market, self.maker_order, -side, price, quantity, time),
                *(node, self.taker_order, self.maker_account, self.maker_fee, paid),
            ),
            Fill(
                *(node, take, "taker", market, self.taker_order, side, price, quantity, time),
                *(node, self.maker_order, self.taker_account, self.taker_fee, received),
            ),
        )

    def movements(self) -> Transaction | None:
        """Return the movements of the ledger, None if there were none."""
        if not self.transaction:
            return None
        base, quote = assets_of(self.market)
        bought, sold, paid, earned, base_fees, quote_fees = self.balances
        buyer, seller, base_fee, quote_fee = (
            (self.taker_account, self.maker_account, self.taker_fee, self.maker_fee)
            if self.side == BUY
            else (self.maker_account, self.taker_account, self.maker_fee, self.taker_fee)
        )
        buys, sells = f"account:{buyer}", f"account:{seller}"
        lines: list[TransactionLine] = []
        if buyer != seller:  # else only fees move
            got, gave = self.base_amount, self.quote_amount
            lines = [
                TransactionLine(buys, base, got, bought + base_fee, "trade"),
                TransactionLine(sells, base, -got, sold, "trade"),
                TransactionLine(buys, quote, -gave, paid, "trade"),
                TransactionLine(sells, quote, gave, earned + quote_fee, "trade"),
            ]
        if base_fee:
            lines.append(TransactionLine(buys, base, -base_fee, bought, "fee"))
            lines.append(TransactionLine("fees", base, base_fee, base_fees, "fee"))
        if quote_fee:
            lines.append(TransactionLine(sells, quote, -quote_fee, earned, "fee"))
            lines.append(TransactionLine("fees", quote, quote_fee, quote_fees, "fee"))
        reference = f"{self.node}/{self.take}"
        return Transaction(self.transaction, self.posted or self.time, reference, tuple(lines))


FAULT_META: Final = "fault:"  # and owner:market: the owner has contradicted its feed; 0: forgotten


class PutMeta(msgspec.Struct, frozen=True, array_like=True, tag="meta", gc=False):
    name: str
    value: int


class DropTake(msgspec.Struct, frozen=True, array_like=True, tag="drop_take", gc=False):
    take: int


class DropDecisions(msgspec.Struct, frozen=True, array_like=True, tag="drop_decisions", gc=False):
    """Drop the decisions for `taker` below `below`, and keep the mark itself."""

    taker: str
    below: int


class PutNonce(msgspec.Struct, frozen=True, array_like=True, tag="nonce", gc=False):
    """Greatest nonce used with a key, by number of digits: clients count in ms or in us."""

    key: str
    digits: int
    nonce: int


class PutCredit(msgspec.Struct, frozen=True, array_like=True, tag="credit", gc=False):
    """Credit limit of a peer in an asset ("": the default for peers); None: no limit."""

    peer: str
    asset: str
    limit: int | None


class PutHalt(msgspec.Struct, frozen=True, array_like=True, tag="halt", gc=False):
    """Halt of a market with its reason; `reason` None: the halt has ended."""

    market: str
    reason: str | None


class PutBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch", gc=False):
    owner: str
    batch: Batch


class PutSnapshot(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """Start of a feed: batches up to the snapshot's are dropped."""

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


class UnfitRecord(msgspec.Struct, frozen=True, gc=False):
    """Stands for a record of a version before 0.3 with a text of another node that nodes refuse now. It is read, counted,
    and without effect, and never written."""

    kind: str  # tag of the record
    reason: str
    feed: tuple[str, str]  # owner and market, of a batch or snapshot; else empty
    data: bytes  # the record


Record = (
    PutMeta
    | Order
    | PendingTake
    | DropTake
    | Decision
    | DropDecisions
    | Fill
    | LocalTrade
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


def unfolded(records: Iterable[Record]) -> Iterator[Record]:
    """Iterate over records with each `LocalTrade` written out as its transaction and its two fills."""
    for record in records:
        if isinstance(record, LocalTrade):
            movements = record.movements()
            if movements is not None:
                yield movements
            yield from record.fills()
        else:
            yield record


_decode_order = unpacker(Order | EarlierOrder).decode
_split = unpacker(list[msgspec.Raw]).decode


def upgraded(record: Any) -> Any:
    """Return a decoded record in its present form."""
    return record.order() if type(record) is EarlierOrder else record


def decode_order(data: bytes) -> Order:
    """Decode an order of any version. Raises msgspec.DecodeError."""
    order: Order = upgraded(_decode_order(data))
    return order


class RecordsDecoder:
    """Decoder of lists of records of a union `kind`, in the form of any version."""

    def __init__(self, kind: Any) -> None:
        self._all = unpacker(list[kind | EarlierOrder]).decode
        self._one = unpacker(kind | EarlierOrder).decode

    def decode(self, data: bytes) -> list[Any]:
        """Decode records in their present form. Raises msgspec.DecodeError."""
        try:
            found = self._all(data)
        except msgspec.ValidationError as error:
            if not is_earlier_text(error):
                raise
            found = [self._fit(bytes(each)) for each in _split(data)]
        return [upgraded(record) for record in found]

    def _fit(self, data: bytes) -> Any:
        try:
            return self._one(data)
        except msgspec.ValidationError as error:
            if not is_earlier_text(error):
                raise
            kind, owner, what, *_ = msgspec.msgpack.decode(data)
            market = what["market"] if kind == "batch" else what
            feed = ("", "") if kind == "decision" else (owner, market)
            return UnfitRecord(kind, f"{error}"[-200:], feed, data)


decode_records: Final[Callable[[bytes], list[Record]]] = RecordsDecoder(Record).decode


class StoredFeed(msgspec.Struct):
    owner: str
    market: str
    snapshot: Snapshot | None = None
    batches: list[Batch] = []


class Recovered(msgspec.Struct):
    """Contents of the journal at the start of a node."""

    meta: dict[str, int] = {}
    orders: list[Order] = []  # open ones, and the most recent finished ones
    takes: list[PendingTake] = []
    decisions: list[Decision] = []
    marks: dict[str, int] = {}  # by taker: decisions below are dropped
    feeds: list[StoredFeed] = []
    balances: dict[tuple[str, str], int] = {}  # by (holder, asset): balance of the last posting
    accounts: list[Account] = []
    keys: list[ApiKey] = []
    nonces: dict[tuple[str, int], int] = {}  # by (key, digits)
    credit: dict[tuple[str, str], int | None] = {}  # by (peer, asset)
    halts: dict[str, str] = {}  # by market: reason
    given_up: list[GiveUpFeed] = []
    unfit: int = 0  # records without effect: see UnfitRecord
