"""The shapes of the API's answers about accounts, keys and money. Amounts are exact decimal strings."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from exchange.ledger.accounts import MAX_LABEL
from exchange.model.records import Permission, PostingKind
from node.views.field_types import Amount, AssetName, Decimal, SignedDecimal, Timestamp

MAX_NOTE: Final = 200  # characters of the note of a transaction
MAX_REASON: Final = 200  # characters of why a market is halted
MIN_CANCEL_MS: Final = 1000
MAX_CANCEL_MS: Final = 86_400_000
CancelTimeout = Annotated[
    int,
    msgspec.Meta(
        extra_json_schema={
            "minimum": 0,
            "maximum": MAX_CANCEL_MS,
            "anyOf": [{"const": 0}, {"minimum": MIN_CANCEL_MS}],
        }
    ),
]


MAX_ACCOUNT_LIMIT: Final = 1_000_000  # as `exchange.ledger.accounts` has it
# Not of digits alone, which would be taken for an account's number.
ACCOUNT_NAME: Final = "^([0-9]+[A-Za-z._-]|[A-Za-z])[A-Za-z0-9._-]*$"
AccountName = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": ACCOUNT_NAME, "maxLength": 32})
]
AccountLimit = Annotated[
    int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_ACCOUNT_LIMIT})
]
Note = Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": MAX_NOTE})]  # printable


class AccountView(msgspec.Struct, kw_only=True):
    """An account of this node. Number 0 is the house, the node's operator."""

    number: int
    name: str
    created: Timestamp | None
    frozen: bool
    max_open_orders: int
    orders_per_minute: int


class ChangedAccountView(AccountView, kw_only=True):
    """An account that was changed. `cancelled_orders`: how many open ones were, because it was frozen."""

    cancelled_orders: int


class AccountRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A new account."""

    name: AccountName
    max_open_orders: AccountLimit | None = None
    orders_per_minute: AccountLimit | None = None


class AccountChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Changes of an account; absent fields stay. A frozen account may read and cancel, not trade or withdraw."""

    frozen: bool | None = None
    max_open_orders: AccountLimit | None = None
    orders_per_minute: AccountLimit | None = None


class MoneyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An amount that comes in or leaves."""

    asset: AssetName
    amount: Amount
    note: Note = ""


class TransferView(msgspec.Struct, kw_only=True):
    """A deposit or withdrawal that was recorded, and what the account has after it."""

    transaction: int
    account: int
    asset: str
    amount: SignedDecimal  # negative: it left
    balance: SignedDecimal
    available: SignedDecimal


class KeyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A new API key."""

    permissions: Annotated[list[Permission], msgspec.Meta(extra_json_schema={"minItems": 1})] = (
        msgspec.field(default_factory=lambda: ["read", "trade"])
    )
    label: Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": MAX_LABEL})] = ""


class KeyView(msgspec.Struct, kw_only=True):
    key: str
    account: int
    permissions: list[Permission]
    label: str
    created: Timestamp
    revoked: Timestamp | None


class NewKeyView(KeyView, kw_only=True):
    """New key with its secret, which is shown only once."""

    secret: str

    def __repr__(self) -> str:  # without the secret: reprs end up in logs
        return f"NewKeyView({self.key}, account {self.account})"


class PostingView(msgspec.Struct, kw_only=True):
    """A line of the ledger. The lines of a transaction sum to zero for each asset."""

    transaction: int
    time: Timestamp
    holder: str  # account:<number>, peer:<node id>, fees or outside
    asset: str
    amount: SignedDecimal
    balance: SignedDecimal  # of the holder in the asset, after it
    kind: PostingKind
    reference: str


class FeesView(msgspec.Struct, kw_only=True):
    """Fees of a market, as a fraction of the received amount; negative: a rebate."""

    market: str
    maker_fee: SignedDecimal
    taker_fee: SignedDecimal


class HaltRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[
        str,
        msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_REASON}),
    ]


class HaltView(msgspec.Struct, kw_only=True):
    market: str
    halted: bool
    reason: str


class PositionView(msgspec.Struct, kw_only=True):
    """Position between this node and another in an asset."""

    peer: str  # node id
    asset: str
    balance: SignedDecimal  # positive: this node owes it; negative: it owes this node
    limit: Decimal | None  # how much it may come to owe; None: no limit
    room: SignedDecimal | None  # how much more that is


class ObligationView(msgspec.Struct, kw_only=True):
    """A payment that would even out what is open with a peer."""

    peer: str
    asset: str
    amount: SignedDecimal
    direction: Literal["pay", "collect"]
    limit: Decimal | None  # how much the peer may come to owe; None: no limit
    room: SignedDecimal | None  # how much more that is


class SettlementRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A payment outside the system between this node and a peer."""

    peer: str  # node id, or an unambiguous beginning of it
    asset: AssetName
    amount: Amount
    direction: Literal["paid", "received"]  # as this node sees it
    note: Note = ""


class SettlementView(msgspec.Struct, kw_only=True):
    transaction: int
    peer: str
    asset: str
    balance: SignedDecimal  # after it


class CreditRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Credit limit of a peer in an asset. Without `peer` for every peer that has no limit of
    its own; without `limit` there is none."""

    asset: AssetName
    peer: str | None = None  # the beginning of its id; the whole one, if it was never met
    limit: Decimal | None = None


class MarketStepsView(msgspec.Struct, kw_only=True):
    """Price and quantity steps of a market on this node. Nodes trade a market with each other only when
    they agree on both."""

    market: str
    tick: Decimal  # in use, in the quote asset
    lot: Decimal  # in use, in the base asset
    configured_tick: Decimal
    configured_lot: Decimal
    at_next_start: bool  # the configured ones are used from the next start on


class CreditView(msgspec.Struct, kw_only=True):
    peer: str | None  # None: every peer without a limit of its own
    asset: str
    limit: Decimal | None
    # Of all peers without a limit of their own, with `peer` None only.
    total: Decimal | None  # the most that they may owe together; None: any amount
    owed: Decimal | None  # together now


class CancelAfterRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A dead man's switch: all open orders are cancelled unless this is said again in time."""

    timeout_ms: CancelTimeout  # 0 ends it


class CancelAfterView(msgspec.Struct, kw_only=True):
    at: Timestamp | None  # when the orders are cancelled; None: not
