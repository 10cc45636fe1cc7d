"""Declaration of an API operation: method, path, types, parameters and who may call it.

A declaration is all that server, client and documents share: `node/api` binds a handler to it, the clients in
`node/client` call it and read its answer's type from it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from node.views.field_types import MOMENT
from node.views.limits import CURSOR_HEADER, CURSOR_PATTERN, DEFAULT_LIMIT, MAX_LIMIT

Access = Literal["public", "read", "trade", "node", "operator"]
A = TypeVar("A")


class Param(msgspec.Struct, frozen=True):
    """A query or path parameter."""

    name: str
    place: Literal["path", "query"]
    schema: Mapping[str, Any]
    description: str


class Operation(msgspec.Struct, Generic[A], frozen=True):
    """An operation; `A` is the type of its answer's body."""

    method: str
    path: str
    name: str  # operationId
    tag: str
    summary: str
    answer: type[A]
    description: str = ""
    body: type[msgspec.Struct] | None = None
    params: tuple[Param, ...] = ()
    status: int = 200
    problems: tuple[int, ...] = ()  # besides those that every operation can answer
    access: Access = "operator"

    def path_of(self, *values: str) -> str:
        """The path with `values` in place of its parameters, in their order."""
        path = self.path
        for param, value in zip([p for p in self.params if p.place == "path"], values, strict=True):
            path = path.replace("{" + param.name + "}", quote(value, safe=""))
        return path


# Parameters that several operations have

MARKET_NAME: Final = {"type": "string", "examples": ["BTC-USD"]}
MARKET: Final = Param("market", "query", MARKET_NAME, "Only this market.")
MARKET_PATH: Final = Param("market", "path", MARKET_NAME, "The market's symbol.")
LIMIT: Final = Param(
    "limit",
    "query",
    {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_LIMIT,
        "default": DEFAULT_LIMIT,
    },
    "Maximum number of results, from the beginning of `sort`.",
)
OPEN: Final = Param(
    "open",
    "query",
    {"type": "boolean", "default": True},
    "true: only orders still open or pending; false: finished ones too.",
)
_MOMENT: Final = {
    "type": "string",
    **MOMENT,
    "examples": ["2026-01-02T03:04:05Z", "1767323045000"],
}
START: Final = Param(
    "start", "query", _MOMENT, "Not before this time: ISO 8601 (UTC without an offset), or ms."
)
END: Final = Param("end", "query", _MOMENT, "Not after this time.")
SORT: Final = Param(
    "sort",
    "query",
    {"enum": ["asc", "desc"], "default": "desc"},
    "desc: newest first; asc: oldest first.",
)
CURSOR: Final = Param(
    "cursor",
    "query",
    {"type": "string", "pattern": CURSOR_PATTERN},
    f"The header `{CURSOR_HEADER}` of the page before, with all other parameters the same: what follows that page. Rows of one moment "
    "can be more than a page.",
)
SPAN_PARAMS: Final = (START, END, LIMIT, SORT)
PAGE_PARAMS: Final = (*SPAN_PARAMS, CURSOR)
ACCOUNT_NAME: Final = {"type": "string", "examples": ["alice", "1"]}
ACCOUNT: Final = Param(
    "account",
    "query",
    ACCOUNT_NAME,
    "For the operator: act for this account, by name or number, and not for the house.",
)
ACCOUNT_PATH: Final = Param("account", "path", ACCOUNT_NAME, "The account's name or number.")
