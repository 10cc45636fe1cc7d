"""Building blocks of REST handlers: a route's declaration, reading requests, answering."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import orjson
from aiohttp import web

from exchange.model.commands import HOUSE
from node.api import limits
from node.api.access import caller_of
from node.api.node_service import NodeService
from node.http.http_requests import read_body as read_bytes
from node.http.json_members import RepeatedMember, check_members
from node.http.paging import NEXT_CURSOR, Cursor, end_of_page, read_cursor
from node.operations.operation import Operation
from node.service.trading import Span
from node.views.field_types import is_decimal
from node.views.limits import DEFAULT_LIMIT, MAX_LIMIT
from node.views.timestamps import time_of
from node.views.views import ServiceError

SERVICE: Final = web.AppKey("service", NodeService)
ABOUT: Final = web.RequestKey(
    "about", int
)  # whose orders and money are meant, if it is one account's
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """An operation and the handler that serves it."""

    operation: Operation[Any]
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]


# Reading requests -----------------------------------------------------------------------------

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


async def read_body(request: web.Request, kind: type[T]) -> T:
    """Reads and decodes a JSON body within `limits.MAX_BODY` and `limits.READ_TIMEOUT`."""
    if request.content_type != "application/json":
        # Also a defence: a page of another site can post a form or text without asking first.
        sent = request.headers.get("Content-Type", "no Content-Type")
        detail = (
            f"the body was sent as {sent[:100]}; send JSON with the header "
            "Content-Type: application/json (with curl: --json)"
        )
        raise ServiceError(415, "unsupported_media_type", detail)
    try:
        raw = await read_bytes(request, limits.READ_TIMEOUT)
    except TimeoutError:
        detail = f"the body did not arrive within {limits.READ_TIMEOUT:g} s"
        raise ServiceError(408, "request_timeout", detail) from None
    return decode_body(raw, kind)


def bad_parameter(name: str, detail: str) -> ServiceError:
    return ServiceError(400, "invalid_parameter", detail, parameter=name)


def query(request: web.Request, *allowed: str) -> dict[str, str]:
    """The query parameters; unknown and repeated ones are refused, so that a typo is noticed."""
    values: dict[str, str] = {}
    if not request.rel_url.raw_query_string:
        return values
    for name, value in request.query.items():
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise bad_parameter(name, f"unknown parameter {name[:40]!r}; this path knows {known}")
        if name in values:
            raise bad_parameter(name, f"{name} is given twice")
        values[name] = value
    return values


def number(values: dict[str, str], name: str, default: int, maximum: int) -> int:
    """A whole number from 1 to `maximum`."""
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise bad_parameter(
            name, f"{name} must be a whole number from 1 to {maximum}, not {text[:40]!r}"
        )
    return int(text)


def flag(values: dict[str, str], name: str, default: bool) -> bool:
    text = values.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise bad_parameter(name, f"{name} must be true or false, not {text[:40]!r}")
    return text == "true"


def moment(values: dict[str, str], name: str) -> int | None:
    """A time, ISO 8601 or milliseconds since the epoch, in microseconds."""
    text = values.get(name)
    if text is None:
        return None
    try:
        return time_of(text)
    except ValueError as error:
        raise bad_parameter(name, f"{name} {error}") from None


def newest_first(values: dict[str, str]) -> bool:
    """Interpret the parameter `sort`."""
    text = values.get("sort", "desc")
    if text not in ("asc", "desc"):
        raise bad_parameter("sort", f"sort must be asc or desc, not {text[:40]!r}")
    return text == "desc"


SPAN: Final = ("start", "end", "limit", "sort")
PAGE: Final = (*SPAN, "cursor")


def span(values: dict[str, str]) -> Span:
    """The part of a history that is asked for. Times are shown in ms, so `end` is the whole one."""
    end = moment(values, "end")
    found = Span(
        start=moment(values, "start") or 0,
        end=None if end is None else end + 999,
        limit=number(values, "limit", DEFAULT_LIMIT, MAX_LIMIT),
        newest_first=newest_first(values),
    )
    cursor = _cursor(values)
    return found if cursor is None else found.behind(cursor.ms, cursor.rows)


def _cursor(values: dict[str, str]) -> Cursor | None:
    text = values.get("cursor")
    if text is None:
        return None
    try:
        return read_cursor(text)
    except ValueError as error:
        raise bad_parameter("cursor", f"cursor {error}") from None


def page(
    request: web.Request,
    values: dict[str, str],
    part: Span,
    rows: Sequence[T],
    time_of_row: Callable[[T], str],
) -> web.Response:
    """The answer with a page of a history, and the cursor of the next one if this is full."""
    if len(rows) == part.limit:
        request[NEXT_CURSOR] = str(
            end_of_page(rows, lambda row: time_of(time_of_row(row)) // 1000, _cursor(values))
        )
    return answer(rows)


def account_of(request: web.Request, values: dict[str, str]) -> int:
    """Return the account meant: the caller's, or of the operator any account's (`account`)."""
    request[ABOUT] = account = _account_of(request, values)
    return account


def _account_of(request: web.Request, values: dict[str, str]) -> int:
    caller = caller_of(request)
    name = values.get("account")
    if name is None:
        return HOUSE if caller.account is None else caller.account
    if not caller.operator:
        raise ServiceError(
            403,
            "operator_only",
            "an API key acts for its own account; leave out the parameter account",
            parameter="account",
        )
    return request.app[SERVICE].operations.account(name).number


# Answering ------------------------------------------------------------------------------------


_encode: Final = msgspec.json.Encoder().encode


def dumps(value: Any) -> bytes:
    """JSON of views and lists of views."""
    if isinstance(value, msgspec.Struct):
        return _encode(value)
    return orjson.dumps(value, default=msgspec.to_builtins)


def answer(value: Any, *, status: int = 200, location: str | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=dumps(value),
        content_type="application/json",
        headers={"Location": location} if location else None,
    )


TASKS: Final = web.AppKey("tasks", set[asyncio.Task[Any]])


async def finish(request: web.Request, work: Coroutine[Any, Any, T], what: str) -> T:
    """Waits for `work` up to `limits.HANDLER_TIMEOUT`.

    The work is not cancelled when the time is over: an order half submitted is worse than a late
    answer. The application owns the task and cancels it when the node stops.
    """
    tasks = request.app[TASKS]
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    tasks.add(task)
    # What `asyncio.wait` does, for one task and at half the cost.
    ended: asyncio.Future[None] = loop.create_future()

    def end(done: asyncio.Future[T] | None = None) -> None:
        if done is not None:
            tasks.discard(task)
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    timer = loop.call_later(limits.HANDLER_TIMEOUT, end)
    try:
        await ended
    finally:
        timer.cancel()
    if task.done():
        return task.result()
    task.add_done_callback(
        lambda late: late.cancelled() or late.exception()
    )  # no client requests it
    raise no_answer(what)


def no_answer(what: str) -> ServiceError:
    """The refusal of a request whose work, `what`, takes longer than `limits.HANDLER_TIMEOUT`."""
    detail = (
        f"{what} took longer than {limits.HANDLER_TIMEOUT:g} s; its outcome is not known yet: "
        "look it up, or repeat it with the same client_id"
    )
    return ServiceError(504, "no_answer", detail)
