"""Reading requests about orders from stream messages: what does not fit is refused by its request id.

A message that fits its type is decoded at once, by `stream_socket`. This module has the rest: which
request it was, and which field of it is wrong. In `many`, a request that does not fit is refused alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec

from node.api.problems import stream_problem
from node.api.route import misfit, whole
from node.http.json_members import RepeatedMember
from node.streams.order_messages import (
    MAX_MANY,
    MAX_REQUEST_ID,
    CancelAfter,
    CancelOnDisconnect,
    Many,
    OrderMessage,
    Refused,
    TradingMessage,
)
from node.views.views import AmendRequest, OrderRequest, ServiceError

SingleRequest = OrderMessage | CancelAfter | CancelOnDisconnect
_KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in get_args(SingleRequest)}
_BATCHED: Final = {str(kind.__struct_config__.tag): kind for kind in get_args(OrderMessage)}
_BODIES: Final[dict[str, type]] = {"order": OrderRequest, "changes": AmendRequest}
_IN_BODY: Final = re.compile(r"`\$\.(order|changes)\b")


@dataclass(slots=True)
class ReadMessage:
    """A message about orders. `requests` has a refusal in place of each that does not fit."""

    id: str
    many: bool
    requests: list[SingleRequest | Refused]


def of_message(message: TradingMessage) -> ReadMessage:
    """A message that fits its type."""
    if isinstance(message, Many):
        return ReadMessage(message.id, True, [*message.requests])
    return ReadMessage(message.id, False, [message])


def refusal(op: Any, request_id: str, error: ServiceError, *, body: str = "") -> Refused:
    prefix = f"/{body}" if body else ""
    return Refused(id=request_id, op=op, problem=stream_problem(error, prefix=prefix))


def reread(text: str) -> ReadMessage | Refused | None:
    """A message that did not fit its type: the requests in it, or its refusal; None when it is none about
    orders, or without a usable id."""
    try:
        raw = whole(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    op, request_id = raw.get("op"), raw.get("id")
    if op not in _KINDS and op != "many":
        return None
    if not (isinstance(request_id, str) and _is_id(request_id)):
        return None
    if op == "many":
        return _reread_many(raw, request_id)
    found = _read(raw, _KINDS)
    return found if isinstance(found, Refused) else ReadMessage(request_id, False, [found])


def repeated(text: str, error: RepeatedMember) -> Refused | None:
    """The refusal of a message about orders that has a member twice; None when it is none about orders, or which
    request it is has two meanings."""
    raw = msgspec.json.decode(text)
    op, request_id = raw.get("op"), raw.get("id")
    if error.name in ("op", "id") or (op not in _KINDS and op != "many") or not _is_id(request_id):
        return None
    return refusal(op, request_id, ServiceError(400, "repeated_member", error.detail))


def _reread_many(raw: dict[str, Any], request_id: str) -> ReadMessage | Refused:
    requests = raw.get("requests")
    unknown = raw.keys() - {"op", "id", "requests"}
    if unknown:
        name = min(unknown)[:40]
        return _bad(request_id, f"object contains unknown field `{name}` at /{name}", f"/{name}")
    if not isinstance(requests, list) or not 0 < len(requests) <= MAX_MANY:
        detail = f"requests must be a list of 1 to {MAX_MANY} requests"
        return _bad(request_id, detail, "/requests")
    for number, each in enumerate(requests):
        at = f"/requests/{number}"
        if not isinstance(each, dict) or not _is_id(each.get("id")):
            detail = f"each request needs an id, a string of 1 to {MAX_REQUEST_ID} characters: {at}"
            return _bad(request_id, detail, f"{at}/id")
        if each.get("op") not in _BATCHED:
            detail = f"op must be one of {', '.join(_BATCHED)} in many: {at}"
            return _bad(request_id, detail, f"{at}/op")
    return ReadMessage(request_id, True, [_read(each, _BATCHED) for each in requests])


def _bad(request_id: str, detail: str, pointer: str) -> Refused:
    return refusal("many", request_id, ServiceError(400, "invalid_body", detail, pointer=pointer))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_REQUEST_ID


def _read(raw: dict[str, Any], kinds: dict[str, Any]) -> SingleRequest | Refused:
    op = raw["op"]
    try:
        found: SingleRequest = msgspec.convert(raw, kinds[op])
    except msgspec.ValidationError as error:
        body = _IN_BODY.search(str(error))
        return refusal(op, raw["id"], misfit(error, _BODIES[body[1]] if body else kinds[op]))
    return found
