"""What the exchange asks to be made durable, and what it starts from.

Records of one `drain` are committed together, before any message or acknowledgement that follows
from them leaves the node.
"""

from __future__ import annotations

import msgspec

from exchange.events import Batch
from exchange.feed import Snapshot


class Order(msgspec.Struct):
    """An own order. Integers: ticks, lots, microseconds since the epoch.

    At all times `filled + pending <= quantity`; what is neither filled, pending nor cancelled is
    free, and a limit order's free quantity is what its feed shows.
    """

    number: int
    market: str
    side: int
    price: int | None  # None: market order
    quantity: int
    time: int
    client_id: str | None = None
    filled: int = 0
    pending: int = 0  # asked of other owners, outcome unknown
    cancelled: bool = False  # nothing more may be filled but what is pending
    opened: bool = False  # the feed has an `Opened` for it
    shown: int = 0  # the quantity that the feed shows
    value: int = 0  # sum of price * quantity over its fills (ticks * lots)
    done: bool = False

    @property
    def free(self) -> int:
        return 0 if self.cancelled else self.quantity - self.filled - self.pending


class PendingTake(msgspec.Struct):
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


class Decision(msgspec.Struct, frozen=True):
    """What this node, as owner, answered to a take. `quantity` 0 is a refusal."""

    taker: str
    take: int
    market: str
    order: int
    price: int
    quantity: int
    time: int
    number: int
    reason: str


class Fill(msgspec.Struct, frozen=True):
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


class PutMeta(msgspec.Struct, frozen=True):
    name: str
    value: int


class PutOrder(msgspec.Struct, frozen=True):
    order: Order  # a copy


class PutTake(msgspec.Struct, frozen=True):
    take: PendingTake  # a copy


class DropTake(msgspec.Struct, frozen=True):
    take: int


class PutDecision(msgspec.Struct, frozen=True):
    decision: Decision


class DropDecisions(msgspec.Struct, frozen=True):
    """Forget decisions for `taker` below `below`, and remember the mark itself."""

    taker: str
    below: int


class PutFill(msgspec.Struct, frozen=True):
    fill: Fill


class PutBatch(msgspec.Struct, frozen=True):
    owner: str
    batch: Batch


class PutSnapshot(msgspec.Struct, frozen=True):
    """The feed can be rebuilt from here: batches up to the snapshot's are dropped."""

    owner: str
    market: str
    snapshot: Snapshot


Record = (
    PutMeta
    | PutOrder
    | PutTake
    | DropTake
    | PutDecision
    | DropDecisions
    | PutFill
    | PutBatch
    | PutSnapshot
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
