"""Grape in this process: a DHT node on a UDP socket, and a directory of services.

    async with Grape(GrapeSettings(port=20001, bootstrap=(("10.0.0.7", 20001),))) as grape:
        await grape.announce("rpc_quotes", 1337)
        print(await grape.lookup("rpc_quotes"))

It shares one DHT with Node.js Grapes (`grenache-grape`), and also works alone: its own
announcements and values are found here. `p2p.grenache.grape.grape_http` serves the HTTP API of a
Grape.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from functools import partial
from typing import Any, Final, TypeVar

from p2p.base.reach import Reach
from p2p.grenache import bep44
from p2p.grenache.dht.compact_addresses import ipv4_reach
from p2p.grenache.dht.dht_node import DhtNode
from p2p.grenache.dht.lookups import LookupResult, PutResult
from p2p.grenache.dht.stores import REFUSALS, Item
from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable, GrenacheError
from p2p.grenache.grape.bootstrap_names import BootstrapNames
from p2p.grenache.grape.grape_inputs import check_address, service_name, value_key
from p2p.grenache.grape.grape_operations import Begin, Done, Operation, settle
from p2p.grenache.grape.grape_settings import BootstrapStatus, GrapeSettings, GrapeStatus
from p2p.ground.bounded_map import BoundedMap

log = logging.getLogger(__name__)

MAX_CACHED: Final = 1_000  # services whose last lookup is kept
EMPTY_CACHE: Final = 0.25  # seconds that an empty result is kept: an announcement may arrive
FIRST_RESOLVE: Final = 2.0  # seconds that the first operations wait for names to resolve
# Seconds after the start in which operations wait for the search for the own neighbours, without any answer and
# in all: an announcement before that would go to the bootstrap nodes alone.
FIRST_ANSWER: Final = 0.1
FIRST_JOIN: Final = 0.5
MAX_DRAINED: Final = 128  # datagrams read before the timers that are due run
MAX_DATAGRAM: Final = 1 << 16  # bytes
RECEIVE_BUFFER: Final = 1024 * 1024  # bytes; a burst of some thousand queries

_T = TypeVar("_T")


class Grape:
    """A DHT node on a UDP socket; implements `p2p.grenache.directory.Directory`.

    Its methods raise BadInput for invalid input, GrapeUnreachable when it is not running,
    GrapeRefused when the DHT refused (`code` is the Node.js Grape's text).
    """

    def __init__(
        self, settings: GrapeSettings | None = None, *, rng: random.Random | None = None
    ) -> None:
        self.settings = settings or GrapeSettings()
        self._rng = rng or random.SystemRandom()
        self._node: DhtNode | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._socket: socket.socket | None = None  # the transport's
        self._closed: asyncio.Future[None] | None = None
        self._address: Address = ("", 0)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._started_at = 0.0
        self.congested = False  # the system's buffer is full; datagrams are dropped, not queued
        self._resolver: asyncio.Task[None] | None = None
        self._bootstrap = BootstrapNames(self.settings.bootstrap)
        self._introduced = asyncio.Event()  # all bootstrap addresses have been passed to the node
        self._joined = asyncio.Event()  # the own neighbours have been searched for
        self._operations: set[Operation[Any]] = set()  # under way
        # By name of a service, under way: what each caller does with the result.
        self._searching: dict[bytes, list[Done[LookupResult]]] = {}
        self._cache: BoundedMap[bytes, tuple[float, LookupResult]] = BoundedMap(MAX_CACHED)

    # Starting and stopping

    async def start(self) -> None:
        """Bind the socket and begin to search for other Grapes, without waiting for any.

        Raises:
            OSError: the socket cannot be bound.
        """
        if self._transport is not None:
            raise RuntimeError("this Grape is running already")
        loop = asyncio.get_running_loop()
        protocol = _Protocol(self)
        sock = await self._bind(loop)
        self._address = sock.getsockname()[:2]
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
        self._transport = transport
        self._socket = sock
        self._closed = protocol.closed
        host = self._address[0]
        self._started_at = now = loop.time()
        self._node = DhtNode(
            self.settings,
            self._rng,
            now,
            bound_host=None if ipv4_reach(host) is Reach.NONE else host,
            on_joined=self._joined.set,
        )
        self._introduced.clear()
        self._joined.clear()
        self.congested = False
        self._resolver = asyncio.create_task(
            self._bootstrap.run(self._introduce), name="grape-bootstrap"
        )
        self._flush()

    async def _bind(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """Bind the socket here, because uvloop's error does not show that the port is in use."""
        host, port = self.settings.host, self.settings.port
        infos = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.bind(infos[0][4])
        except OSError:
            sock.close()
            raise
        return sock

    async def stop(self) -> None:
        """Close the socket. Operations under way fail with GrapeUnreachable. No effect when
        stopped."""
        if self._transport is None or self._closed is None:
            return
        self._end("the Grape was stopped")
        if self._resolver is not None:
            self._resolver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._resolver
        self._transport.close()
        await self._closed
        self._transport = None

    def _end(self, why: str) -> None:
        """Drop the node; operations under way fail with the reason."""
        self._node = self._socket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for operation in list(self._operations):
            operation.fail(GrapeUnreachable(why))
        self._cache.clear()

    async def __aenter__(self) -> Grape:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def address(self) -> Address:
        """Bound IP address and UDP port, after `start`."""
        return self._address

    @property
    def node_id(self) -> bytes:
        """20 bytes."""
        return self._running().id

    # The directory

    async def announce(self, service: str, port: int, *, host: str | None = None) -> int:
        """Announce that `service` is served at `port` of this machine, or of `host` (an IPv4
        address). Entries expire after `peer_max_age`, so repeat the call. Port 0 stands for the UDP
        port of this Grape, as BEP 5 has it.

        Returns the number of Grapes that store it, this one included. Only Grapes of this project
        accept a given `host`: the Node.js ones record the datagrams' source address.
        """
        name = service_name(service)
        check_address(port, host)
        node = await self._ready()
        return await self._operation(self._announcing(node, name, port, host))

    def _announcing(self, node: DhtNode, name: bytes, port: int, host: str | None) -> Begin[int]:
        return lambda now, done: node.announce(
            now, name, port or self._address[1], host, done, implied=not port
        )

    async def withdraw(self, service: str, port: int, *, host: str | None = None) -> int:
        """Withdraw an announcement made here. Returns the number of Grapes that removed it. Node.js
        Grapes cannot: their entries expire."""
        name = service_name(service)
        check_address(port, host)
        node = await self._ready()
        forgotten: int = await self._operation(
            lambda now, done: node.withdraw(now, name, port or self._address[1], host, done)
        )
        self._cache.pop(name, None)
        return forgotten

    async def lookup(
        self, service: str, *, fresh: bool = False, reached_at: str | None = None
    ) -> list[Address]:
        """Look up the workers of `service`, in random order: entries of this Grape and answers of others.

        Their answers, also empty ones, are cached for `lookup_cache` seconds; `fresh` bypasses the
        cache. `reached_at`: local address over which a requester on another machine connected: it
        replaces loopback addresses.
        """
        name = service_name(service)
        found = await self._found(name, fresh)
        return self._running().listed(self._now(), name, found.peers, reached_at)

    # The same without a task or a future, for the HTTP API

    def start_announce(self, service: str, port: int, host: str | None, done: Done[int]) -> bool:
        """Announce; `done` is called with the result of `announce` or its error, perhaps before this method
        returns. False, without any effect: the Grape starts just now, and `announce` waits for that.

        Raises:
            BadInput, GrapeRefused: as `announce`.
        """
        name = service_name(service)
        check_address(port, host)
        node = self._settled()
        if node is None:
            return False
        self._begin(self._announcing(node, name, port, host), done)
        return True

    def start_lookup(self, service: str, reached_at: str | None, done: Done[list[Address]]) -> bool:
        """Look up; as `start_announce`, with the result of `lookup`."""
        name = service_name(service)
        node = self._settled()
        if node is None:
            return False

        def found(result: LookupResult | None, error: GrenacheError | None) -> None:
            if result is None:
                done(None, error)
            else:
                done(node.listed(self._now(), name, result.peers, reached_at), None)

        self._find(node, name, found)
        return True

    async def put(self, value: bytes) -> str:
        bep44.check_value(value)
        return await self._put(Item(bep44.bencoded(value)), None)

    async def put_mutable(self, item: MutableItem) -> str:
        """Store a signed value and return its key.

        Raises:
            BadInput: invalid, or with a wrong signature.
            GrapeRefused: "302 ..." there is a newer version, "301 ..." a version other than `cas`.
        """
        bep44.check(item)
        if not bep44.verify(item):
            raise BadInput(
                "invalid signature", "the signature is not of this key, salt, seq and value"
            )
        value = bep44.bencoded(item.value)
        return await self._put(
            Item(value, item.public_key, item.seq, item.signature, item.salt), item.cas
        )

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        bep44.check_salt(salt)
        target = value_key(key)
        node = await self._ready()
        item: Item | None = await self._operation(
            lambda now, done: node.get(now, target, salt, done)
        )
        if item is None:
            return None
        if item.public_key is None:
            return StoredValue(item.content())
        return StoredValue(item.content(), item.public_key, item.seq, item.signature, item.salt)

    def status(self) -> GrapeStatus:
        """Current status."""
        node, now = self._running(), self._now()
        bootstrap = []
        for host, port in self.settings.bootstrap:
            address = self._bootstrap.resolved.get((host, port))
            state = None if address is None else node.bootstrap.get(address)
            ago = None if state is None else now - state.last_answer
            bootstrap.append(
                BootstrapStatus(
                    host,
                    port,
                    state is not None and state.reachable(now),
                    None if ago == float("inf") else ago,
                )
            )
        return GrapeStatus(
            address=self._address,
            node_id=node.id.hex(),
            uptime=now - self._started_at,
            nodes=node.good_nodes,
            doubtful_nodes=node.doubtful_nodes,
            announcements=node.announcements,
            own_announcements=node.own_announcements,
            values=node.values,
            seen_as=node.seen_as,
            bootstrap=tuple(bootstrap),
            counters=node.counters,
        )

    # Operations

    async def _put(self, item: Item, cas: int | None) -> str:
        node = await self._ready()
        stored: PutResult = await self._operation(lambda now, done: node.put(now, item, cas, done))
        if stored.refusal is not None:
            raise GrapeRefused(f"{stored.refusal} {REFUSALS[stored.refusal]}")
        return stored.key.hex()

    async def _found(self, name: bytes, fresh: bool) -> LookupResult:
        """Search the network; concurrent callers share one search."""
        if not fresh:
            cached = self._cached(name)
            if cached is not None:
                return cached
        node = self._running() if name in self._searching else await self._ready()
        future: asyncio.Future[LookupResult] = asyncio.get_running_loop().create_future()
        self._find(node, name, partial(settle, future), fresh=fresh)
        return await future

    def _cached(self, name: bytes) -> LookupResult | None:
        until, cached = self._cache.get(name, (0.0, None))
        return cached if self._now() < until else None

    def _find(
        self, node: DhtNode, name: bytes, done: Done[LookupResult], *, fresh: bool = False
    ) -> None:
        """Take the result of the last search, of the one under way, or of a new one."""
        if not fresh:
            cached = self._cached(name)
            if cached is not None:
                done(cached, None)
                return
            callers = self._searching.get(name)
            if callers is not None:
                callers.append(done)
                return
        callers = [done]
        self._searching[name] = callers

        def found(result: LookupResult | None, error: GrenacheError | None) -> None:
            if self._searching.get(name) is callers:
                del self._searching[name]
            if result is not None:
                self._remember(name, result)
            for caller in callers:
                caller(result, error)

        self._begin(lambda now, done: node.lookup(now, name, done), found)

    def _remember(self, name: bytes, found: LookupResult) -> None:
        keep = self.settings.lookup_cache_s
        if not found.peers:
            keep = min(keep, EMPTY_CACHE)
        if keep > 0:
            self._cache[name] = (self._now() + keep, found)
        else:
            self._cache.pop(name, None)

    async def _operation(self, begin: Begin[_T]) -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._begin(begin, partial(settle, future))
        return await future

    def _begin(self, begin: Begin[_T], done: Done[_T]) -> None:
        """Start an operation of the node."""
        operation = Operation(done, self._operations)
        begin(self._now(), operation.finish)
        self._flush()

    def _running(self) -> DhtNode:
        if self._node is None:
            raise GrapeUnreachable("this Grape is not running")
        return self._node

    async def _ready(self) -> DhtNode:
        if self._node is not None and not self._introduced.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_RESOLVE):
                    await self._introduced.wait()
        if not self._joined.is_set() and self.settings.bootstrap:
            await self._neighbours()
        return self._unless_busy(self._running())

    def _settled(self) -> DhtNode | None:
        """The node, if an operation need not wait; see `_ready`."""
        if self._node is None or not self._introduced.is_set():
            return None
        if not self._joined.is_set() and self.settings.bootstrap:
            return None
        return self._unless_busy(self._node)

    def _unless_busy(self, node: DhtNode) -> DhtNode:
        if node.busy:
            raise GrapeRefused("ERR_GRAPE_BUSY", f"{self.settings.max_searches} searches under way")
        return node

    async def _neighbours(self) -> None:
        """Wait for the first search for the own neighbours, if the start was just now."""
        for limit in (FIRST_ANSWER, FIRST_JOIN):
            left = self._started_at + limit - self._now()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._joined.wait()
            if self._joined.is_set() or self._node is None or not self._node.good_nodes:
                return

    # Input and output

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def received(self, data: bytes, source: Address) -> None:
        """Process a datagram."""
        if self._node is not None:
            try:
                self._node.receive(self._now(), source, data)
            except Exception:
                log.exception("a datagram of %d bytes from %s:%d", len(data), *source)
            self._flush()

    def lost(self, error: Exception | None) -> None:
        """Process the loss of the socket."""
        if self._node is not None:
            log.error("the UDP socket of the Grape at %s:%d failed: %s", *self._address, error)
            self._end(f"its UDP socket failed: {error}")

    def _tick(self) -> None:
        self._timer = None
        if self._node is not None:
            self._drain()
        if self._node is not None:
            self._node.tick(self._now())
            self._flush()

    def _drain(self) -> None:
        """Process what has arrived already. In a busy process an answer may wait in the socket's buffer: without
        this its query would be sent again, which makes more work still."""
        if self._socket is None:
            return
        for _ in range(MAX_DRAINED):
            try:
                data, source = self._socket.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # as `_Protocol.error_received`
                log.debug("UDP: %s", error)
                continue
            self.received(data, source[:2])

    def _flush(self) -> None:
        """Send the node's datagrams, and schedule its next `tick`."""
        node, transport = self._node, self._transport
        if node is None or transport is None:
            return
        for data, address in node.take_outgoing():
            if not self.congested:
                transport.sendto(data, address)
        deadline = node.next_deadline()
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _introduce(self) -> bool:
        """Tell the node the bootstrap addresses; False when there is no node any more."""
        if self._node is None:  # lost meanwhile
            return False
        self._node.set_bootstrap(self._now(), self._bootstrap.resolved.values())
        self._introduced.set()
        self._flush()
        return True


class _Protocol(asyncio.DatagramProtocol):
    """Datagram protocol of a Grape. ICMP errors are ignored: they carry no more information than a
    timeout."""

    def __init__(self, grape: Grape) -> None:
        self._grape = grape
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._grape.received(data, addr[:2])

    def pause_writing(self) -> None:
        self._grape.congested = True

    def resume_writing(self) -> None:
        self._grape.congested = False

    def error_received(self, exc: Exception) -> None:
        log.debug("UDP: %s", exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._grape.lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)
