"""DirectConnectionService: links over TCP, accepted and dialled, with TLS or without.

Streams that something else carries (`p2p.grenache_links.tunnel_carrier`) become links here too, by the same
handshake: `dial_over` and `accept_over`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import aiohappyeyeballs

from p2p.base.errors import Code, ConnectFailed, HandshakeRefused, P2PError
from p2p.base.host_port import format_host_port
from p2p.base.identity import Identity
from p2p.base.limits import (
    CONNECT_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    MAX_PENDING_HANDSHAKES,
    PENDING_PER_ADDRESS,
    PENDING_PER_NETWORK,
    PROTOCOL_VERSION,
)
from p2p.base.listener import Handshakes, accepted
from p2p.base.places import Places
from p2p.ground.owned_tasks import OwnedTasks
from p2p.wire import tls
from p2p.wire.connection import DIRECT, MSGPACK, PeerConnection, StreamOrigin
from p2p.wire.frame_transport import CLOSE_GRACE
from p2p.wire.handshake import NONCE_LENGTH, HandshakeTerms, Role
from p2p.wire.link import LinkOwner, PeerLink
from p2p.wire.messages import Capabilities, Codec
from p2p.wire.probe import ProbeTarget, open_connection, send_probe, share_port
from p2p.wire.punch_confirmation import exchange, is_confirmed
from p2p.wire.read_turns import ReadTurns
from p2p.wire.refused_handshakes import RefusedHandshakes

logger = logging.getLogger(__name__)

_BACKLOG = 128  # connections that the operating system holds until they are accepted
_NEXT_ADDRESS = 0.25  # seconds before the next address of a name is tried beside (RFC 8305, 8)
PUNCH_TIMEOUT = 3.5  # seconds: three SYNs, at 0, 1 and 3 s


@dataclass(frozen=True, slots=True)
class ExpectedPunch:
    """A punch under way. `dialler`: this node has the dialling role in TLS and handshake."""

    peer: str
    dialler: bool
    nonce: bytes


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Statements of a node about its links. `codecs` are those offered besides JSON."""

    network: str
    secure: bool
    agent: str
    supported_protocols: Sequence[str] = ()
    codecs: Sequence[str] = (MSGPACK,)


class Reachable(Protocol):
    """Observer of how this node is reached."""

    def probed(self, nonce: bytes, address: str) -> None:
        """Note a probe that arrived."""
        ...

    def announced_port(self, address: str, port: int) -> int:
        """Return the port to state to a peer at an IP address, from the listening port; 0 if it is not reachable there."""
        ...


class DirectConnectionService:
    """Maker of links: it has the listening sockets, the handshakes under way, and every link made by it.

    Without `start` it listens nowhere, and tells peers so. `turns` are those of its links, and of work that waits for them.
    """

    def __init__(
        self,
        identity: Identity,
        owner: LinkOwner,
        codec: Codec,
        settings: LinkSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare TLS. `clock` is monotonic seconds.

        Raises:
            OSError: the key could not be given to TLS, which takes keys from files only.
        """
        self._identity = identity
        self.owner = owner
        self.codec = codec
        self.now = clock
        self.turns = ReadTurns()
        self.refusals = RefusedHandshakes()
        self._network = settings.network
        self._capabilities = Capabilities(
            version=PROTOCOL_VERSION,
            supported_protocols=list(settings.supported_protocols),
            codecs=list(settings.codecs),
            agent=settings.agent,
        )
        secure = settings.secure
        self._server_tls = tls.server_context(identity) if secure else None
        self._client_tls = tls.client_context(identity) if secure else None
        # asyncio's own limit is longer than ours, so that one place reports the timeout.
        self._tls_timeout = HANDSHAKE_TIMEOUT + 1 if secure else None
        self._tls_grace = CLOSE_GRACE if secure else None
        self._port = 0
        self._reachable: Reachable | None = None
        self._punches: dict[tuple[str, int], ExpectedPunch] = {}  # under way, by the peer's address
        self._stopping = False
        self._listeners: list[socket.socket] = []
        self._tasks = OwnedTasks(logger)
        # Handshakes of strangers under way.
        self._pending = Places[asyncio.Task[bool]](
            MAX_PENDING_HANDSHAKES, PENDING_PER_ADDRESS, PENDING_PER_NETWORK
        )
        self._rates = Handshakes()
        self._unowned: set[socket.socket] = set()  # accepted, handshake not begun
        self._connections: set[PeerConnection] = set()

    @property
    def tls(self) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
        """The contexts for dialling and accepting, None without TLS."""
        if self._client_tls is None or self._server_tls is None:
            return None
        return self._client_tls, self._server_tls

    def follow(self, reachable: Reachable) -> None:
        """Report probes to `reachable`, and state the port to peers that it announces."""
        self._reachable = reachable

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Accept links at `host` (a name or an address; `0.0.0.0` and `::` mean all addresses, IPv4 and IPv6) and `port`
        (0: any free one). Returns the address bound.

        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, _, _, _, address in dict.fromkeys(infos):
                # Every address of a name listens on the port that the first one got.
                bound = (address[0], self._port or port, *address[2:])
                listener = _listen(family, bound, dual=host == "::")
                self._listeners.append(listener)
                self._port = listener.getsockname()[1]
        except OSError:
            self._close_listeners()
            self._port = 0
            raise
        if host == "0.0.0.0":
            self._listen_on_ipv6()
        for each in self._listeners:
            self._tasks.start(self._accept(each), name="accepting of peers")
        return self._listeners[0].getsockname()[0], self._port

    def _listen_on_ipv6(self) -> None:
        """Accept links over IPv6 too, where this machine has it and the port is free."""
        try:
            listener = _listen(socket.AF_INET6, ("::", self._port, 0, 0), dual=False)
        except OSError as error:
            logger.info("no links over IPv6: %s", error)
        else:
            self._listeners.append(listener)

    async def dial(self, host: str, port: int, expect: str | None = None) -> PeerLink:
        """Dial the node at `host` and `port`, which must be `expect` if given; returns the link.

        Raises:
            ConnectFailed: no answer in time, or not a node of this kind.
            HandshakeRefused: a node is there, and it or this one declined.
        """
        self._refuse_when_stopping()
        where = format_host_port(host, port)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                opened = await _connect(host, port)
        except TimeoutError:
            raise ConnectFailed(f"{where} did not answer in {CONNECT_TIMEOUT:g} s") from None
        except (OSError, UnicodeError, OverflowError) as error:
            raise ConnectFailed(f"{where}: {error}") from error
        return await self._handshake(opened, where, expect, StreamOrigin((host, port)))

    async def dial_over(
        self, sock: socket.socket, address: tuple[str, int], expect: str | None = None
    ) -> PeerLink:
        """Dial as `dial` over a non-blocking stream socket that leads to the node at `address` through
        Grenache. Takes ownership of the socket, whatever the outcome.

        Raises:
            ConnectFailed, HandshakeRefused: as `dial`.
        """
        try:
            self._refuse_when_stopping()
        except ConnectFailed:
            sock.close()
            raise
        where = f"{format_host_port(*address)} over Grenache"
        return await self._handshake(
            sock, where, expect, StreamOrigin(address, "grenache", address[0])
        )

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise ConnectFailed("this node is stopping")

    async def _handshake(
        self, opened: socket.socket, where: str, expect: str | None, route: StreamOrigin
    ) -> PeerLink:
        """Run TLS and handshake as the dialling side."""
        host = route.dialled[0] if route.dialled is not None else ""
        connection = self._connection(Role.DIAL, expect, route, host)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await loop.create_connection(
                    lambda: connection,
                    sock=opened,
                    ssl=self._client_tls,
                    server_hostname=None if self._client_tls is None else "",
                    ssl_handshake_timeout=self._tls_timeout,
                    ssl_shutdown_timeout=self._tls_grace,
                )
                self._track(connection)
                await connection.established
        except TimeoutError:
            connection.expire(HANDSHAKE_TIMEOUT)
            raise ConnectFailed(
                f"{where} did not finish the handshake in {HANDSHAKE_TIMEOUT:g} s"
            ) from None
        except (ConnectFailed, OSError) as error:
            why = _tls_failure(error) if isinstance(error, OSError) else str(error)
            self.refusals.note_failure(host, why, self.now())
            raise ConnectFailed(f"{where}: {why}") from error
        except asyncio.CancelledError:
            connection.abort()
            raise
        return connection

    async def probe(
        self, host: str, port: int, expect: str, nonce: bytes = b"", *, from_listener: bool = False
    ) -> tuple[str, int]:
        """Probe a node (`p2p.wire.probe`) and return the address and port where it sees this one.

        `from_listener`: from the port on which this node listens.

        Raises:
            ConnectFailed: no valid answer in time, or another node is there.
        """
        self._refuse_when_stopping()
        source = self._source_for(host) if from_listener else None
        target = ProbeTarget(host, port, expect, source)
        return await send_probe(target, self._identity.node_id, nonce, self._client_tls)

    def expect_punch(self, host: str, port: int, punch: ExpectedPunch) -> None:
        """Accept connections from there as punched ones, once confirmed, until `forget_punch`."""
        self._punches[host, port] = punch

    def forget_punch(self, host: str, port: int) -> None:
        self._punches.pop((host, port), None)

    async def punch(self, host: str, port: int) -> None:
        """Connect from the listening port to a node that does the same at this moment, and make a link of it.
        `expect_punch` has to be called before.

        Raises:
            ConnectFailed: the two did not meet, or another node is there.
            HandshakeRefused: one side declined.
        """
        self._refuse_when_stopping()
        punch = self._punches[host, port]
        target = ProbeTarget(host, port, punch.peer, self._source_for(host))
        where = format_host_port(host, port)
        try:
            async with asyncio.timeout(PUNCH_TIMEOUT):
                opened = await open_connection(target)
        except TimeoutError:
            raise ConnectFailed(f"{where} did not meet this node in {PUNCH_TIMEOUT:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"{where}: {error}") from error
        try:
            await exchange(opened, self._identity.node_id, punch.peer, punch.nonce)
        except BaseException as error:
            opened.close()
            if isinstance(error, (ConnectFailed, OSError)):
                raise ConnectFailed(f"{where}: {error}") from error
            raise
        if punch.dialler:
            origin = StreamOrigin((host, port), punched=True)
            await self._handshake(opened, where, punch.peer, origin)
            return
        task = self._receive(opened, host, StreamOrigin(punched=True))
        await asyncio.wait({task})
        if task.cancelled() or not task.result():
            raise ConnectFailed(f"{where}: no handshake")

    def _source_for(self, host: str) -> tuple[str, int]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for listener in self._listeners:
            if listener.family == family:
                return (str(listener.getsockname()[0]), self._port)
        return ("0.0.0.0" if family == socket.AF_INET else "::", self._port)

    async def stop(self) -> None:
        """Accept no more, say goodbye to every peer, and close, within about `CLOSE_GRACE`."""
        self._stopping = True
        await self._tasks.close()
        self._close_listeners()
        open_connections = list(self._connections)
        for connection in open_connections:
            connection.close(Code.SHUTDOWN, "the node is stopping")
        if open_connections:
            closing = asyncio.gather(*(each.wait_closed() for each in open_connections))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing, CLOSE_GRACE + 0.5)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # `link_down` of the last ones

    # Accepting

    async def _accept(self, listener: socket.socket) -> None:
        async for made, address, port in accepted(listener, self._rates):
            if not self.owner.accepts_address(address):
                made.close()
                continue
            self._receive(made, address, DIRECT, (address, port))
            await asyncio.sleep(0)  # a displaced handshake closes its socket first

    def accept_over(self, sock: socket.socket, address: str) -> asyncio.Task[bool]:
        """Accept a peer over a non-blocking stream socket that leads to it through Grenache. `address` is
        its IP address. Takes ownership of the socket. The result of the task is True if a link came of
        it; it is cancelled when newer connections need the place.
        """
        task = self._receive(sock, address, StreamOrigin(carrier="grenache", address=address))
        if self._stopping:
            task.cancel()
        return task

    def _receive(
        self,
        accepted: socket.socket,
        address: str,
        route: StreamOrigin,
        where: tuple[str, int] | None = None,
    ) -> asyncio.Task[bool]:
        """Run `_accept_peer`. `where`: the peer's address, of a connection that the listener accepted."""
        task = self._tasks.start(self._accept_peer(accepted, address, route, where))
        # An honest handshake takes milliseconds, a stalled one for ever: who has waited longest of an address or network goes.
        goes = self._pending.enter(task, address)
        if goes is not None:
            goes.cancel()
        self._unowned.add(accepted)
        task.add_done_callback(partial(self._accept_ended, accepted))
        return task

    def _accept_ended(self, accepted: socket.socket, task: asyncio.Task[bool]) -> None:
        self._pending.leave(task)
        if accepted in self._unowned:  # cancelled before it began
            self._unowned.remove(accepted)
            accepted.close()

    async def _accept_peer(
        self,
        accepted: socket.socket,
        address: str,
        route: StreamOrigin,
        where: tuple[str, int] | None,
    ) -> bool:
        """Run TLS and handshake as the accepting side; returns True if a link came of it."""
        punch = None if where is None else self._punches.get(where)
        if punch is not None and where is not None:
            confirmed = await self._confirmed_route(accepted, where, punch)
            if confirmed is None:
                return False
            route = confirmed
        self._unowned.remove(accepted)  # from here on the transport owns it
        if route.dialled is not None:
            return await self._dial_accepted(accepted, route)
        connection = self._connection(Role.ACCEPT, None, route, address)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._server_tls,
                    ssl_handshake_timeout=self._tls_timeout,
                    ssl_shutdown_timeout=self._tls_grace,
                )
                self._track(connection)
                await connection.established
                return True
        except TimeoutError:
            connection.expire(HANDSHAKE_TIMEOUT)
            logger.info("%s: no handshake in %g s", address, HANDSHAKE_TIMEOUT)
        except HandshakeRefused as error:
            logger.info("%s: %s", address, error)
        except P2PError as error:
            level = logging.DEBUG if connection.was_probe else logging.INFO
            logger.log(level, "%s: no handshake: %s", address, error)
        except OSError as error:
            logger.info("%s: %s", address, _tls_failure(error))
        except asyncio.CancelledError:
            # Cancelling the task cancels the future it waits for; a link that is up stays.
            if not connection.established.done() or connection.established.cancelled():
                connection.abort()
            raise
        return False

    async def _confirmed_route(
        self, accepted: socket.socket, where: tuple[str, int], punch: ExpectedPunch
    ) -> StreamOrigin | None:
        """Return the origin of a connection from an address with a punch under way: the punch decides the role if the
        connection is confirmed to be of it. None for a connection to close.
        """
        try:
            if not await is_confirmed(accepted):
                return DIRECT
            await exchange(accepted, self._identity.node_id, punch.peer, punch.nonce)
        except (ConnectFailed, OSError) as error:
            logger.info("%s: punched connection: %s", format_host_port(*where), error)
            return None
        return StreamOrigin(where if punch.dialler else None, punched=True)

    async def _dial_accepted(self, accepted: socket.socket, route: StreamOrigin) -> bool:
        """Run TLS and handshake as the dialling side over a punched connection that the other side opened first."""
        punch = None if route.dialled is None else self._punches.get(route.dialled)
        if punch is None or route.dialled is None:
            accepted.close()  # the punch has ended meanwhile
            return False
        try:
            await self._handshake(accepted, format_host_port(*route.dialled), punch.peer, route)
        except P2PError as error:
            logger.info("punched connection: %s", error)
            return False
        return True

    # Helpers

    def _connection(
        self, role: Role, expect: str | None, route: StreamOrigin, host: str
    ) -> PeerConnection:
        port = self._port
        if self._reachable is not None and port:
            port = self._reachable.announced_port(host, port)
        terms = HandshakeTerms(self._identity, self._network, port, self._capabilities)
        nonce = secrets.token_bytes(NONCE_LENGTH)
        return PeerConnection(role, terms, self, nonce=nonce, expect=expect, route=route)

    # ConnectionHost

    def probed(self, nonce: bytes, address: str) -> None:
        if self._reachable is not None:
            self._reachable.probed(nonce, address)

    def refused(self, address: str, refusal: HandshakeRefused) -> None:
        self.refusals.note(address, refusal, self.now())

    def refusal_warnings(self) -> list[str]:
        """List the refused handshakes of the last hour that an operator can mend."""
        return self.refusals.warnings(self.now())

    def _track(self, connection: PeerConnection) -> None:
        self._connections.add(connection)
        connection.on_gone(self._connections.discard)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._port = 0


def _listen(family: int, address: tuple[object, ...], *, dual: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        share_port(listener)  # probes are sent from this port
    except OSError:
        listener.close()
        raise
    return listener


async def _connect(host: str, port: int) -> socket.socket:
    """Open a TCP connection to `host`. The addresses of a name are tried in turn, the kinds alternating, each a
    little after the one before, until one answers (RFC 8305).

    Raises:
        OSError: none does.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        return await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS)
    except RuntimeError as error:  # uvloop's, for addresses that it cannot dial
        raise OSError(str(error)) from error


def _tls_failure(error: OSError) -> str:
    """Return the cause of a failed TLS handshake, for the operator."""
    if isinstance(error, ssl.SSLError) and error.reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "UNSUPPORTED_PROTOCOL",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
    ):
        return "the peer does not speak TLS; is P2P_SECURITY=off there?"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return f"the connection broke in the TLS handshake: {error}"
