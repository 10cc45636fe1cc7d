"""Types of fields in API messages that carry their own JSON schema.

They annotate plain strings: reading stays with the code that knows the market's steps and can say what is
wrong, while OpenAPI, AsyncAPI and the reader of a view see the form from the type.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec

from exchange.model.instruments import MAX_TEXT
from exchange.orders.order_validation import MAX_CLIENT_ID
from node.views.limits import MAX_GROUP

DECIMAL_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?$"
POSITIVE_PATTERN: Final = r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]+\.[0-9]*[1-9][0-9]*)$"
CLIENT_ID_PATTERN: Final = (
    r"^(?!\.{1,2}$)[ -~]+$"  # not . and .., which have another meaning in paths
)
ORDER_ID_PATTERN: Final = r"^([0-9A-Za-z]+-)?[0-9]{1,12}$"
MS_PATTERN: Final = "^(0|[1-9][0-9]{12,14})$"  # since 2001; less is in seconds, or a slip
MOMENT: Final[dict[str, Any]] = {
    "anyOf": [
        {"format": "date-time"},
        {"format": "date"},
        {"pattern": MS_PATTERN},
    ]
}
ADDRESS_PATTERN: Final = (
    r"^([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):"
    r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
)
MAX_ADDRESS_TEXT: Final = 259
SIGNED_PATTERN: Final = r"^-?[0-9]+(\.[0-9]+)?$"

Decimal = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": DECIMAL_PATTERN})]
"""An exact decimal of zero or more, such as "0.5"."""

SignedDecimal = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SIGNED_PATTERN})]
"""An exact decimal that may be negative, such as "-12.25"."""

PositiveDecimal = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": POSITIVE_PATTERN, "maxLength": MAX_TEXT})
]
"""An exact decimal above zero, as prices and quantities of requests are."""

Moment = Annotated[str, msgspec.Meta(extra_json_schema=MOMENT)]
"""A time in a request: ISO 8601 (UTC without an offset), or milliseconds since 1970."""

ClientId = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "minLength": 1,
            "maxLength": MAX_CLIENT_ID,
            "pattern": CLIENT_ID_PATTERN,
        }
    ),
]
"""A client's own name for an order: printable ASCII."""

Group = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_GROUP})]
"""A number under which orders can be cancelled together."""

Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""A time in ISO 8601, in UTC."""


MAX_AMOUNT_TEXT: Final = 61  # 30 digits on each side of the point
Amount = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": POSITIVE_PATTERN, "maxLength": MAX_AMOUNT_TEXT})
]
"""An exact decimal above zero, as amounts of money in requests are."""


AssetName = Annotated[str, msgspec.Meta(examples=["USD", "BTC"])]
"""An asset of one of the node's markets."""

MarketSymbol = Annotated[str, msgspec.Meta(examples=["BTC-USD"])]
"""The symbol of one of the node's markets."""


def refusal_status(text: str, pattern: str, longest: int) -> int:
    """HTTP status of the refusal of a text: 400 when it contradicts the documents, 422 when it has the
    form that they show, and cannot be used for another reason."""
    return 422 if len(text) <= longest and re.fullmatch(pattern, text) else 400


def is_decimal(kind: msgspec.inspect.Type) -> bool:
    """Return True if a field's type, or one of its alternatives, is a decimal."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(is_decimal(each) for each in kind.types)
    if isinstance(kind, msgspec.inspect.Metadata):
        extra: dict[str, Any] = kind.extra_json_schema or {}
        return extra.get("pattern") in (DECIMAL_PATTERN, SIGNED_PATTERN, POSITIVE_PATTERN)
    return False
