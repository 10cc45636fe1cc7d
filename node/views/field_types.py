"""Types of fields in API messages that carry their own JSON schema.

They annotate plain strings: reading stays with the code that knows the market's steps and can say what is
wrong, while OpenAPI, AsyncAPI and the reader of a view see the form from the type.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

DECIMAL_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?$"
SIGNED_PATTERN: Final = r"^-?[0-9]+(\.[0-9]+)?$"

Decimal = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": DECIMAL_PATTERN})]
"""An exact decimal of zero or more, such as "0.5"."""

SignedDecimal = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SIGNED_PATTERN})]
"""An exact decimal that may be negative, such as "-12.25"."""

Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""A time in ISO 8601, in UTC."""


def is_decimal(kind: msgspec.inspect.Type) -> bool:
    """Return True if a field's type, or one of its alternatives, is a decimal."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(is_decimal(each) for each in kind.types)
    if isinstance(kind, msgspec.inspect.Metadata):
        extra: dict[str, Any] = kind.extra_json_schema or {}
        return extra.get("pattern") in (DECIMAL_PATTERN, SIGNED_PATTERN)
    return False
