"""`exchange-node grape` as processes on loopback: spoken to, joined, killed, started again, stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import START_TIMEOUT, STOP_TIMEOUT, environment, eventually

from p2p.grenache.errors import LookupEmpty
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_client import Client
from tests.ports import free_port

UNKNOWN_WITHIN = 1.0  # seconds; it takes a few ms on a quiet machine
HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"


class GrapeProcess:
    """One Grape. Its ports are kept when it is started again."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.path = directory / f"{name}.log"
        self.options: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None
        self.dht_port, self.api_port = free_port(), free_port()
        self.url = ""

    @property
    def log(self) -> str:
        return self.path.read_text("utf-8", "replace") if self.path.exists() else ""

    @property
    def errors(self) -> str:
        return self.path.with_suffix(".err").read_text("utf-8", "replace")

    def launch(self, *options: str) -> GrapeProcess:
        self.options = options or self.options
        command = (sys.executable, "-m", "node.cli.main", "grape", *self.options)
        with self.path.open("wb") as out, self.path.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                cwd=self.directory,
                env=environment(DATA_DIR=str(self.directory / "data")),
            )
        return self

    def start(self, *bootstrap: GrapeProcess, options: tuple[str, ...] = ()) -> GrapeProcess:
        """Start it for scripts (--json), and wait until it serves."""
        others = ",".join(f"127.0.0.1:{one.dht_port}" for one in bootstrap)
        self.launch(
            *("--dp", str(self.dht_port), "--aph", str(self.api_port), "--bn", others),
            *("-b", "127.0.0.1", "--json", *options),
        )
        return self.ready()

    def ready(self) -> GrapeProcess:
        def line() -> dict[str, Any] | None:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended at its start:\n{self.log}{self.errors}"
            return json.loads(self.log) if self.log.endswith("\n") else None

        ready = eventually(line, START_TIMEOUT, what=lambda: f"a line:\n{self.log}{self.errors}")
        assert ready is not None
        self.dht_port, self.api_port, self.url = (
            ready["dht_port"],
            ready["api_port"],
            ready["api_url"],
        )
        return self

    def end(self, number: signal.Signals) -> int:
        """The exit code after this signal."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT)

    def cleanup(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def request(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"{self.url}{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def ask(self, kind: str, argument: Any) -> Any:
        _, body = self.request(f"/{kind}", json.dumps({"rid": "r", "data": argument}).encode())
        return json.loads(body) if body else None

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.request("/status")[1])
        return status

    def joined(self, others: int = 1) -> None:
        eventually(lambda: self.status()["grape"]["nodes"] >= others, what="it to join the DHT")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    grapes: list[GrapeProcess] = []

    def grape(name: str) -> GrapeProcess:
        grapes.append(GrapeProcess(tmp_path, name))
        return grapes[-1]

    yield grape
    for one in grapes:
        one.cleanup()


def test_one_grape_alone_is_useful_and_stops_cleanly(make: Any) -> None:
    grape = make("alone").start()
    assert grape.ask("announce", ["rpc_test", 1337]) == 1
    assert grape.ask("lookup", "rpc_test") == ["127.0.0.1:1337"]
    assert grape.ask("put", {"v": "hello world"}) == HELLO
    assert grape.ask("get", HELLO)["v"] == "hello world"
    status = grape.status()
    assert status["grape"]["own_announcements"] == 1
    assert status["grape"]["values"] == 1
    assert status["api"]["url"] == grape.url
    assert grape.end(signal.SIGTERM) == 0
    assert grape.errors == ""


def test_a_service_that_no_worker_serves_fails_at_once_and_alike_in_every_way(make: Any) -> None:
    first = make("first").start()
    second = make("second").start(first)
    first.joined()
    second.joined()

    async def failed(way: Callable[[], Awaitable[object]]) -> str:
        with pytest.raises(LookupEmpty) as caught:
            async with asyncio.timeout(UNKNOWN_WITHIN):
                await way()
        return str(caught.value)

    async def every_way() -> set[str]:
        texts: set[str] = set()
        async with (
            Link([first.url, second.url]) as link,
            Client(link) as http,
            Client(link, transport="ws") as ws,
        ):
            for client in (http, ws):
                texts.add(await failed(partial(client.request, "nobody")))
                texts.add(await failed(partial(client.request, "nobody", idempotent=True)))
                texts.add(await failed(partial(client.map, "nobody")))
            texts.add(await failed(http.stream("nobody").__aenter__))
        return texts

    assert asyncio.run(every_way()) == {
        "ERR_GRAPE_LOOKUP_EMPTY: no worker is announced as 'nobody'"
    }


def test_two_grapes_find_announcements_at_either_and_ctrl_c_stops_them(make: Any) -> None:
    first = make("first").start()
    second = make("second").start(first)
    first.joined()
    second.joined()
    assert first.ask("announce", ["from_first", 1]) >= 1
    assert second.ask("announce", ["from_second", 2]) >= 1
    assert second.ask("lookup", "from_first") == ["127.0.0.1:1"]
    assert first.ask("lookup", "from_second") == ["127.0.0.1:2"]
    assert second.ask("announce", ["given", 3, "127.0.0.9"]) >= 1
    assert first.ask("lookup", "given") == ["127.0.0.9:3"]
    assert second.ask("unannounce", ["given", 3, "127.0.0.9"]) >= 1
    eventually(lambda: first.ask("lookup", "given") == [])
    eventually(lambda: "joined the DHT: 1 other Grape known" in second.errors)
    assert [one.end(signal.SIGINT) for one in (first, second)] == [0, 0]


def test_a_grape_that_is_killed_and_started_again_is_used_again(make: Any) -> None:
    first = make("first").start()
    second = make("second").start(first)
    first.joined()
    second.joined()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert second.ask("announce", ["while_alone", 1]) >= 1
    assert second.ask("lookup", "while_alone") == ["127.0.0.1:1"]
    first.start(second)
    first.joined()
    eventually(lambda: first.ask("lookup", "while_alone") == ["127.0.0.1:1"])
    assert first.ask("announce", ["back", 2]) >= 1
    eventually(lambda: second.ask("lookup", "back") == ["127.0.0.1:2"])


def test_no_request_kills_it(make: Any) -> None:
    grape = make("tough").start()
    for kind in ("announce", "unannounce", "lookup", "put", "get", "status", "", "x" * 4000):
        for argument in (None, "", [], ["", 1], {}, {"v": None}, {"hash": "zz"}, 1e300):
            assert isinstance(grape.ask(kind, argument), str)
    for argument in ("zz", "x", "zz", "zz"):  # two of these end a Node.js Grape
        assert grape.ask("get", argument) == "ERR_GRAPE_HASH_FORMAT"
        assert grape.ask("lookup", "x") == []
        for body in (b"", b"null", b"{", b"\xff" * 100, b"[" * 8000, b"x" * 100_000):
            status, answer = grape.request(f"/{kind}", body)
            assert status in (200, 413, 500)
            assert answer.startswith((b"ERR_", b'"ERR_', b'"opts.'))
    assert grape.ask("announce", ["still_here", 1]) == 1
    assert grape.end(signal.SIGTERM) == 0
    assert grape.errors == ""


def test_the_banner_shows_commands_to_try(make: Any) -> None:
    grape = make("shown").launch("--dp", "0", "--aph", "0", "-b", "127.0.0.1")
    eventually(lambda: "Ctrl-C stops the Grape." in grape.log, START_TIMEOUT)
    assert 'curl -d \'{"data":"my_service"}\' http://127.0.0.1:' in grape.log
    assert "none: the first Grape, which others can join" in grape.log
    assert grape.end(signal.SIGINT) == 0
    assert grape.log.endswith("\nstopped\n")


def test_an_api_that_others_can_reach_is_warned_of(make: Any) -> None:
    grape = make("open").launch(
        *("--dp", "0", "--aph", "0", "-b", "127.0.0.1", "--api-host", "0.0.0.0", "--json")
    )
    grape.ready()
    assert grape.url.startswith("http://127.0.0.1:")
    eventually(lambda: "without access control" in grape.errors)


@pytest.mark.parametrize(
    ("kind", "option", "said"),
    [
        (socket.SOCK_DGRAM, "--dp", "cannot listen for the DHT at UDP 127.0.0.1:"),
        (socket.SOCK_STREAM, "--aph", "cannot listen for the API at 127.0.0.1:"),
    ],
)
def test_a_taken_port_ends_the_start_with_a_remedy(
    make: Any, kind: socket.SocketKind, option: str, said: str
) -> None:
    with closing(socket.socket(socket.AF_INET, kind)) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        ports = {"--dp": "0", "--aph": "0", option: str(taken.getsockname()[1])}
        words = [word for pair in ports.items() for word in pair]
        grape = make("refused").launch("-b", "127.0.0.1", *words)
        assert grape.process is not None
        assert grape.process.wait(START_TIMEOUT) == 2
        assert said in grape.errors
        assert f"choose another port with {option}, or 0 for a free one" in grape.errors
        assert "Traceback" not in grape.errors
        assert grape.log == ""
