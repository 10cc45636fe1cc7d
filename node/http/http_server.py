"""A server of HTTP: an application's routes on a socket, and the connections to it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter

from node.http import limits
from node.http.http_messages import HeadReader, Malformed, Response
from node.http.rate_limit import TimeShares
from node.http.request_figures import RequestFigures
from node.http.router import Handler, Router
from node.http.server_connection import Request, ServerConnection
from p2p.base.listener import Cuttable, Listener, listen
from p2p.base.places import Places, within_files
from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger("node.api")

# Serves a request around another step, `around(request, inner)`, or returns an answer instead.
Around = Callable[[Request, Callable[[Request], None]], Response | None]


class Application:
    """Routes that a server serves, and the state that all of them share.

    Attributes:
        router: routes; to be filled before the server starts.
        figures: of all requests.
        tasks: that answer requests later; they are cancelled when the server stops.
        endings: what follows the end of a connection; a stop waits for it.
        goodbyes: to be awaited when the server stops, before its connections end.
    """

    def __init__(
        self,
        missing: Handler,
        refusal: Callable[[Request | None, Exception], Response],
        check: Callable[[Request], None] = lambda request: None,
        figures: RequestFigures | None = None,
    ) -> None:
        """`missing` answers requests without a route, `refusal` makes a response of an error, `check` raises one for a
        request that is not to be served."""
        self.router = Router(missing)
        self.figures = figures or RequestFigures()
        self.tasks = OwnedTasks(log)
        self.endings = OwnedTasks(log)
        self.goodbyes: list[Callable[[], Awaitable[None]]] = []
        self.serve: Callable[[Request], None] = self._serve
        self._refusal = refusal
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._watched: deque[tuple[float, Request, Callable[[], Exception]]] = (
            deque()
        )  # the first due first
        self._timer: asyncio.TimerHandle | None = None

    def surround(self, around: Around) -> None:
        """Put a step around all there are."""
        inner = self.serve

        def serve(request: Request) -> None:
            found = around(request, inner)
            if found is not None:
                self.answer(request, found)

        self.serve = serve

    def _serve(self, request: Request) -> None:
        try:
            self._check(request)
            found = request.head.target.route.handler(request)
        except Exception as error:
            self.refuse(request, error)
            return
        if isinstance(found, Response):
            self.answer(request, found)
        elif found is not None:
            self.tasks.start(self._later(request, found))

    async def _later(self, request: Request, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception as error:
            self.refuse(request, error)
        else:
            self.answer(request, response)

    def refuse(self, request: Request, error: Exception) -> None:
        """Answer a request with the response that stands for an error."""
        self.answer(request, self._refusal(request, error))

    def answer(self, request: Request, response: Response) -> None:
        """Answer a request, and count it."""
        if request.answered:
            return
        seconds = perf_counter() - request.began
        head = request.head
        self.figures.add(head.target.route.name, response.status, seconds)
        if response.problem:
            self.figures.problems[response.problem] += 1
        request.connection.answer(request, response)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %r -> %d in %.1f ms",
                head.method,
                head.target.raw_path,
                response.status,
                seconds * 1000,
            )

    def malformed(self, remote: str, error: Malformed) -> Response:
        """The answer to what is not a request."""
        log.debug("refused a request from %s: %s", remote, error)
        return self._refusal(None, error)

    def watch(self, request: Request, seconds: float, late: Callable[[], Exception]) -> None:
        """Refuse a request that is not answered after `seconds`, the same number for all requests. Its work goes on: an
        order half submitted is worse than a late answer."""
        watched, now = self._watched, self._loop.time()
        while watched and watched[0][1].answered:
            watched.popleft()
        watched.append((now + seconds, request, late))
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._end_overdue)

    def _end_overdue(self) -> None:
        loop, watched, self._timer = self._loop, self._watched, None
        while watched:
            due, request, late = watched[0]
            if not request.answered:
                if due > loop.time():
                    self._timer = loop.call_at(due, self._end_overdue)
                    return
                self.refuse(request, late())
            watched.popleft()

    async def close(self) -> None:
        """Cancel what still works on requests, after all connections have ended."""
        if self._timer is not None:
            self._timer.cancel()
        await self.tasks.close()
        await self.endings.close(limits.SHUTDOWN_TIMEOUT)


class HttpServer:
    """Serves an application until it is stopped. `heads`, `connections` and `shares` are for the connections."""

    def __init__(self, application: Application, *, more: int = 0) -> None:
        """`more`: connections beside those of `limits.CONNECTIONS`."""
        self.application = application
        self.heads = HeadReader(application.router.find)
        self.connections = Places[Cuttable](
            within_files(limits.CONNECTIONS + more, 2),
            limits.CONNECTIONS_PER_ADDRESS,
            limits.CONNECTIONS_PER_NETWORK,
        )
        self.shares = TimeShares()
        self.stopping = False
        self._empty = asyncio.Event()  # no connection is left, of a server that is stopping
        self._server: Listener | None = None

    async def start(
        self, host: str, port: int, context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen on `host`:`port` (0: a free port); returns the address.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = await listen(
            lambda: ServerConnection(self),
            host,
            port,
            context=context,
            places=self.connections,
            tasks=self.application.tasks,
            backlog=limits.BACKLOG,
        )
        return self._server.address

    async def stop(self) -> None:
        """End all connections; requests in progress and goodbyes get a few seconds. Idempotent."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + limits.SHUTDOWN_TIMEOUT
        goodbyes = [asyncio.ensure_future(call()) for call in self.application.goodbyes]
        if goodbyes:
            _, late = await asyncio.wait(goodbyes, timeout=limits.SHUTDOWN_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*goodbyes, return_exceptions=True)
        for cut, seconds in ((False, until - loop.time()), (True, 1)):
            for connection in self.connections.all():
                if isinstance(connection, ServerConnection) and not cut:
                    connection.finish()
                else:
                    connection.cut()
            if self.connections:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._empty.wait(), seconds)
        await self.application.close()

    def left(self, connection: ServerConnection) -> None:
        """A connection has ended."""
        self.connections.leave(connection)
        if self.stopping and not self.connections:
            self._empty.set()
