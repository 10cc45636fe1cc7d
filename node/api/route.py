"""An operation bound to the node's work, and the way of a request through it, without a transport.

`Route.read` makes a typed call of a request's path and query, `Route.work` does it, at once or awaited, and `Route.answer`
makes the response. `node.api.rest` does the same for requests of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import msgspec
import orjson

from exchange.model.commands import HOUSE
from node.api import limits
from node.api.access import AccessRules, Caller
from node.api.node_service import NodeService
from node.http.http_messages import JSON, Response
from node.http.json_members import RepeatedMember, check_members
from node.operations.operation import A, B, Operation, P, Params, bad_parameter
from node.operations.parameters import PageParams, SpanParams
from node.service.trading import Span
from node.views.field_types import is_decimal
from node.views.limits import CURSOR_HEADER
from node.views.paging import end_of_page
from node.views.timestamps import time_of
from node.views.views import ServiceError

T = TypeVar("T")


class Call(msgspec.Struct, Generic[P, B]):
    """A request that was read. `account`: whose orders and money are meant, where they are one account's."""

    caller: Caller
    account: int
    rules: AccessRules
    params: P
    body: B


class Durable(msgspec.Struct, Generic[A]):
    """Answer that may leave when all that was decided so far is on the disk. Work that needs to wait for nothing else
    returns it, and costs no task."""

    value: A


def _row_time(_: Params, row: Any) -> str:
    time: str = row.time
    return time


@dataclass(frozen=True)
class Route(Generic[A, P, B]):
    """An operation and the work that answers it.

    Attributes:
        doing: of a change, in words: it goes on when its client has gone or has waited too long.
        until_gone: the work is cancelled when its client has gone.
        location: path of what was made.
        row_time: time of a row of a history, by which its pages are in order.
        any_query: a query is not looked at. Health checks are of programs that add their own, against caches.
    """

    operation: Operation[A, P, B]
    work: Callable[[NodeService, Call[P, B]], A | Awaitable[A] | Durable[A]]
    doing: str = ""
    until_gone: bool = False
    location: Callable[[A], str] | None = None
    row_time: Callable[[P, Any], str] = _row_time
    any_query: bool = False

    @cached_property
    def of_account(self) -> bool:
        """The operation is about one account: the caller's, or of the operator any (`account`)."""
        return self.operation.access in ("read", "trade")

    @cached_property
    def private_read(self) -> bool:
        """The answer may include undurable decisions: it has to wait until they are on the disk."""
        return self.operation.method == "GET" and self.operation.access in ("read", "operator")

    def read(
        self,
        service: NodeService,
        caller: Caller,
        rules: AccessRules,
        in_path: Mapping[str, str],
        query: Collection[tuple[str, str]] = (),
    ) -> Call[P, B]:
        """The call that a request makes, without its body.

        Raises:
            ServiceError: a parameter is unknown, repeated or wrong, or about another account.
        """
        operation = self.operation
        account = HOUSE if caller.account is None else caller.account
        body: Any = None
        if not query and not in_path and not operation.in_path:
            return Call(caller, account, rules, self._plain, body)
        values = {} if self.any_query else query_values(query, operation.in_query)
        params = operation.read(in_path, values)
        name = values.get("account")
        if name is not None and self.of_account:
            if not caller.operator:
                raise ServiceError(
                    403,
                    "operator_only",
                    "an API key acts for its own account; leave out the parameter account",
                    parameter="account",
                )
            account = service.operations.account(name).number
        return Call(caller, account, rules, params, body)

    @cached_property
    def _plain(self) -> P:
        """The parameters of a request that gives none."""
        return self.operation.read({}, {})

    def answer(self, params: P, found: A) -> Response:
        headers = {}
        if self.location is not None:
            headers["Location"] = self.location(found)
        page = getattr(params, "page", None)
        if page is not None and isinstance(found, list) and len(found) == page.limit:
            headers[CURSOR_HEADER] = str(
                end_of_page(
                    found, lambda row: time_of(self.row_time(params, row)) // 1000, page.cursor
                )
            )
        return Response(self.operation.status, dumps(found), JSON, headers)


def query_values(query: Iterable[tuple[str, str]], allowed: Collection[str] = ()) -> dict[str, str]:
    """The query; unknown and repeated parameters are refused, so that a typo is noticed."""
    values: dict[str, str] = {}
    for name, value in query:
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise bad_parameter(name, f"unknown parameter {name[:40]!r}; this path knows {known}")
        if name in values:
            raise bad_parameter(name, f"{name} is given twice")
        values[name] = value
    return values


def span_of(params: SpanParams) -> Span:
    """The part of a history that is asked for."""
    span = Span(
        start=params.start or 0,
        end=params.end,
        limit=params.limit,
        newest_first=params.newest_first,
    )
    cursor = params.cursor if isinstance(params, PageParams) else None
    return span if cursor is None else span.behind(cursor.ms, cursor.rows)


_encode: Final = msgspec.json.Encoder().encode


def dumps(value: Any) -> bytes:
    """JSON of views and lists of views."""
    if isinstance(value, msgspec.Struct):
        return _encode(value)
    return orjson.dumps(value, default=msgspec.to_builtins)


# Bodies -----------------------------------------------------------------------------

_MISFIT = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")
_decoders: Final[dict[type, msgspec.json.Decoder[Any]]] = {}  # of the bodies that routes take


def decode_body(raw: bytes, kind: type[T]) -> T:
    """The typed body of a request.

    Raises:
        ServiceError: 400 with the JSON pointer of the field that is wrong.
    """
    body = _typed(raw, kind)
    try:
        check_members(raw)
    except RepeatedMember as error:
        raise ServiceError(400, "repeated_member", error.detail) from None
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None
    return body


def _typed(raw: bytes, kind: type[T]) -> T:
    try:
        decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.json.Decoder(kind))
        body: T = decoder.decode(raw)
    except msgspec.ValidationError as error:
        if "got `float`" in str(error):  # to JSON 5.0 is a whole number
            with suppress(msgspec.ValidationError):
                return msgspec.convert(whole(_parsed(raw)), kind)
        raise misfit(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None
    return body


def _parsed(raw: bytes) -> Any:
    """A body without a type. It may be no JSON at all after the place where a type did not fit."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from None


def _not_json(error: Exception) -> ServiceError:
    return ServiceError(400, "invalid_json", f"the body is not valid JSON: {error}")


def whole(value: Any) -> Any:
    """A decoded value with the integral floats in it as integers."""
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def misfit(error: msgspec.ValidationError, kind: type) -> ServiceError:
    """The refusal of a body that does not fit `kind`, or of a value that has such a body in it."""
    match = _MISFIT.match(str(error))
    what, path = (match["what"], match["path"] or "$") if match else (str(error), "$")
    pointer = path.removeprefix("$").replace(".", "/")
    field = pointer.rpartition("/")[2]
    declared = _declared(kind, field)
    # Decimals are sent as strings, because JSON numbers lose digits.
    if declared is not None and is_decimal(declared) and re.search(r"got `(int|float)`", what):
        detail = (
            f"{field} is a JSON number: send prices, quantities and amounts as strings, "
            'e.g. "0.5"; numbers lose digits'
        )
        return ServiceError(400, "number_not_string", detail, pointer=pointer)
    if unknown := _UNKNOWN_FIELD.search(what):
        pointer = f"{pointer}/{unknown['name']}"
    where = f" at {pointer}" if field else ""
    words = _words(declared) if what.startswith("Invalid enum value") else []
    instead = f"; it is one of {', '.join(words)}" if words else ""
    return ServiceError(
        400, "invalid_body", f"{what[:1].lower()}{what[1:]}{where}{instead}", pointer=pointer
    )


def _declared(kind: type, field: str) -> msgspec.inspect.Type | None:
    """Type of a body's field; None if the body has no such field."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.StructType):
        for each in info.fields:
            if each.encode_name == field:
                return each.type
    return None


def _words(declared: msgspec.inspect.Type | None) -> list[str]:
    """Return the allowed words of a field, if it has fixed ones."""
    return [
        str(word)
        for choice in getattr(declared, "types", (declared,))
        if isinstance(choice, msgspec.inspect.LiteralType)
        for word in choice.values
    ]


def no_answer(what: str) -> ServiceError:
    """The refusal of a request whose work, `what`, takes longer than `limits.HANDLER_TIMEOUT`."""
    detail = (
        f"{what} took longer than {limits.HANDLER_TIMEOUT:g} s; its outcome is not known yet: "
        "look it up, or repeat it with the same client_id"
    )
    return ServiceError(504, "no_answer", detail)
