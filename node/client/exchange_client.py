"""An async client of a node's API, typed with the node's own views.

    async with ExchangeClient("http://127.0.0.1:8300") as client:
        order = await client.submit(OrderRequest(market="BTC-USD", side="buy", quantity="0.5"))

What streams is in `node.client.streaming_client`. Errors:

    ClientError
    ├── ApiError(status, code, detail)   the node refused the request; `problem` is the whole document
    ├── NodeUnreachable                  no answer from the URL in time
    ├── NotANode                         something answers there, but it is not a node's API
    │   └── UntrustedNode                its certificate is not trusted
    └── StreamClosed                     the stream ended: the node stopped or cut it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from node.client.client_calls import OperatorCalls, PublicCalls, TradingCalls
from node.client.credentials import check_key, without_password
from node.client.server_trust import Trust
from node.operations.operation import Operation
from node.views.limits import CURSOR_HEADER
from p2p.base.http1 import Failure, HttpFailed, HttpReply, Url, request

if TYPE_CHECKING:
    from p2p.base.http_pool import HttpPool

T = TypeVar("T")

DEFAULT_TIMEOUT = 35.0  # seconds; a little longer than the node's own timeout
MAX_ANSWER = 1 << 30  # bytes
KEEP = 15.0  # seconds that a connection is kept; nodes keep them for 75
NODE_HEADER = "X-Exchange-Node"
_FINAL_DOT = re.compile(r"\.(?=(:\d*)?$)")


class ClientError(Exception):
    """Base of everything that the client raises on purpose."""


class ApiError(ClientError):
    """The node refused, with problem details (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        self.status = int(problem.get("status", 0))
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", ""))
        super().__init__(self.detail)


class NodeUnreachable(ClientError):
    """No answer from the URL in time."""


class NotANode(ClientError):
    """Something answers at the URL that is not a node's API."""


class UntrustedNode(NotANode):
    """The certificate at the URL is not trusted by the client's settings."""

    def __init__(self, site: str, error: Exception | None = None) -> None:
        why = f" ({error})" if error is not None else ""
        super().__init__(f"the certificate of {site} is not trusted{why}")


class StreamClosed(ClientError):
    """The stream ended; `code` is the WebSocket close code, None without a closing handshake."""

    def __init__(self, code: int | None) -> None:
        why = {1001: "the node is stopping", 1006: None, None: None}.get(code, f"code {code}")
        super().__init__(f"the stream ended: {why or 'the connection was lost'}")
        self.code = code


def checked_url(url: str) -> str:
    """A node's URL without its final slash, and its host name without a final dot, which certificates do not have.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"a node's URL looks like http://127.0.0.1:8300, not {without_password(url)!r}"
        )
    netloc = _FINAL_DOT.sub("", parts.netloc)
    return parts._replace(netloc=netloc).geturl().rstrip("/")


def client_headers(key: str | None, secret: str | None, node_id: str | None) -> dict[str, str]:
    """Headers of a request: credentials and the addressed node.

    Raises:
        KeyRefused: key and secret cannot be sent; the message does not have them.
    """
    headers = {NODE_HEADER: node_id} if node_id else {}
    if key is not None or secret is not None:  # half of a key is a mistake, not the operator
        check_key(key or "", secret or "")
        headers["Authorization"] = f"Bearer {key}:{secret}"
    return headers


class ApiResponse(NamedTuple):
    """An HTTP answer, read to its end."""

    status: int
    content_type: str
    body: bytes
    next_cursor: str | None = None  # of a page of a history


class ApiTransport(Protocol):
    """Carries one HTTP request. Raises `NodeUnreachable` when there is no answer."""

    async def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> ApiResponse: ...

    async def close(self) -> None: ...


def api_request(
    method: str, parts: Url, body: bytes | None, headers: Mapping[str, str], connection: str
) -> bytes:
    """Encode a request to a node. Raises `ValueError` as `request`."""
    headers = {"Host": parts.netloc, "Accept": "*/*", "Connection": connection, **headers}
    return request(method, parts.target, headers, body or b"")


def api_response(reply: HttpReply) -> ApiResponse:
    kind = reply.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    cursor = reply.headers.get(CURSOR_HEADER.lower().encode())
    next_cursor = None if cursor is None else cursor.decode("latin-1")
    return ApiResponse(reply.status, kind.decode("latin-1"), reply.body, next_cursor)


def explained(error: HttpFailed, url: str, timeout: float) -> ClientError:
    """Convert a failed exchange with the node at `url`."""
    site, kind = "{0.scheme}://{0.netloc}".format(urlsplit(url)), error.kind
    if kind in (Failure.NOT_IN_TIME, Failure.NO_REPLY, Failure.BUSY):
        return NodeUnreachable(f"no answer from {site} in {timeout:g} s")
    if kind is Failure.UNTRUSTED:
        why = getattr(error.__cause__, "verify_message", "")
        return UntrustedNode(site, ValueError(why) if why else None)
    if kind is Failure.NO_TLS:
        return NotANode(f"no TLS with {site} ({error})")
    if kind in (Failure.LOST, Failure.CUT_SHORT):
        hint = "; if it serves TLS, write https://" if site.startswith("http:") else ""
        return NodeUnreachable(f"{site} closed the connection without an answer{hint}")
    if kind is Failure.UNREACHABLE:
        return NodeUnreachable(f"no answer from {site} ({error})")
    return NotANode(f"the program at {site} is not a node: {error}")


class PooledTransport:
    """The usual transport: keeps its connections, serves any number of requests at once."""

    def __init__(self, timeout: float = DEFAULT_TIMEOUT, *, trust: Trust | None = None) -> None:
        self._timeout = timeout
        self._trust = trust or Trust()
        self._pools: dict[bool, HttpPool] = {}  # with TLS, and without

    def _pool(self, secure: bool) -> HttpPool:
        """The pool, made on first use: it belongs to the running loop."""
        if secure not in self._pools:
            from p2p.base.http_pool import HttpPool  # asyncio, which a short command need not load

            tls = self._trust if secure else None
            self._pools[secure] = HttpPool(tls, connect_timeout=self._timeout, idle=KEEP)
        return self._pools[secure]

    async def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> ApiResponse:
        try:
            parts = Url.parse(url)
            reply = await self._pool(parts.secure).exchange(
                parts.address,
                api_request(method, parts, body, headers, "keep-alive"),
                timeout=self._timeout,
                max_body=MAX_ANSWER,
                idempotent=method == "GET",
            )
        except HttpFailed as error:
            raise explained(error, url, self._timeout) from error
        except ValueError as error:
            raise NotANode(f"{url} is not the URL of a node: {error}") from error
        return api_response(reply)

    async def close(self) -> None:
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()


class ExchangeClient(TradingCalls, OperatorCalls, PublicCalls):
    """Talks to one node. It has a method for each operation.

    `key` and `secret` are an account's; without them the client is the operator, where the node takes
    keys as optional, or sees public data. `node_id`, when given, is sent along, so that a node of another
    id that took over the address refuses instead of trading.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        secret: str | None = None,
        node_id: str | None = None,
        trust: Trust | None = None,
        transport: ApiTransport | None = None,
    ) -> None:
        """`trust` says whose certificate is accepted at an https URL; a `transport` knows that itself."""
        self.url = checked_url(url)
        self._headers = client_headers(key, secret, node_id)
        self._transport: ApiTransport = transport or PooledTransport(trust=trust)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Idempotent."""
        await self._transport.close()

    # Requests

    async def call(
        self, operation: Operation[T, Any, Any], arguments: Mapping[str, Any]
    ) -> tuple[T, str | None]:
        """Call an operation with its parameters and body by name (`Operation.write`). Returns the answer, with
        the cursor of the next page if this one is full."""
        target, content = operation.write(arguments)
        headers = self._headers
        raw: bytes | None = None
        if content is not None:
            raw = msgspec.json.encode(content)
            headers = headers | {"Content-Type": "application/json"}
        reply = await self._transport.request(operation.method, self.url + target, raw, headers)
        try:
            if reply.content_type == "application/problem+json":
                raise ApiError(msgspec.json.decode(reply.body, type=dict[str, Any]))
            if reply.status in (200, 201) and reply.content_type == "application/json":
                answer = msgspec.json.decode(reply.body, type=operation.answer)
                return answer, reply.next_cursor
        except (msgspec.DecodeError, ValueError) as error:
            raise NotANode(f"{self.url} does not answer like a node: {error}") from error
        raise NotANode(f"{self.url} does not answer like a node (HTTP status {reply.status})")
