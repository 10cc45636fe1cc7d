"""Our Grape and the Node.js one: requests a second, how soon an announcement is seen, how soon it is gone

Two Grapes of each kind, each a process of its own on 127.0.0.1; the same client asks ours and the real ones
in turns, with the median of the turns as the figure. Lookups are of names that are announced at both Grapes
of a pair; ours asks the others for such a name once a second, and for unknown ones each time. The times of
"gone" are from the last announcement, with entries that live 3 s (`--dpa 3000` on both), while somebody
looks the name up every 0.2 s: by default entries live forty times as long. At last a hundred Grapes of one kind
start in one process, the first one being the bootstrap node of the others; counted is the time from when all are
bound until an announcement at the last one is stored, and at how many others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import uvloop

from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_settings import GrapeSettings
from tests.benchmarks.report import Row
from tests.interop.real import HERE, MODULES, NodeProgram, grape_pair
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
NAMES = 64  # services that are looked up
MOST = 30_000  # lookups a second that no Grape exceeds without its cache
AGE = 3.0  # seconds that an announcement lives where its end is measured
LOOK_EVERY = 0.2  # seconds between lookups of a name that is waited for to go
MANY = 100  # Grapes in one process
NODE = "Node.js"


class OurGrape:
    """One process of `exchange-node grape`."""

    def __init__(self, peer_age: float) -> None:
        self.dht_port, self.api_port = free_port(), free_port()
        self._age = peer_age
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def launch(self, bootstrap: str) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "node.cli.main", "grape", "-b", "127.0.0.1"),
                *("--dp", str(self.dht_port), "--aph", str(self.api_port), "--bn", bootstrap),
                *("--dpa", str(round(self._age * 1000))),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)


class Connection(asyncio.Protocol):
    """One keep-alive connection; a request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length and self._answer is not None:
            self._data = b""
            self._answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the Grape closed the connection"))

    async def send(self, request: bytes) -> bytes:
        """The body of the answer to a request made by `encoded`."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    async def ask(self, kind: str, argument: Any) -> Any:
        body = await self.send(encoded(kind, argument))
        return json.loads(body) if body else None

    def close(self) -> None:
        self._transport.close()


def encoded(kind: str, argument: Any) -> bytes:
    """One request, as a Link would send it."""
    body = json.dumps({"rid": "0d7b2a52-6bfc-4a3e-8b0c-2f4c8a1b7e7e", "data": argument}).encode()
    head = f"POST /{kind} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def connected(url: str) -> Connection:
    host, port = url.removeprefix("http://").split(":")
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
    return protocol


@contextlib.asynccontextmanager
async def our_pair(peer_age: float) -> AsyncIterator[list[str]]:
    """URLs of two Grapes of ours that know each other."""
    grapes = [OurGrape(peer_age), OurGrape(peer_age)]
    try:
        for grape, other in zip(grapes, reversed(grapes), strict=True):
            grape.launch(f"127.0.0.1:{other.dht_port}")
        for grape in grapes:
            async with asyncio.timeout(30):
                while not await _knows_another(grape.url):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
        yield [grape.url for grape in grapes]
    finally:
        for grape in grapes:
            grape.stop()


async def _knows_another(url: str) -> bool:
    try:
        connection = await connected(url)
    except OSError:
        return False
    try:
        body = await connection.send(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return bool(json.loads(body)["grape"]["nodes"])
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def real_pair(peer_age: float) -> AsyncIterator[list[str]]:
    """URLs of two Node.js Grapes that know each other."""
    with tempfile.TemporaryDirectory() as directory:
        async with grape_pair(Path(directory), peer_age=peer_age) as pair:
            yield [grape.url for grape in pair]


async def _announce(url: str, names: Sequence[str], port: int) -> None:
    connection = await connected(url)
    for name in names:
        while not isinstance(await connection.ask("announce", [name, port]), int):
            await connection.ask("lookup", name)
    connection.close()


async def _rate(url: str, requests: Sequence[bytes], in_flight: int, seconds: float) -> float:
    """Answers a second, each connection with one request at a time."""
    connections = [await connected(url) for _ in range(in_flight)]
    numbers, answered = count(), 0
    end = time.perf_counter() + seconds

    async def work(connection: Connection) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await connection.send(requests[next(numbers) % len(requests)])
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return answered / took


async def _visible(announcer: str, looker: str, names: Iterator[int], rounds: int) -> list[float]:
    """Seconds from the announcement's being sent to the first lookup elsewhere that finds it."""
    one, other = await connected(announcer), await connected(looker)
    took = []
    for _ in range(rounds):
        name = f"visible_{next(names)}"
        request, looking = encoded("announce", [name, 9]), encoded("lookup", name)
        began = time.perf_counter()
        announced = asyncio.create_task(one.send(request))
        while json.loads(await other.send(looking)) == []:
            pass
        took.append(time.perf_counter() - began)
        await announced
    one.close()
    other.close()
    return took


async def _gone(announcer: str, looker: str, names: Sequence[str]) -> list[float]:
    """Seconds from the last announcement to the first lookup elsewhere that finds nothing."""

    async def one(name: str, delay: float) -> float:
        await asyncio.sleep(delay)
        announcing, looking = await connected(announcer), await connected(looker)
        for _ in range(4):
            await announcing.ask("announce", [name, 9])
            last = time.perf_counter()
            await looking.ask("lookup", name)
            await asyncio.sleep(LOOK_EVERY)
        while await looking.ask("lookup", name):  # noqa: ASYNC110 - another process
            await asyncio.sleep(LOOK_EVERY)
        announcing.close()
        looking.close()
        return time.perf_counter() - last

    return list(await asyncio.gather(*(one(name, i * 0.11) for i, name in enumerate(names))))


async def _rates(ours: list[str], real: list[str], rounds: int, seconds: float) -> list[Row]:
    names = [f"service_{i}" for i in range(NAMES)]
    for urls in (ours, real):
        await _announce(urls[1], names, 1337)
        await _announce(urls[0], names, 1338)  # what is announced again has been looked for
    lookups = [encoded("lookup", name) for name in names]
    announcements = [encoded("announce", [name, 1338]) for name in names]
    unknown = [encoded("lookup", f"unknown_{i}") for i in range(NAMES)]
    fresh = (encoded("lookup", f"fresh_{i}") for i in count())  # each name once
    most = round(MOST * seconds)
    rows = []
    for what, requests in (
        ("lookups, 64 names", lookups),
        ("lookups, unknown names", unknown),
        ("lookups, each of another name", None),
        ("lookups, one name", lookups[:1]),
        ("announcements", announcements),
    ):
        for in_flight in (1, 64):
            rates: dict[str, list[float]] = {"ours": [], NODE: []}
            for _ in range(rounds):
                for who, urls in (("ours", ours), (NODE, real)):
                    asked = requests or list(islice(fresh, most))
                    rates[who].append(await _rate(urls[0], asked, in_flight, seconds))
            mine, theirs = (statistics.median(rates[who]) for who in ("ours", NODE))
            label = f"{what}, {in_flight} in flight"
            rows += [Row(label, mine, "/s", mine / theirs), Row(f"  {NODE}", theirs, "/s")]
    return rows


def _times(what: str, unit: str, scale: float, found: dict[str, list[float]]) -> list[Row]:
    rows = []
    for label, pick in (
        ("median", statistics.median),
        ("slowest of 100", lambda values: sorted(values)[int(len(values) * 0.99)]),
    ):
        mine, theirs = (pick(found[who]) * scale for who in ("ours", NODE))
        rows += [Row(f"{what}, {label}", mine, unit, mine / theirs), Row(f"  {NODE}", theirs, unit)]
    return rows


async def _ours_of_many(count: int) -> tuple[float, int]:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(Grape(GrapeSettings(host="127.0.0.1", port=0)))
        settings = GrapeSettings(host="127.0.0.1", port=0, bootstrap=(first.address,))
        others = [Grape(settings) for _ in range(count - 1)]
        for grape in others:
            stack.push_async_callback(grape.stop)
        await asyncio.gather(*(grape.start() for grape in others))
        began = time.perf_counter()
        holders = await others[-1].announce("first", 1337)
        return time.perf_counter() - began, holders - 1  # without the own entry


async def _theirs_of_many(count: int, logs: Path) -> tuple[float, int]:
    settings = {"ports": [free_port() for _ in range(count)]}
    async with NodeProgram("hundred_grapes.js", logs / "many", settings) as program:
        said = await program.line()
        return said["ms"] / 1e3, said["holders"]


async def _first_of_many(rounds: int) -> list[Row]:
    """Seconds of the first announcement where a hundred Grapes start in one process."""
    found: dict[str, list[tuple[float, int]]] = {"ours": [], NODE: []}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(rounds):
            found["ours"].append(await _ours_of_many(MANY))
            found[NODE].append(await _theirs_of_many(MANY, Path(directory)))
    seconds = {who: statistics.median(took for took, _ in each) for who, each in found.items()}
    least = {who: min(holders for _, holders in each) for who, each in found.items()}
    ratio = seconds["ours"] / seconds[NODE]
    note = "at {} others or more"
    what = f"first announcement at one of {MANY} Grapes in one process"
    return [
        Row(what, seconds["ours"], "s", ratio, note.format(least["ours"])),
        Row(f"  {NODE}", seconds[NODE], "s", note=note.format(least[NODE])),
    ]


async def _measure(quick: bool) -> list[Row]:
    rounds, seconds, times = (3, 0.5, 60) if quick else (7, 1.5, 400)
    async with our_pair(120.0) as ours, real_pair(120.0) as real:
        rows = await _rates(ours, real, rounds, seconds)
        seen: dict[str, list[float]] = {"ours": [], NODE: []}
        numbers = count()
        for _ in range(rounds):
            for who, urls in (("ours", ours), (NODE, real)):
                seen[who] += await _visible(*urls, numbers, times // rounds)
        rows += _times("announced to visible", "ms", 1e3, seen)
    async with our_pair(AGE) as ours, real_pair(AGE) as real:
        names = [f"gone_{i}" for i in range(8 if quick else 24)]
        mine, theirs = await asyncio.gather(_gone(*ours, names), _gone(*real, names))
        rows += _times(f"dead to gone (age {AGE:g} s)", "s", 1, {"ours": mine, NODE: theirs})
        one, other = await connected(ours[0]), await connected(ours[1])
        await one.ask("announce", ["withdrawn", 9])
        assert await other.ask("lookup", "withdrawn")
        began = time.perf_counter()
        await one.ask("unannounce", ["withdrawn", 9])
        while await other.ask("lookup", "withdrawn"):
            pass
        rows.append(
            Row("unannounced to gone", (time.perf_counter() - began) * 1e3, "ms", note="ours only")
        )
        one.close()
        other.close()
    return rows + await _first_of_many(rounds)


def run(quick: bool) -> list[Row]:
    if not (shutil.which("node") and shutil.which("npm")):
        return [Row("lookups", None, "/s", note="Node.js and npm are not installed")]
    if not MODULES.exists():
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=HERE,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return uvloop.run(_measure(quick))
