"""Parameters that several operations have."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from node.operations.operation import Params
from node.views.field_types import MOMENT, AssetName, MarketSymbol
from node.views.limits import CURSOR_HEADER, CURSOR_PATTERN, DEFAULT_LIMIT, MAX_LIMIT
from node.views.paging import Cursor, read_cursor
from node.views.timestamps import time_of

_MOMENT: Final[dict[str, Any]] = {
    "type": "string",
    **MOMENT,
    "examples": ["2026-01-02T03:04:05Z", "1767323045000"],
}
_CURSOR: Final[dict[str, Any]] = {"type": "string", "pattern": CURSOR_PATTERN}


def _end_of(text: str) -> int:
    """The last microsecond of a moment: times are shown in ms, and `end` is the whole one."""
    return time_of(text) + 999


OnlyMarket = Annotated[MarketSymbol, Meta(description="Only this market.")] | None
OnlyAsset = Annotated[AssetName, Meta(description="Only this asset.", examples=["USD"])] | None
OpenOnly = Annotated[
    bool, Meta(description="true: only orders still open or pending; false: finished ones too.")
]
Limit = Annotated[
    int,
    Meta(
        ge=1, le=MAX_LIMIT, description="Maximum number of results, from the beginning of `sort`."
    ),
]
Start = Annotated[
    int,
    Meta(
        description="Not before this time: ISO 8601 (UTC without an offset), or ms.",
        extra={"schema": _MOMENT, "read": time_of},
    ),
]
End = Annotated[
    int,
    Meta(description="Not after this time.", extra={"schema": _MOMENT, "read": _end_of}),
]
Sort = Annotated[Literal["asc", "desc"], Meta(description="desc: newest first; asc: oldest first.")]
Account = (
    Annotated[
        str,
        Meta(
            description="For the operator: act for this account, by name or number, and not for the house.",
            examples=["alice", "1"],
        ),
    ]
    | None
)
AccountName = Annotated[
    str, Meta(description="The account's name or number.", examples=["alice", "1"])
]
MarketName = Annotated[MarketSymbol, Meta(description="The market's symbol.")]
NextCursor = Annotated[
    Cursor,
    Meta(
        description=f"The header `{CURSOR_HEADER}` of the page before, with all other parameters the same: what follows "
        "that page. Rows of one moment can be more than a page.",
        extra={"schema": _CURSOR, "read": read_cursor},
    ),
]


class SpanParams(Params, frozen=True, kw_only=True):
    """A part of a history, in microseconds since the epoch, both ends included."""

    start: Start | None = None
    end: End | None = None
    limit: Limit = DEFAULT_LIMIT
    sort: Sort = "desc"

    @property
    def newest_first(self) -> bool:
        return self.sort == "desc"


class PageParams(SpanParams, frozen=True, kw_only=True):
    """A page of a history."""

    cursor: NextCursor | None = None


class OfAccount(Params, frozen=True, kw_only=True):
    account: Account = None


class InAccount(Params, frozen=True):
    account: AccountName


class InMarket(Params, frozen=True):
    market: MarketName
