"""Links over Grenache: tunnels between a node that makes requests and one that answers them.

Each tunnel ends in a socket at both nodes, which becomes a link as a TCP connection would
(`p2p.wire.direct_links`): the same TLS, handshake, frames and heartbeats, so what a Grape or a worker in between could
read and alter is what a router on the way could. Nothing is believed because of the tunnel.

    dialling node                                                           answering node
    Connection == socket pair == DialEnd -- requests, answers -- AnswerEnd == socket pair == Connection
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
from typing import Any, Final, Protocol

from p2p.base.errors import ConnectFailed
from p2p.base.host_port import format_host_port
from p2p.grenache.directory import Address
from p2p.grenache.errors import GrenacheError, RemoteError, RequestFailed
from p2p.grenache_links.tunnel import (
    CHUNK,
    AnswerEnd,
    Ask,
    DialEnd,
    TunnelReply,
    TunnelRequest,
    read_reply,
    read_request,
    to_json,
)
from p2p.ground.owned_tasks import OwnedTasks
from p2p.wire.byte_stream import StreamError
from p2p.wire.link import PeerLink

log = logging.getLogger(__name__)

MAX_ANSWERED: Final = 256  # tunnels that others dialled
MAX_STRANGERS: Final = 48  # of these: without a proven identity
MAX_STRANGERS_PER_HOST: Final = 24  # a machine may have many nodes, and they may start together
LINGER: Final = 3.0  # seconds for last words, after the link at this node's end has closed
ERR_UNKNOWN: Final = "ERR_TUNNEL_UNKNOWN"
ERR_FULL: Final = "ERR_TUNNEL_FULL"
ERR_PROTOCOL: Final = "ERR_TUNNEL_PROTOCOL"
# Of a worker that may answer the next time; any other error of a worker is for good.
PASSING: Final = ("ERR_BUSY", "ERR_WORKER_")


class Asker(Protocol):
    """Makes requests; `p2p.grenache.rpc.rpc_client.Client`."""

    async def request_at(
        self, address: Address, service: str, payload: Any, timeout: float
    ) -> Any: ...


class Question(Protocol):
    """A request that came; `p2p.grenache.rpc.dispatcher.Request`."""

    @property
    def payload(self) -> Any: ...

    @property
    def remote(self) -> Address: ...


class Links(Protocol):
    """Makes links of sockets; `p2p.wire.direct_links.DirectConnectionService`."""

    async def dial_over(
        self, sock: socket.socket, address: Address, expect: str | None = None
    ) -> PeerLink: ...

    def accept_over(self, sock: socket.socket, address: str) -> asyncio.Task[bool]: ...


class TunnelCarrier:
    """Dials nodes over Grenache, and answers those that do (`answer` is the worker's handler).

    Implements `p2p.peers.dial_loop.Dialer`. Belongs to one event loop; the owner calls `stop`.
    """

    def __init__(
        self, links: Links, asker: Asker, service: str, *, rng: random.Random | None = None
    ) -> None:
        """`service`: the name under which nodes of this network answer."""
        self._links = links
        self._asker = asker
        self._service = service
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._dialled: set[_Tunnel] = set()
        self._answered: dict[str, _Answered] = {}  # by tunnel id, in the order they came
        self._sockets: set[_Tunnel] = set()  # those, and others whose link has yet to let go
        self._asking = OwnedTasks(log)

    @property
    def tunnels(self) -> int:
        return len(self._dialled) + len(self._answered)

    async def dial(self, host: str, port: int, expect: str | None = None) -> PeerLink:
        """A new link to the node whose worker is at `host` and `port`.

        Raises:
            ConnectFailed: no answer in time, or not a node of this kind.
            HandshakeRefused: a node is there, and it or this one declined.
        """
        if self._stopping:
            raise ConnectFailed("this node is stopping")
        ours, theirs = _socket_pair()
        end = DialEnd(secrets.token_hex(16), self._loop.time(), self._rng)
        tunnel = _Dialled(end, ours, self, (host, port))
        self._sockets.add(tunnel)
        self._dialled.add(tunnel)
        tunnel.step()
        try:
            return await self._links.dial_over(theirs, (host, port), expect)
        except ConnectFailed as error:
            if end.broken is None:
                raise
            where = format_host_port(host, port)
            raise ConnectFailed(f"{where} over Grenache: {end.broken}") from error

    async def answer(self, question: Question) -> Any:
        """Answer a request of a dialling node; may hold it for some seconds.

        Raises:
            RemoteError: it makes no sense, or there is no such tunnel, or no place for one.
        """
        try:
            request = read_request(question.payload)
            tunnel = self._answered.get(request.tunnel)
            if tunnel is None:
                tunnel = self._opened(request, question.remote[0])
            tunnel.remote = question.remote
            return to_json(await tunnel.respond(request))
        except StreamError as error:
            raise RemoteError(f"{ERR_PROTOCOL}: {error}") from None

    def gone(self, remote: Address) -> None:
        """A connection over which requests came has closed: who asks no more over another is dead."""
        for tunnel in list(self._answered.values()):
            if tunnel.remote == remote:
                tunnel.cut()

    async def stop(self, grace: float = 1.0) -> None:
        """End all tunnels; what links have said before gets `grace` seconds to arrive."""
        self._stopping = True
        if self._sockets:
            await asyncio.wait([tunnel.ended for tunnel in self._sockets], timeout=grace)
        for tunnel in list(self._sockets):
            tunnel.close("the node is stopping")
            tunnel.let_go()
        await self._asking.close(grace)

    def _opened(self, request: TunnelRequest, host: str) -> _Answered:
        if not request.open or request.close or self._stopping:
            raise RemoteError(f"{ERR_UNKNOWN}: there is no such tunnel, or not any more")
        strangers = [t for t in self._answered.values() if not t.proven]
        neighbours = [t for t in strangers if t.host == host]
        # The oldest stranger goes: an honest handshake takes milliseconds, a stalled one for ever.
        if len(neighbours) >= MAX_STRANGERS_PER_HOST:
            neighbours[0].close("newer strangers need the place")
        elif len(strangers) >= MAX_STRANGERS:
            strangers[0].close("newer strangers need the place")
        if len(self._answered) >= MAX_ANSWERED:
            raise RemoteError(f"{ERR_FULL}: this node has as many tunnels as it takes")
        ours, theirs = _socket_pair()
        tunnel = _Answered(AnswerEnd(self._loop.time()), ours, self, request.tunnel, host)
        self._sockets.add(tunnel)
        self._answered[request.tunnel] = tunnel
        self._links.accept_over(theirs, host).add_done_callback(tunnel.greeted)
        return tunnel

    # Tunnels, which call these

    def ended(self, tunnel: _Tunnel) -> None:
        """Forget a tunnel that is over."""
        if isinstance(tunnel, _Answered):
            del self._answered[tunnel.name]
        else:
            self._dialled.discard(tunnel)

    def let_go(self, tunnel: _Tunnel) -> None:
        """Forget a tunnel whose socket is closed."""
        self._sockets.discard(tunnel)

    def ask(self, tunnel: _Dialled, ask: Ask) -> asyncio.Task[None]:
        """Make a request of a tunnel."""
        return self._asking.start(self._request(tunnel, ask))

    async def _request(self, tunnel: _Dialled, ask: Ask) -> None:
        """Make a request and tell the tunnel what came of it."""
        end = tunnel.end
        try:
            answer = await self._asker.request_at(
                tunnel.address, self._service, to_json(ask.request), ask.timeout
            )
            end.answered(ask.number, read_reply(answer), self._loop.time())
        except StreamError as error:
            end.refused(f"no node answers there: {error}")
        except RemoteError as error:
            if error.code.startswith(PASSING):
                end.failed(ask.number, self._loop.time())
            else:
                end.refused(error.code)
        except GrenacheError as error:
            if isinstance(error, RequestFailed) and not error.sent and not end.opened:
                end.refused(str(error))  # no answering end; a TCP connection would fail at once too
            else:
                end.failed(ask.number, self._loop.time())
        tunnel.step()


class _Tunnel:
    """End of a tunnel, and the socket that leads to this node's link.

    When the tunnel is over the link reads the end of the stream, and closes; only then is this end of the
    pair closed. A link that could not even write to it might be one whose TLS is just being set up, and
    uvloop loses track of its socket then.
    """

    def __init__(
        self, core: DialEnd | AnswerEnd, sock: socket.socket, carrier: TunnelCarrier
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._carrier = carrier
        self._loop = asyncio.get_running_loop()
        self._core = core
        self._socket = sock
        self._reading = self._writing = False  # whether the loop watches the socket for it
        self._shut = False  # the link has got the end of the stream
        self._silent = False  # nothing more comes from the link
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle for a time that is now does not know it
        self._linger: asyncio.TimerHandle | None = None

    def act(self, now: float) -> float | None:
        """Send pending requests or answers; return the time of the next without an event."""
        raise NotImplementedError

    def step(self) -> None:
        """Process an event: flush data in both directions, and end the tunnel if it is over."""
        if self.ended.done():
            return
        self.flush()
        later = self.act(self._loop.time())
        if self._core.over:
            self.close()
        if self.ended.done():
            return
        self._watch()
        timer = self._timer
        if later is not None and (timer is None or later < self._timer_at):
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(later, self._timed)
            self._timer_at = later

    def _timed(self) -> None:
        self._timer = None
        self.step()

    def flush(self) -> None:
        """Give the link what has arrived for it, as much as it takes."""
        core, waits = self._core, False
        if self.ended.done():
            return
        try:
            while core.unread:
                with memoryview(core.unread) as view:
                    sent = self._socket.send(view)
                core.consumed(sent)
        except (BlockingIOError, InterruptedError):
            waits = True
        except OSError:
            core.drop_incoming()
        if core.ended:
            self._shut_down()
        if waits != self._writing:
            self._writing = waits
            if waits:
                self._loop.add_writer(self._socket, self.step)
            else:
                self._loop.remove_writer(self._socket)

    def _shut_down(self) -> None:
        """Nothing more comes for the link: it will close."""
        if not self._shut:
            self._shut = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _watch(self) -> None:
        """Watch the link's socket while the tunnel accepts data, and after that for its end."""
        wanted = not self._silent and (self._core.room > 0 or self.ended.done())
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._socket, self._readable)
            else:
                self._loop.remove_reader(self._socket)

    def _readable(self) -> None:
        over = self.ended.done()
        try:
            data = self._socket.recv(CHUNK if over else min(self._core.room, CHUNK))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the link was cut
            data = b""
        if over:
            if not data:
                self.let_go()
            return
        if data:
            self._core.write(data)
        else:
            self._silent = True
            self._core.finish()
            late = "the last data of the link took too long"
            self._linger = self._loop.call_later(LINGER, self.close, late)
        self.step()

    def close(self, reason: str = "") -> None:
        """End the tunnel. `reason` is for the far side, unless it knows that it is over."""
        if self.ended.done():
            return
        self.ended.set_result(None)
        if reason:
            self._core.abort(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)
        self._carrier.ended(self)
        self._shut_down()
        self._watch()
        if self._silent:
            self.let_go()
        else:
            self._linger = self._loop.call_later(LINGER, self.let_go)

    def let_go(self) -> None:
        """Close the socket of an ended tunnel. Safe to call twice."""
        if self._linger is not None:
            self._linger.cancel()
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)
        self._silent = True
        self._socket.close()
        self._carrier.let_go(self)


class _Dialled(_Tunnel):
    """The end that asks."""

    def __init__(
        self, end: DialEnd, sock: socket.socket, carrier: TunnelCarrier, address: Address
    ) -> None:
        super().__init__(end, sock, carrier)
        self.end = end
        self.address = address
        self._asking: set[asyncio.Task[None]] = set()

    def act(self, now: float) -> float | None:
        for ask in self.end.asks(now):
            task = self._carrier.ask(self, ask)
            if not self.end.over:  # the answer to the last request is not awaited
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
        return self.end.next_time(now)

    def close(self, reason: str = "") -> None:
        super().close(reason)
        self.act(self._loop.time())
        for task in self._asking:
            if task is not asyncio.current_task():
                task.cancel()


class _Answered(_Tunnel):
    """The end that answers. `name`: id of the tunnel; `host`: where the first request came from."""

    def __init__(
        self, end: AnswerEnd, sock: socket.socket, carrier: TunnelCarrier, name: str, host: str
    ) -> None:
        super().__init__(end, sock, carrier)
        self.end = end
        self.name = name
        self.host = host
        self.remote: Address | None = None  # the far end of what the last request came over
        self.proven = False  # it became a link
        self._held: asyncio.Future[TunnelReply] | None = None  # the answer to the poll that is held

    def greeted(self, task: asyncio.Task[bool]) -> None:
        self.proven = not task.cancelled() and task.exception() is None and task.result()

    async def respond(self, request: TunnelRequest) -> TunnelReply:
        """The answer to a request, when it is time.

        Raises:
            StreamError: it makes no sense; the tunnel is closed.
        """
        now = self._loop.time()
        try:
            self.end.receive(request, now)
        except StreamError as error:
            self.close(str(error))
            raise
        self.flush()  # before the answer gives the free room
        if request.poll > self.end.poll:
            self._answer_held(self.end.status())
        reply = self.end.reply(request, now)
        if reply is not None:
            self.step()
            return reply
        held: asyncio.Future[TunnelReply] = self._loop.create_future()
        self._held = held
        self.step()
        return await held

    def cut(self) -> None:
        """The connection of the last request has closed."""
        self.end.cut(self._loop.time())
        self._answer_held(self.end.status())  # no connection for an answer
        self.step()

    def act(self, now: float) -> float | None:
        if self.end.dead(now):
            self.close("no request for too long")
            return None
        reply = self.end.release(now)
        if reply is not None:
            self._answer_held(reply)
        return self.end.next_time()

    def close(self, reason: str = "") -> None:
        super().close(reason)
        self._answer_held(self.end.status())

    def _answer_held(self, reply: TunnelReply) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(reply)
        self._held = None


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs
