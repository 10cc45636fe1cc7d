"""HTTP API of a Grape in this process, compatible with `grenache-grape` and all Grenache clients.

    api = GrapeApi(grape)
    host, port = await api.start("127.0.0.1", 30001)

    POST /announce  {"data": ["service", 1337]}               -> 1 (how many Grapes hold it)
    POST /lookup    {"data": "service"}                       -> ["192.0.2.7:1337"]
    POST /put       {"data": {"v": "text"}}                   -> "<40 hex digits>"
    POST /put       {"data": {"k","seq","v","sig","salt","cas"}}
    POST /get       {"data": "<40 hex digits>"}               -> {"id","token","v"}, or nothing

Clients recognise success by the JSON type, because a Grape reports errors as text with status 200;
this API does the same, with the same texts. Extensions: an announcement may name the address it is
for (`["service", 1337, "192.0.2.7"]`), `/unannounce` takes one back (same arguments, answers how
many Grapes forgot it), and GET /status (or /) describes the Grape.

The API has no access control, but refuses web pages: requests with an `Origin` header or from
another site, and a foreign `Host` on a loopback address (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from p2p.base.host_port import format_host_port
from p2p.base.reach import may_name, teller
from p2p.grenache import grape_requests as data
from p2p.grenache.directory import Address, Directory
from p2p.grenache.errors import BadInput, GrenacheError
from p2p.grenache.rpc import rpc_server
from p2p.grenache.rpc.direct_requests import DirectConnection, Head
from p2p.grenache.rpc.limits import Limits
from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger(__name__)

MAX_PAYLOAD: Final = 8192  # bytes of a request's body, the documented default of the Node.js Grape
TIME_LIMIT: Final = 20.0  # seconds
DIRECT: Final = ("announce", "unannounce", "lookup", "put", "get")  # answered without aiohttp
_TEXT: Final = "text/plain; charset=utf-8"


class LocalGrape(Directory, Protocol):
    """Interface of the Grape behind the API; implemented by `p2p.grenache.grape.grape.Grape`."""

    @property
    def node_id(self) -> bytes: ...

    async def announce(self, service: str, port: int, *, host: str | None = None) -> int: ...

    async def withdraw(self, service: str, port: int, *, host: str | None = None) -> int: ...

    async def lookup(
        self, service: str, *, fresh: bool = False, reached_at: str | None = None
    ) -> list[Address]: ...

    def status(self) -> Any: ...


@runtime_checkable
class CallbackGrape(Protocol):
    """A Grape whose two usual operations run without a task; see there."""

    def start_announce(
        self,
        service: str,
        port: int,
        host: str | None,
        done: Callable[[int | None, GrenacheError | None], None],
    ) -> bool: ...

    def start_lookup(
        self,
        service: str,
        reached_at: str | None,
        done: Callable[[list[Address] | None, GrenacheError | None], None],
    ) -> bool: ...


_Done = Callable[[bytes | None, GrenacheError | None], None]
_Begin = Callable[[Any, str, _Done], bool]


@dataclasses.dataclass(slots=True)
class ApiCounters:
    """Counts since the start. `errors`: answers with an error text, also with status 200."""

    requests: int = 0
    errors: int = 0
    refused: int = 0  # web pages, and requests that are too large, too slow or not JSON
    failed: int = 0  # internal errors


class GrapeApi:
    """HTTP server of one Grape's API, until it is stopped.

    Args:
        max_payload: bytes of a request's body.
        limits: of connections; `max_payload` there is not used.
        time_limit: seconds that the Grape has for one answer.
        direct: answer plain requests without aiohttp; see `p2p.grenache.rpc.direct_requests`.
    """

    def __init__(
        self,
        grape: LocalGrape,
        *,
        max_payload: int = MAX_PAYLOAD,
        limits: Limits | None = None,
        time_limit: float = TIME_LIMIT,
        direct: bool = True,
    ) -> None:
        self._grape = grape
        self._limits = dataclasses.replace(limits or Limits(), max_payload=max_payload)
        self._time_limit = time_limit
        self._server = rpc_server.RpcServer(
            self._on_http,
            None,
            limits=self._limits,
            origins=None,
            direct={("POST", f"/{kind}"): self._direct for kind in DIRECT} if direct else {},
        )
        self._guard = HostGuard()
        self._types: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
            "announce": self._announce,
            "unannounce": self._unannounce,
            "lookup": self._lookup,
            "put": self._put,
            "get": self._get,
        }
        self._begin: dict[str, _Begin] = {}  # requests that need no task
        if isinstance(grape, CallbackGrape):
            self._begin["/announce"] = partial(self._begin_announce, grape)
            self._begin["/lookup"] = partial(self._begin_lookup, grape)
        # Requests under way without a task, the first one due first.
        self._due: dict[int, tuple[float, DirectConnection]] = {}
        self._begun_count = 0
        self._overdue_timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        self._answering = OwnedTasks(log)  # requests that are answered directly
        self._address: Address | None = None
        self.counters = ApiCounters()

    # Start and stop

    async def start(self, host: str = "127.0.0.1", port: int = 30001) -> Address:
        """Listen at `host`:`port` (0: the system chooses). Returns the address that is bound.

        Raises:
            OSError: it cannot be bound.
        """
        self._address = await self._server.start(host.strip("[]"), port)
        self._started = time.monotonic()
        return self._address

    async def stop(self) -> None:
        """Stop listening; requests under way get a short grace. No effect when stopped."""
        await self._server.stop()
        self._due.clear()
        if self._overdue_timer is not None:
            self._overdue_timer.cancel()
            self._overdue_timer = None
        await self._answering.close()
        self._address = None

    @property
    def address(self) -> Address:
        """Listening address, after `start`."""
        if self._address is None:
            raise RuntimeError("the API is not started")
        return self._address

    @property
    def url(self) -> str:
        """For clients on this machine; a wildcard address becomes loopback."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{format_host_port(host, port)}"

    # One request

    async def _on_http(self, request: web.BaseRequest) -> web.Response:
        return rpc_server.answer(*await self._answered(request.raw_path, self._answer(request)))

    def _direct(self, connection: DirectConnection, head: Head, body: bytes) -> bool:
        """Answer a plain request without aiohttp; see `DirectHandler`."""
        if self._server.closing or len(body) > self._limits.max_payload:
            return False
        own_host = _own_host(connection)
        if self._guard.refusal(head.headers, own_host) is not None:
            return False
        begin = self._begin.get(head.target)
        if begin is not None and self._begun(begin, connection, body, own_host):
            return True
        answering = self._result(head.target, body, own_host)
        self._answering.start(self._reply(connection, head.target, answering))
        return True

    def _begun(
        self, begin: _Begin, connection: DirectConnection, body: bytes, own_host: str
    ) -> bool:
        """Start an operation whose end answers the request, without a task; False: nothing was done, among
        others because the request is refused."""
        try:
            argument = orjson.loads(body)["data"]
        except (orjson.JSONDecodeError, TypeError, LookupError):
            return False
        number = self._begun_count = self._begun_count + 1

        def done(result: bytes | None, error: GrenacheError | None) -> None:
            if self._due.pop(number, None) is None:
                return  # too late
            if error is not None:
                connection.answer(rpc_server.answer_bytes(*self._failure(error)))
            else:
                connection.answer(rpc_server.answer_bytes(result or b""))

        due = asyncio.get_running_loop().time() + self._time_limit
        self._due[number] = (due, connection)
        try:
            begun = begin(argument, own_host, done)
        except GrenacheError:
            begun = False
        if not begun:
            del self._due[number]
            return False
        self.counters.requests += 1
        if self._due and self._overdue_timer is None:
            self._overdue_timer = asyncio.get_running_loop().call_at(due, self._answer_overdue)
        return True

    def _answer_overdue(self) -> None:
        """Answer the requests whose time is over."""
        loop = asyncio.get_running_loop()
        self._overdue_timer = None
        now = loop.time()
        while self._due:
            number, (due, connection) = next(iter(self._due.items()))
            if now < due:
                self._overdue_timer = loop.call_at(due, self._answer_overdue)
                return
            del self._due[number]
            connection.answer(rpc_server.answer_bytes(*self._timed_out()))

    async def _reply(
        self, connection: DirectConnection, path: str, answering: Awaitable[bytes]
    ) -> None:
        connection.answer(rpc_server.answer_bytes(*await self._answered(path, answering)))

    async def _answered(self, path: str, answering: Awaitable[bytes]) -> tuple[bytes, int, str]:
        """Body, status and content type of an answer, or of the error that it ends in."""
        self.counters.requests += 1
        try:
            return await answering, 200, rpc_server.JSON
        except GrenacheError as error:
            return self._failure(error)
        except rpc_server.HttpRefusal as refusal:
            return self._refusal(refusal.status, _refusal_text(refusal, self._limits))
        except TimeoutError:
            return self._timed_out()
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("incident %s: %s failed", incident, path[:40])
            self.counters.failed += 1
            text = f"ERR_GRAPE_INTERNAL: the log has the details under incident {incident}"
            return self._refusal(500, text)

    def _failure(self, error: GrenacheError) -> tuple[bytes, int, str]:
        self.counters.errors += 1
        text = data.error_text(error)
        return orjson.dumps(text), data.error_status(text), rpc_server.JSON

    def _timed_out(self) -> tuple[bytes, int, str]:
        return self._refusal(504, f"ERR_GRAPE_TIMEOUT: no answer in {self._time_limit:g} s")

    def _refusal(self, status: int, text: str) -> tuple[bytes, int, str]:
        self.counters.refused += 1
        return text.encode(), status, _TEXT

    async def _answer(self, request: web.BaseRequest) -> bytes:
        own_host = _own_host(request.protocol)
        refusal = self._guard.refusal(request.headers, own_host)
        if refusal is not None:
            raise rpc_server.HttpRefusal(403, refusal)
        received = await rpc_server.read_body(request, self._limits)
        path = request.raw_path
        if request.method == "GET" and not received and path in ("/", "/status"):
            return orjson.dumps(self._status())
        return await self._result(path, received, own_host)

    async def _result(self, path: str, received: bytes, own_host: str) -> bytes:
        try:
            body = orjson.loads(received)
        except orjson.JSONDecodeError:
            raise rpc_server.HttpRefusal(500, "ERR_GRAPE_PAYLOAD_INVALID") from None
        argument = body.get("data") if isinstance(body, dict) else None
        answer = self._types.get(path[1:2].lower() + path[2:])
        if answer is None:
            raise BadInput("ERR_REQ_NOTFOUND")
        async with asyncio.timeout(self._time_limit):
            result = await answer(argument, own_host)
        return b"" if result is None else orjson.dumps(result)

    # Operations

    async def _announce(self, argument: Any, own_host: str) -> int:
        service, port, host = _announced(argument, own_host)
        return await self._grape.announce(service, port, host=host)

    async def _unannounce(self, argument: Any, _own_host: str) -> int:
        service, port, host = data.announcement(argument)
        return await self._grape.withdraw(service, port, host=host)

    async def _lookup(self, argument: Any, own_host: str) -> list[str]:
        found = await self._grape.lookup(data.looked_up(argument), reached_at=own_host or None)
        return [f"{host}:{port}" for host, port in found]

    def _begin_announce(
        self, grape: CallbackGrape, argument: Any, own_host: str, done: _Done
    ) -> bool:
        service, port, host = _announced(argument, own_host)
        return grape.start_announce(
            service,
            port,
            host,
            lambda held, error: done(b"%d" % held if held is not None else None, error),
        )

    def _begin_lookup(
        self, grape: CallbackGrape, argument: Any, own_host: str, done: _Done
    ) -> bool:
        def found(addresses: list[Address] | None, error: GrenacheError | None) -> None:
            done(None if addresses is None else _listed(addresses), error)

        return grape.start_lookup(data.looked_up(argument), own_host or None, found)

    async def _put(self, argument: Any, _own_host: str) -> str:
        value = data.value_to_put(argument)
        if isinstance(value, bytes):
            return await self._grape.put(value)
        return await self._grape.put_mutable(value)

    async def _get(self, argument: Any, _own_host: str) -> dict[str, Any] | None:
        key, salt = data.key_to_get(argument)
        found = await self._grape.get(key, salt=salt)
        return None if found is None else data.found_value(found, self._grape.node_id)

    def _status(self) -> dict[str, Any]:
        return {
            "grape": self._grape.status(),
            "api": {
                "url": self.url,
                "uptime": round(time.monotonic() - self._started, 1),
                "connections": self._server.connections,
                "max_payload": self._limits.max_payload,
                **dataclasses.asdict(self.counters),
            },
        }


def _announced(argument: Any, own_host: str) -> tuple[str, int, str | None]:
    """Read an announcement that came to `own_host`, which says from how far away.

    Raises:
        BadInput: it is none, or gives an address that its caller may not name.
    """
    service, port, host = data.announcement(argument)
    if host is not None and not may_name(teller(own_host), host):
        raise BadInput("ERR_GRAPE_HOST", f"{host!r} is not taken from another network")
    return service, port, host


def _listed(addresses: list[Address]) -> bytes:
    return orjson.dumps([f"{host}:{port}" for host, port in addresses]) if addresses else b"[]"


def _own_host(connection: web.RequestHandler) -> str:
    """The address of this machine that a connection came to."""
    name = connection.sockname
    return str(name[0]) if isinstance(name, tuple) else ""


def _refusal_text(refusal: rpc_server.HttpRefusal, limits: Limits) -> str:
    """Text of a refusal; clients compare the whole text of the one for oversized values."""
    if refusal.status == 413:
        return "ERR_GRAPE_PAYLOAD_SIZE"
    if refusal.status == 408:
        return f"ERR_GRAPE_PAYLOAD_TIMEOUT: the body did not arrive in {limits.body_timeout:g} s"
    return refusal.text


MAX_KNOWN: Final = 256  # Host headers remembered as harmless
_SHOWN: Final = 100  # characters of a header that a refusal repeats
_LOCAL_NAME = re.compile(r"[a-z0-9_-]+|(?:[a-z0-9_-]+\.)*localhost")


class HostGuard:
    """Detection of requests that a web page may have sent. Browsers put `Origin` into every request
    that a script sends with a method other than GET, and `Sec-Fetch-Site` into all; a page cannot
    take either away. A page that has its own name point to 127.0.0.1 (DNS rebinding) still sends
    that name as `Host`. Programs send neither of the first two, and reach this machine by an
    address or a name without dots.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def refusal(self, headers: Mapping[str, str], own_host: str) -> str | None:
        """Reason to refuse a request with these headers (names in lower case), None to accept.
        `own_host`: the address of this machine that it came to."""
        site = headers.get("sec-fetch-site", "none")
        if "origin" in headers or site != "none":
            page = headers.get("origin", site)[:_SHOWN]
            return f"ERR_GRAPE_ORIGIN: requests from web pages are refused (this one: {page!r})"
        host = headers.get("host", "")
        if host in self._known or not _is_loopback(own_host):
            return None
        if not is_local_host(host):
            return (
                f"ERR_GRAPE_HOST: the Host {host[:_SHOWN]!r} is no name of this machine; use its address, "
                "such as 127.0.0.1"
            )
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)
        return None


def is_local_host(header: str) -> bool:
    """Return True if a Host header holds what no public DNS server can be asked for: an IP address, localhost,
    or a name without dots. An absent one (HTTP/1.0) is fine: browsers always send it."""
    if not header:
        return True
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises on a port that is no number
    except ValueError:
        return False
    if parts.netloc != header or "@" in header:
        return False
    host = (parts.hostname or "").rstrip(".")
    return _LOCAL_NAME.fullmatch(host) is not None or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return bool((mapped or address).is_loopback)
