"""Errors of the HTTP API as problem details (RFC 9457)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any, Final

import orjson

from exchange.orders.engine_context import CommandRejected
from node.api.problem_codes import TRADING_CODES
from node.http.http_messages import Response
from node.http.server_connection import Request
from node.service.refusals import service_error
from node.views.problem_view import Problem
from node.views.views import ServiceError

log = logging.getLogger("node.api")

CONTENT_TYPE: Final = "application/problem+json"

# code -> (title, explanation and remedy). The title of a problem type never changes.
# Codes of the node's own refusals that are missing here get a title made from the code.
CODES: Final[dict[str, tuple[str, str]]] = {
    "invalid_json": ("Invalid JSON", "The body is not JSON. Send one JSON object in UTF-8."),
    "repeated_member": (
        "Repeated member",
        "An object of the body has a member twice, and only one of them can be meant. Send each once.",
    ),
    "invalid_body": (
        "Invalid body",
        "The body is JSON, but a field is missing, unknown or of the wrong type; "
        "`pointer` names the field.",
    ),
    "number_not_string": (
        "Number instead of string",
        "Prices and quantities are sent as strings, because JSON numbers lose digits.",
    ),
    "invalid_parameter": (
        "Invalid parameter",
        "A query parameter is unknown, repeated or has a wrong value.",
    ),
    "bad_request": ("Bad request", "The request is not valid HTTP or cannot be read."),
    "forbidden_host": (
        "Host refused",
        "The Host header is not an address of this node. Protects against DNS rebinding.",
    ),
    "forbidden_origin": (
        "Origin refused",
        "The request comes from a page of another site. The API serves no other origins.",
    ),
    "not_found": ("Not found", "There is nothing at this path; see /docs."),
    "method_not_allowed": (
        "Method not allowed",
        "The path exists, but not for this method; the Allow header lists those it has.",
    ),
    "request_timeout": ("Request timeout", "The body did not arrive in time."),
    "body_too_large": ("Body too large", "A request body may have at most 64 KiB."),
    "unsupported_media_type": (
        "Unsupported media type",
        "Send the body as JSON with the header `Content-Type: application/json`.",
    ),
    "wrong_node": (
        "Another node",
        "The X-Exchange-Node header asked for a node id that is not this node's.",
    ),
    "upgrade_required": ("Upgrade required", "This path accepts WebSocket connections only."),
    "internal_error": (
        "Internal error",
        "A fault of the node, not of the request. The node's log has the incident.",
    ),
    "too_many_streams": ("Too many streams", "Close a stream before opening another."),
    "no_answer": (
        "No answer in time",
        "The node is still working on the request, its outcome is not known yet. "
        "Look it up, or repeat it with the same client_id.",
    ),
    "unknown_market": ("Unknown market", "Unknown market; GET /v1/markets lists them."),
    "unknown_order": ("Unknown order", "This node has no such order."),
    "order_done": ("Order done", "The order is filled or cancelled already."),
    "bad_number": (
        "Bad number",
        "A price or quantity must be a positive plain decimal and a multiple of the market's tick "
        "or lot.",
    ),
    "bad_order_id": ("Bad order id", "Neither the full id of an order nor its number."),
    "bad_client_id": (
        "Bad client id",
        "Too long, empty, with unprintable characters, or `.` or `..`, which paths cannot carry.",
    ),
    "client_id_reused": (
        "Client id reused",
        "An earlier order has this client_id, and it was another order.",
    ),
    "bad_side": ("Bad side", "The side of an order is buy or sell."),
    "bad_timeframe": ("Bad timeframe", "Unknown length of candles; see listCandles."),
    "bad_subject": (
        "Bad subject",
        "A node id, or for bans an IP address or a network such as 203.0.113.0/24.",
    ),
    "no_such_rule": ("No such rule", "GET /v1/peers/policy lists pins and bans."),
    "bad_address": ("Bad address", "An address of a peer is HOST:PORT, or [IPv6]:PORT."),
    "connect_failed": (
        "Connect failed",
        "No answer at the address in time. Use the other node's peer port.",
    ),
    "unknown_node": ("Unknown node", "No known node has an id with this prefix; GET /v1/peers."),
    "ambiguous_node": ("Ambiguous node", "Several node ids begin so; give more of it."),
    "self_connection": ("Self connection", "The node meant is this node itself."),
    "unreachable": (
        "Unreachable",
        "The node is unreachable now; the detail lists the attempts.",
    ),
    "ping_failed": ("Ping failed", "The node did not answer in time."),
    "bad_call": ("Bad call", "The payload cannot be sent, or the timeout is out of bounds."),
    "no_provider": (
        "No provider",
        "No node that is known offers this service; GET /v1/services lists those there are.",
    ),
    "service_refused": (
        "CommandRejected by the service",
        "The service answered with a refusal of its own; `service_code` is its code.",
    ),
    "service_busy": (
        "Service busy",
        "The providers are overloaded; the call was not executed. Try again after "
        "`retry_after_ms`.",
    ),
    "call_timeout": (
        "Call timeout",
        "No answer in time. It is not known whether the call was executed.",
    ),
    "call_lost": (
        "Call lost",
        "The link broke or the service failed. It is not known whether the call was executed.",
    ),
    "not_ready": (
        "Not ready",
        "The node cannot take orders now; `checks` says why. docs/operations.md has what to do.",
    ),
    "stale_data": (
        "Stale data",
        "The node's data directory is an old copy: others hold more of its own feeds than it does. It "
        "takes no orders until it is started with the current one.",
    ),
    "invalid_message": (
        "Invalid message",
        'On the stream: send one JSON object with "op", see /asyncapi.json.',
    ),
    "already_subscribed": ("Already subscribed", "On the stream: this is coming already."),
    "not_subscribed": ("Not subscribed", "On the stream: this was not subscribed to."),
    "too_many_subscriptions": (
        "Too many subscriptions",
        "On the stream: open a second connection.",
    ),
    "too_many_undecided": (
        "Too many undecided orders",
        "On the stream: wait for outcomes of orders that are pending with other nodes.",
    ),
    "book_too_large": ("Book too large", "On the stream: subscribe to a book with a depth."),
} | TRADING_CODES


def title_of(code: str) -> str:
    """The unchanging title of a problem type."""
    known = CODES.get(code)
    return known[0] if known else code.replace("_", " ").capitalize()


def stream_problem(error: ServiceError, *, prefix: str = "") -> Problem:
    """The problem document of a request on the stream. `prefix` is the place of the request's body in its
    message, for the pointer."""
    pointer = error.extra.get("pointer")
    if pointer is None and "parameter" in error.extra:
        pointer, prefix = f"/{error.extra['parameter']}", ""
    return Problem(
        type=f"/docs#problem-{error.code}",
        title=title_of(error.code),
        status=error.status,
        detail=error.detail,
        code=error.code,
        instance="/v1/stream",
        pointer=None if pointer is None else prefix + pointer,
        incident=error.extra.get("incident"),
        retry_after=error.extra.get("retry_after"),
    )


def problem_members(
    status: int, code: str, detail: str, instance: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The members of a problem document; `extra` cannot replace the standard ones."""
    return (extra or {}) | {
        "type": f"/docs#problem-{code}",
        "title": title_of(code),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": instance,
    }


def problem_headers(status: int, headers: dict[str, str] | None) -> dict[str, str]:
    """The headers of a problem with this status, and `headers`."""
    if status == 401:
        return {"WWW-Authenticate": "Bearer"} | (headers or {})
    if status == 429:
        return {"Retry-After": "1"} | (headers or {})
    return headers or {}


class Answered(Exception):
    """A refusal with a response of its own."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.problem)
        self.response = response


def problem(
    instance: str,
    status: int,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
) -> Response:
    """A response with problem details. `instance` is the path of the request as it was sent."""
    members = problem_members(status, code, detail, instance[:200], extra)
    return Response(
        status,
        orjson.dumps(members, default=str),
        CONTENT_TYPE,
        problem_headers(status, headers),
        code,
    )


def no_route(request: Request, allowed: Sequence[str] = ()) -> Response:
    """The answer to a request without a route. `allowed`: methods that the path has, if not only the router knows."""
    head = request.head
    path = head.target.path[:200]
    allowed = allowed or head.target.route.allowed
    if not allowed:
        detail = f"unknown path {path}; GET /docs lists the operations"
        return problem(head.target.raw_path, 404, "not_found", detail)
    methods = ", ".join(allowed)
    detail = f"{head.method} {path} does not exist; this path has {methods}"
    return problem(
        head.target.raw_path, 405, "method_not_allowed", detail, headers={"Allow": methods}
    )


def refusal_of(request: Request | None, error: Exception) -> Response:
    """The response to a request that raised an error; without a request, the answer to what is not one."""
    if request is None:
        return problem("/", 400, "bad_request", "the request is not valid HTTP/1.1")
    if isinstance(error, Answered):
        return error.response
    if isinstance(error, CommandRejected):
        error = service_error(error)
    elif not isinstance(error, ServiceError):
        error = incident_of(f"{request.head.method} {request.head.target.path!r}", error)
    return problem(
        request.head.target.raw_path, error.status, error.code, error.detail, extra=error.extra
    )


def incident_of(what: str, error: BaseException) -> ServiceError:
    """Log an unexpected exception under an incident number, the only detail in the refusal."""
    incident = secrets.token_hex(4)
    log.error("incident %s: %s failed", incident, what, exc_info=error)
    return ServiceError(
        500,
        "internal_error",
        f"the node failed to answer; its log has the details under incident {incident}",
        incident=incident,
    )
