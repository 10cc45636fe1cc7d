"""Link: client of one or several Grapes over HTTP.

    async with Link(["http://127.0.0.1:30001", "http://127.0.0.1:40001"]) as link:
        link.start_announcing("rpc_test", 1337)      # now, and again until it is stopped
        for host, port in await link.lookup("rpc_test"):
            ...
        key = await link.put(b"hello world")
        found = await link.get(key)                  # StoredValue(value=b"hello world")

Requests go to the first healthy Grape, to another beside it when it is slow, in its place when it
fails. An empty lookup has to be confirmed by a second Grape. Announcements go through several
Grapes, because each stores them at other DHT nodes and does not report when those fail. A Grape
records its own address, not the caller's: announce through a Grape on the worker's machine.

Errors: `BadInput` for invalid input (nothing is sent), `GrapeUnreachable` when no Grape answers,
`GrapeRefused` when one answers with an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

from p2p.base.reach import Reach, ip_of, reach, teller
from p2p.grenache import bep44
from p2p.grenache.announcer import INTERVAL, Repeater
from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import BadInput, GrapeRefused, GrenacheError
from p2p.grenache.input_checks import (
    check_host,
    check_json_integer,
    check_key,
    check_port,
    check_service,
    check_url,
    salt_text,
    value_text,
)
from p2p.grenache.link.grape_answers import (
    ALL_FAILED,
    NO_NODES,
    NOT_FOUND,
    VersionRefused,
    addresses,
    announced,
    stored_key,
    stored_value,
    withdrawn,
)
from p2p.grenache.link.grape_health import GrapeReachability
from p2p.grenache.link.grape_pool import GrapePool, OnState
from p2p.grenache.link.http_post import HttpPost, Post
from p2p.grenache.shared_work import SharedWork
from p2p.ground.bounded_map import BoundedMap

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GRAPES: Final = 16
REQUEST_TIMEOUT: Final = 6.0  # seconds; a search past dead neighbours takes a Grape up to 4.6
CACHE_FOR: Final = 2.0  # seconds
MAX_CACHED: Final = 1024  # services
REACH_KEPT: Final = 60.0  # seconds between resolutions of a Grape's name
_REPAIRED: Final = (NO_NODES, ALL_FAILED)
_CONFIRMED: Final = 2  # Grapes that have to confirm an empty lookup


class Link:
    """`ports.Directory` through Grapes; use it as a context manager, or `start` and `close` it.

    Args:
        grapes: URLs, the preferred one first.
        cache_for: seconds for which the answer of a lookup is good; 0 turns that off.
        request_timeout: seconds for one request to one Grape.
        on_state: called when a Grape begins or stops answering.
        post: how requests are sent: `HttpPost(tls=...)` with a certificate authority of one's own.

    Raises:
        BadInput: no URL, too many, or one that is none of a Grape.
    """

    def __init__(
        self,
        grapes: Sequence[str],
        *,
        cache_for: float = CACHE_FOR,
        request_timeout: float = REQUEST_TIMEOUT,
        on_state: OnState | None = None,
        rng: random.Random | None = None,
        post: Post | None = None,
    ) -> None:
        if isinstance(grapes, str):
            grapes = [grapes]
        self.urls = tuple(dict.fromkeys(check_url(url) for url in grapes))
        if not 1 <= len(self.urls) <= MAX_GRAPES:
            raise BadInput(
                "ERR_GRAPE_URL", f"give the URLs of 1 to {MAX_GRAPES} Grapes, not {len(self.urls)}"
            )
        self._cache_for = cache_for
        self._timeout = request_timeout
        self._on_state = on_state
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._given_post = post
        self._running: _Running | None = None
        self._reaches: dict[str, tuple[float, Reach]] = {}  # of the Grapes; until when
        self._cache: BoundedMap[str, tuple[float, list[Address]]] = BoundedMap(MAX_CACHED)

    # Start and stop

    async def start(self) -> None:
        """Open the link and begin to probe the Grapes. None has to answer."""
        if self._running is not None:
            return
        post = self._given_post or HttpPost()
        pool = GrapePool(
            self.urls, post, timeout=self._timeout, rng=self._rng, on_state=self._on_state
        )
        self._now = asyncio.get_running_loop().time
        repeater = Repeater(self._announce_once, returned=lambda: pool.returned, rng=self._rng)
        self._running = _Running(post, pool, SharedWork(), repeater)
        for grape in range(len(self.urls)):
            self._running.work.own(pool.watch(grape))

    async def close(self) -> None:
        """Stop announcing and cancel requests under way. Safe to call twice."""
        running, self._running = self._running, None
        if running is not None:
            self._cache.clear()
            await running.repeater.close()
            await running.work.close()
            await running.post.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def status(self) -> list[GrapeReachability]:
        """Status of each Grape, in the order of their URLs."""
        return self._pool.status()

    @property
    def _pool(self) -> GrapePool:
        return self._started.pool

    @property
    def _work(self) -> SharedWork:
        return self._started.work

    @property
    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the Link is not started: use `async with Link(...)`, or `start()`")
        return self._running

    # Announcements

    async def announce(self, service: str, port: int, *, host: str | None = None) -> int:
        """Announce once, through several Grapes. Returns the largest number of DHT nodes that a
        Grape reports. `host`: the IPv4 address to record; a Node.js Grape ignores it and records
        its own. It goes on at Grapes that are late.

        Raises:
            BadInput, GrapeUnreachable, GrapeRefused: none of the Grapes got it through.
        """
        data = _offer(service, port, host)
        holders, _ = await self._work.share(("announce", *data), lambda: self._announce(data))
        return holders

    async def withdraw(self, service: str, port: int, *, host: str | None = None) -> int:
        """Withdraw an announcement; Node.js Grapes cannot. Returns the largest number of DHT nodes
        that a Grape reports.

        Raises:
            BadInput, GrapeUnreachable, GrapeRefused
        """
        data = _offer(service, port, host)

        async def at(grape: int) -> int:
            # A concurrent announcement must not overtake this.
            await self._work.settled(("announce at", grape, *data))
            try:
                return withdrawn(await self._pool.ask(grape, "unannounce", data))
            except GrapeRefused as error:
                if error.code == NOT_FOUND:
                    return 0
                raise

        def shared(grape: int) -> Awaitable[int]:  # goes on at Grapes that are late
            return self._work.share(("withdraw at", grape, *data), lambda: at(grape))

        async def everywhere() -> int:
            return max((await self._pool.several(shared))[0])

        self.stop_announcing(service, port)
        return await self._work.share(("withdraw", *data), everywhere)

    def start_announcing(self, service: str, port: int, *, interval: float = INTERVAL) -> None:
        """Announce now and about every `interval` seconds, through failures of Grapes; at once when
        one comes back. Calling it again changes the interval.

        Raises:
            BadInput
        """
        self._started.repeater.start(service, port, interval)

    def stop_announcing(self, service: str, port: int | None = None) -> None:
        """Stop announcing `service` at `port`, None: at any port. The entries expire."""
        if self._running is not None:
            self._running.repeater.stop(service, port)

    async def _announce_once(self, service: str, port: int) -> str:
        return (await self._announce([service, port], patient=True))[1]

    async def _announce(self, data: list[Any], *, patient: bool = False) -> tuple[int, str]:
        """Announce at all Grapes: number of holders, and errors of some Grapes."""

        def at(grape: int) -> Awaitable[int]:
            # A hanging announcement is awaited, not repeated in parallel.
            return self._work.share(
                ("announce at", grape, *data), lambda: self._announce_at(grape, data)
            )

        holders, errors = await self._pool.several(at, patient=patient)
        self.forget(data[0])
        return max(holders), self._pool.text(errors)

    async def _announce_at(self, grape: int, data: list[Any]) -> int:
        await self._work.settled(("withdraw at", grape, *data))
        return await self._repaired(
            lambda: self._pool.ask(grape, "announce", data),
            announced,
            lambda: self._pool.ask(grape, "lookup", data[0]),
        )

    async def _repaired(
        self,
        ask: Callable[[], Awaitable[Any]],
        decode: Callable[[Any], T],
        search: Callable[[], Awaitable[Any]],
    ) -> T:
        """Return the answer to `ask`, repeated after `search` when that may help.

        A Grape stores through a table of nodes that it keeps for five minutes, even if they are
        dead; a search for the same key refreshes it."""
        try:
            return decode(await ask())
        except GrapeRefused as error:
            if error.code not in _REPAIRED:
                raise
        await search()
        return decode(await ask())

    # Lookups

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        """Look up the workers of `service`, in random order; empty when none is known.

        Raises:
            BadInput, GrapeUnreachable, GrapeRefused
        """
        check_service(service)
        if not fresh and (cached := self._cache.get(service)) and self._now() < cached[0]:
            return self._turned(cached[1])
        if fresh:
            self.forget(service)
        found = await self._work.share(("lookup", service), lambda: self._lookup(service))
        return self._turned(found)

    def forget(self, service: str) -> None:
        """Drop the cached lookup of `service`: its workers may be gone."""
        self._cache.pop(service, None)
        if self._running is not None:
            self._work.forget(("lookup", service))  # current waiters still get that answer

    async def _lookup(self, service: str) -> list[Address]:
        async def at(grape: int) -> list[Address]:
            answer = await self._pool.ask(grape, "lookup", service)
            return addresses(answer, await self._reach_of(self.urls[grape]))

        answers = await self._pool.first(at, lambda got: bool(got[-1]) or len(got) >= _CONFIRMED)
        found = answers[-1]
        self._rng.shuffle(found)
        if not found or self._cache_for <= 0:
            return found  # empty results are not cached
        if self._work.is_current(("lookup", service)):
            self._cache[service] = (self._now() + self._cache_for, found)
        return found

    async def _reach_of(self, url: str) -> Reach:
        """Return the reach of a Grape, which decides what it may name."""
        until, known = self._reaches.get(url, (0.0, Reach.PUBLIC))
        if self._now() >= until:
            known = await _looked_up(urlsplit(url).hostname or "")
            self._reaches[url] = self._now() + REACH_KEPT, known
        return known

    def _turned(self, found: list[Address]) -> list[Address]:
        """Return a random rotation, which spreads the callers' first choice at less cost than
        shuffling."""
        start = int(self._rng.random() * len(found))
        return found[start:] + found[:start]

    # Values

    async def put(self, value: bytes) -> str:
        """Store an immutable value of UTF-8 text and return its key.

        Raises:
            BadInput, GrapeUnreachable, GrapeRefused
        """
        bep44.check_value(value)
        data, key = {"v": value_text(value)}, bep44.immutable_key(value).hex()
        return await self._work.share(("put", key), lambda: self._put(data, key, b""))

    async def put_mutable(self, item: MutableItem) -> str:
        """Store a signed value of UTF-8 text and return its key. Storing the same version twice is
        no error.

        Grapes of `grenache-grape` store signed values only when they were built with a verifier, which
        those of its command line are not.

        Raises:
            BadInput, GrapeUnreachable
            GrapeRefused: `VersionRefused` when `seq` is not newer, or `cas` does not fit.
        """
        bep44.check(item)
        if not bep44.verify(item):
            raise BadInput("ERR_GRAPE_SIGNATURE", "the signature is not of this key and value")
        data: dict[str, Any] = {
            "k": item.public_key.hex(),
            "seq": check_json_integer(item.seq, "seq"),
            "v": value_text(item.value),
            "sig": item.signature.hex(),
        }
        if item.salt:
            data["salt"] = salt_text(item.salt)
        if item.cas is not None:
            data["cas"] = check_json_integer(item.cas, "cas")
        key = bep44.mutable_key(item.public_key, item.salt).hex()
        try:
            return await self._work.share(("put", item), lambda: self._put(data, key, item.salt))
        except VersionRefused:
            # A repeated request, own or by the caller, is refused because of the first one.
            stored = await self.get(key, salt=item.salt)
            if stored is None or (stored.seq, stored.value) != (item.seq, item.value):
                raise
            return key

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        """Return the value of a key, or None. Of signed values the newest that several Grapes
        know: a Grape that holds one answers with that, however old. It could be made to search
            others nevertheless (`"cache": false`), but one of Node.js then spoils the copy that it
            holds.

        Raises:
            BadInput, GrapeUnreachable
            GrapeRefused: also when what was found is not what the key stands for.
        """
        key = check_key(key)
        data = {"hash": key, **({"salt": salt_text(salt)} if salt else {})}
        return await self._work.share(("get", key, salt), lambda: self._get(key, salt, data))

    async def _put(self, data: dict[str, Any], key: str, salt: bytes) -> str:
        # See `get` for why a signed value is not searched for past the Grape's own copy.
        search: dict[str, Any] = {"hash": key, **({"salt": data["salt"]} if salt else {})}
        if "k" not in data:
            search["cache"] = False

        async def at(grape: int) -> str:
            return await self._repaired(
                lambda: self._pool.ask(grape, "put", data),
                lambda value: stored_key(value, key),
                lambda: self._pool.ask(grape, "get", search),
            )

        work = self._work
        try:
            return (await self._pool.first(at, lambda got: True))[-1]
        finally:
            work.forget(("get", key, salt))  # its answer may be older

    async def _get(self, key: str, salt: bytes, data: dict[str, Any]) -> StoredValue | None:
        async def at(grape: int) -> StoredValue | None:
            return stored_value(await self._pool.ask(grape, "get", data), key, salt)

        answers = await self._pool.first(
            at, lambda got: got[-1] is not None or len(got) >= _CONFIRMED
        )
        found = answers[-1]
        if found is None or found.seq is None or len(self.urls) == 1:
            return found
        try:
            versions, _ = await self._pool.several(at)
        except GrenacheError:
            versions = []
        return max((found, *(v for v in versions if v)), key=lambda v: v.seq or 0)


def _offer(service: str, port: int, host: str | None) -> list[Any]:
    """Return an announcement in a Grape's form."""
    return [
        check_service(service),
        check_port(port),
        *(() if host is None else (check_host(host),)),
    ]


@dataclass(frozen=True, slots=True)
class _Running:
    post: Post
    pool: GrapePool
    work: SharedWork
    repeater: Repeater


async def _looked_up(host: str) -> Reach:
    """Return the reach of a host; of a name that has several addresses the widest."""
    if ip_of(host) is not None or reach(host) is Reach.LOOPBACK:
        return reach(host)
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return Reach.PUBLIC
    return max((teller(str(info[4][0])) for info in infos), default=Reach.PUBLIC)
