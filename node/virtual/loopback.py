"""The demos' server and its clients on real sockets of this machine: 127.0.0.1, a port the system chose.

A request is a line with a number; a reply is a line with the number and the load report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from node.virtual.server_model import Done, Server
from p2p.flow import LoadReport, Outcome

HOST = "127.0.0.1"
MAX_LINE = 256  # bytes


class LoopTime:
    """The running loop's clock, from 0, as a `Timeline`. `close` cancels all planned calls."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self._planned: set[asyncio.TimerHandle] = set()

    @property
    def now(self) -> float:
        return self._loop.time() - self._origin

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        def run() -> None:
            self._planned.discard(handle)
            action(*arguments)

        handle = self._loop.call_at(self._origin + when, run)
        self._planned.add(handle)
        return handle

    def cancel(self, handle: asyncio.TimerHandle) -> None:
        handle.cancel()
        self._planned.discard(handle)

    def close(self) -> None:
        for handle in self._planned:
            handle.cancel()
        self._planned.clear()


class _Lines(asyncio.Protocol):
    """Whole lines of one connection, and one write for all that a turn of the loop has to say."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._partial = b""
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream protocol is given
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE:
            self.abort()
            return
        for line in lines:
            self.line(line.decode("ascii", "replace"))

    def line(self, line: str) -> None:
        raise NotImplementedError

    def say(self, line: str) -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(line.encode() + b"\n")

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class _Caller(_Lines):
    """The server's end of a connection."""

    def __init__(self, server: LoopbackServer) -> None:
        super().__init__()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.callers.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.callers.discard(self)

    def line(self, line: str) -> None:
        self._server.model.arrive(partial(self._reply, line))

    def _reply(self, number: str, outcome: Outcome, load: LoadReport | None) -> None:
        if load is not None:
            self.say(f"{number} {outcome} {load.waited_s:.6f} {load.served_s:.6f} {load.in_flight}")


class LoopbackServer:
    """Puts a `Server` behind a port. While the model is down, the port is closed."""

    def __init__(self, model: Server) -> None:
        self.model = model
        self.port = 0
        self.callers: set[_Caller] = set()
        self._listener: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        model.watch(down=self._down, up=self._up)

    async def start(self) -> None:
        await self._listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Caller(self), HOST, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _down(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for caller in list(self.callers):
            caller.abort()

    def _up(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        self.model.watch()
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        self._down()


class LoopbackLink(_Lines):
    """A client's connection, made when it is needed. `ask` as `Network.ask`."""

    def __init__(self, time: LoopTime, port: int, *, timeout_s: float = 1.0) -> None:
        super().__init__()
        self._time = time
        self._port = port
        self._timeout_s = timeout_s
        self._number = 0
        self._open: dict[int, tuple[Done, asyncio.TimerHandle]] = {}
        self._dialling: asyncio.Task[None] | None = None

    def ask(self, done: Done) -> None:
        self._number += 1
        number = self._number
        timer = self._time.at(self._time.now + self._timeout_s, self._end, number, "timeout", None)
        self._open[number] = (done, timer)
        if self.transport is not None:
            self.say(str(number))
        elif self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, HOST, self._port)
        except OSError:
            self._dialling = None
            self._reset()
            return
        self._dialling = None
        for number in self._open:
            self.say(str(number))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._partial = b""
        self._reset()

    def line(self, line: str) -> None:
        number, _outcome, waited, served, in_flight = line.split(" ")
        self._end(int(number), "ok", LoadReport(float(waited), float(served), int(in_flight)))

    def _end(self, number: int, outcome: Outcome, load: LoadReport | None) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            self._time.cancel(found[1])
            found[0](outcome, load)

    def _reset(self) -> None:
        for number in list(self._open):
            self._end(number, "reset", None)

    async def close(self) -> None:
        for _, timer in self._open.values():
            self._time.cancel(timer)
        self._open.clear()
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        self.abort()
