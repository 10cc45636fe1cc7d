"""Real Grenache programs for tests: `RealGrape` and `NodeProgram`, started, spoken to, stopped.

Both need the packages that the fixture `npm` installs (conftest.py). Everything listens on
127.0.0.1, except a Grape's UDP socket, which the real program always binds to every interface.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.ports import free_port

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
PROGRAMS = HERE / "node"

READY = 30.0  # seconds for a program to start on a loaded machine
WAIT = 15.0  # seconds for what should happen soon; only a failure waits so long
POLL = 0.03
LINE_LIMIT = 64 << 20  # bytes of one line of a program
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


async def eventually(
    check: Callable[[], Awaitable[Any]], timeout: float = WAIT, *, what: str = "condition"
) -> Any:
    """The first true value of `check`, asked again and again; AssertionError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = await check()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last: {value!r})")
        await asyncio.sleep(POLL)


class RealGrape:
    """One process of `grenache-grape`.

    `dht_port` and `api_port` 0: found when it is first started, kept for restarts. `peer_age`:
    seconds that an announcement lives (roughly, 0.67 to 1.33 times that). `dead_after`: seconds
    after which a silent node of the routing table is pinged.
    """

    def __init__(
        self,
        log: Path,
        *,
        dht_port: int = 0,
        api_port: int = 0,
        bootstrap: Sequence[str] = (),
        peer_age: float = 120.0,
        dead_after: float = 300.0,
        max_payload: int = 8192,
        options: Sequence[str] = (),
    ) -> None:
        self.log = log
        self.dht_port = dht_port or free_port()
        self.api_port = api_port or free_port()
        self.bootstrap = list(bootstrap)
        # The command line of 1.0.0 loses its defaults: without these, entries never expire and a
        # request may have any size.
        self.options = [
            *("--dpa", str(round(peer_age * 1000))),
            *("--dnl", str(round(dead_after * 1000))),
            *("--check_maxPayloadSize", str(max_payload)),
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def dht_address(self) -> str:
        """Address for the bootstrap list of other Grapes."""
        return f"127.0.0.1:{self.dht_port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start the process; does not wait."""
        assert not self.running, "it runs already"
        command = [
            *("node", str(MODULES / "grenache-grape" / "bin" / "grape.js")),
            *("--dp", str(self.dht_port), "--aph", str(self.api_port)),
            *("--bn", ",".join(self.bootstrap), *self.options),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )

    async def start(self) -> RealGrape:
        """Start it and wait until its HTTP API answers. It may know no other Grape yet."""
        self.launch()

        async def answers() -> bool:
            assert self.running, f"the Grape ended at its start:\n{self.output}"
            try:
                return await self.post("no-such-type", None) == (200, '"ERR_REQ_NOTFOUND"')
            except OSError:
                return False

        await eventually(answers, READY, what=f"the Grape at {self.url} to answer")
        return self

    async def joined(self, timeout: float = READY) -> None:
        """Wait until it knows another Grape: an announcement finds a node that holds it."""

        async def announces() -> bool:
            name = f"probe_{uuid.uuid4().hex[:8]}"
            await self.ask("lookup", name)
            return isinstance(await self.ask("announce", [name, 9]), int)

        await eventually(announces, timeout, what=f"the Grape at {self.url} to know another")

    async def post(self, kind: str, data: Any, timeout: float = WAIT) -> tuple[int, str]:
        """One raw request of its HTTP API: status and body. OSError when it cannot be reached."""
        limit = aiohttp.ClientTimeout(total=timeout)
        body = json.dumps({"rid": uuid.uuid4().hex, "data": data})
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(f"{self.url}/{kind}", data=body, allow_redirects=False) as reply,
        ):
            return reply.status, await reply.text()

    async def ask(self, kind: str, data: Any, timeout: float = WAIT) -> Any:
        """As `post`: the JSON value of the answer, None for an empty one."""
        body = (await self.post(kind, data, timeout))[1]
        return json.loads(body) if body else None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait for that."""
        if self.process is None:
            return
        self.process.send_signal(number)

        async def ended() -> bool:
            return not self.running

        await eventually(ended, what="the Grape to end")

    def pause(self) -> None:
        """It keeps its ports and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


class GrapeSet:
    """Grapes that are started together and wait for each other."""

    def __init__(self, grapes: Sequence[RealGrape]) -> None:
        self.grapes = list(grapes)

    def __iter__(self) -> Iterator[RealGrape]:
        return iter(self.grapes)

    def __getitem__(self, index: int) -> RealGrape:
        return self.grapes[index]

    async def start(self) -> None:
        await asyncio.gather(*(grape.start() for grape in self.grapes))
        if len(self.grapes) > 1:
            await asyncio.gather(*(grape.joined() for grape in self.grapes))

    def kill(self) -> None:
        for grape in self.grapes:
            grape.kill()

    async def __aenter__(self) -> GrapeSet:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.kill()


def grape_pair(directory: Path, **more: Any) -> GrapeSet:
    """Two Grapes bootstrapped at each other, not started yet: `async with grape_pair(path) as (a, b)`.
    `more`: as `RealGrape`."""
    first = RealGrape(directory / "grape-a.log", **more)
    second = RealGrape(directory / "grape-b.log", **more)
    first.bootstrap, second.bootstrap = [second.dht_address], [first.dht_address]
    return GrapeSet([first, second])


class NodeProgram:
    """A program of `tests/interop/node`, spoken to by lines of JSON: commands in, results out.

    `arguments` is one JSON object, its first command line argument (`lines.js` reads it). What it
    writes to its standard error goes to `errors` and is shown when it ends unexpectedly.
    """

    def __init__(self, name: str, log: Path, arguments: Mapping[str, Any] | None = None) -> None:
        self.path = PROGRAMS / name
        self.log = log
        self.arguments = dict(arguments or {})
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> NodeProgram:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("node", str(self.path), json.dumps(self.arguments)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(),
                limit=LINE_LIMIT,
            )
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def errors(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    async def send(self, command: Any) -> None:
        """Write one line."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def line(self, timeout: float = READY) -> Any:
        """The next line that it prints.

        Raises:
            AssertionError: none in `timeout` seconds, or it ended.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            text = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise AssertionError(
                f"{self.path.name} printed nothing for {timeout:g} s\n{self.errors}"
            ) from None
        assert text, f"{self.path.name} ended\n{self.errors}"
        return json.loads(text)

    async def ask(self, command: Any, timeout: float = READY) -> Any:
        """Write one line; the next line that it prints."""
        await self.send(command)
        return await self.line(timeout)

    async def ended(self, timeout: float = WAIT) -> int:
        """Wait until it ends by itself; its exit code."""
        assert self._process is not None
        code = await asyncio.wait_for(self._process.wait(), timeout)
        await self._drain()
        return code

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(number)
        await asyncio.wait_for(self._process.wait(), WAIT)
        await self._drain()

    async def _drain(self) -> None:
        """Read and close the pipes: an open one would be reported as left behind."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        while await self._process.stdout.read(1 << 16):
            pass
        await asyncio.sleep(0)

    async def __aenter__(self) -> NodeProgram:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


def environment() -> dict[str, str]:
    """Environment of a test's Node.js programs."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}
