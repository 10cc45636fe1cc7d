"""Real `exchange-node` processes for tests: started, spoken to, stopped, killed, started again.

Each has a data directory and ports of 127.0.0.1 of its own. It is spoken to through
`ExchangeClient`, the way the command line does it. What it prints is kept and shown when a test
fails (conftest.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest

from exchange.journal.journal import Journal
from exchange.model.records import Fill, Recovered
from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ClientError, ExchangeClient
from node.client.server_trust import Trust
from node.views.limits import MAX_LIMIT
from node.views.node_views import PeerView, PingView, StatusView
from node.views.views import BookView, FillView, OrderRequest, OrderView, Side, TradeView
from tests.ports import free_port

T = TypeVar("T")
in_both_modes = pytest.mark.parametrize("nodes", ["p2p", "grenache"], indirect=True)
NODES = pytest.StashKey["Nodes"]()  # of a test: the nodes whose logs are shown when it fails

ROOT = Path(__file__).resolve().parents[2]
MARKET = "TEST-USD"  # tick 0.01, lot 1
START_TIMEOUT = 30.0  # seconds; a loaded machine takes its time to import
WAIT = 20.0  # seconds for what should happen soon; only a failure waits so long
STOP_TIMEOUT = 8.0
POLL = 0.02

# Deterministic and quiet: nothing of the surroundings is read, nothing leaves this machine.
SETTINGS = {
    "P2P_HOST": "127.0.0.1",
    "DISCOVERY_MDNS": "false",
    "DISCOVERY_GRENACHE": "false",
    "LOG_LEVEL": "info",
    "JOURNAL_SYNC": "normal",  # survives kill -9, which is what these tests do
}
# For nodes that use Grapes.
GRENACHE = {
    "DISCOVERY_GRENACHE": "true",
    "GRENACHE_HOST": "127.0.0.1",
    "GRENACHE_PORT": "0",
    "GRENACHE_ANNOUNCE_INTERVAL": "1000",
    "GRAPE_HOST": "127.0.0.1",
}
_INHERITED = (
    "EXCHANGE_NODE_DEBUG",
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "VIRTUAL_ENV",
    "COVERAGE_PROCESS_START",
)


def environment(**settings: str) -> dict[str, str]:
    """Environment of a test's processes: none of the settings of whoever runs the tests."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # No test talks to anybody whom the system's certificates vouch for, and reading them takes time.
    quick = {"SSL_CERT_FILE": os.devnull}
    return {**kept, **quick, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


def eventually(
    predicate: Callable[[], T], timeout: float = WAIT, *, what: str | Callable[[], object] = ""
) -> T:
    """The first true value of `predicate`, asked again and again. A node that does not answer yet
    counts as false.

    Raises:
        AssertionError: not within `timeout` seconds; `what` says what was waited for, or is called
            to say how things stand.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            last: object = predicate()
            if last:
                return last  # type: ignore[return-value]
        except ClientError as error:
            last = error
        if time.monotonic() >= deadline:
            text = what() if callable(what) else what
            raise AssertionError(
                f"not within {timeout:g} s: {text or 'condition'} (last: {last!r})"
            )
        time.sleep(POLL)


@dataclass
class NodeProcess:
    """One node. `options` are added to `start`, `settings` to the environment; both stay for
    restarts. `program` is what runs instead of the command line, `prefix` what runs it (`ip netns
    exec NAME`). A `plain` one gets no settings but its own: it listens to everybody."""

    data_dir: Path
    options: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ("-m", "node.cli.main")
    command: Sequence[str] = ("start",)
    prefix: Sequence[str] = ()
    p2p_port: int | None = field(default_factory=free_port)  # None leaves the option out
    api_port: int | None = field(default_factory=free_port)
    plain: bool = False
    process: subprocess.Popen[bytes] | None = None
    node_id: str = ""
    api_url: str = ""
    p2p_address: str = ""

    # Life

    @property
    def name(self) -> str:
        return self.data_dir.name

    @property
    def log_path(self) -> Path:
        return self.data_dir.with_name(f"{self.name}.log")

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    @property
    def runtime_path(self) -> Path:
        return self.data_dir / "node.json"

    @property
    def environment(self) -> dict[str, str]:
        return environment(**{**({} if self.plain else SETTINGS), **self.settings})

    def launch(self, *options: str, **settings: str) -> NodeProcess:
        """Start the process; `options` and `settings` are for this run only. Does not wait."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        self.runtime_path.unlink(missing_ok=True)  # one left by kill -9 says nothing of this run
        ports: list[str] = []
        if self.p2p_port is not None:
            ports += ["--p2p-port", str(self.p2p_port)]
        if self.api_port is not None:
            ports += ["--api-port", str(self.api_port)]
        command = [
            *(*self.prefix, sys.executable, *self.program),
            *(*self.command, "--data-dir", str(self.data_dir), *ports, *self.options, *options),
        ]
        with self.log_path.open("ab") as log:
            log.write(f"--- {' '.join(command[len(self.prefix) :])} {settings or ''}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir.parent,
                env={**self.environment, **settings},
            )
        return self

    def ready(self) -> NodeProcess:
        """Wait until it serves."""

        def written() -> bool:
            assert self.process is not None
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code} at its start:\n{self.log}"
            return self.runtime_path.exists()

        eventually(written, START_TIMEOUT, what=lambda: f"{self.name} to start:\n{self.log}")
        runtime = json.loads(self.runtime_path.read_text("utf-8"))
        self.node_id, self.api_url = runtime["node_id"], runtime["api_url"]
        self.p2p_address = runtime["p2p_address"] or ""
        return self

    def start(self, *options: str, **settings: str) -> NodeProcess:
        return self.launch(*options, **settings).ready()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def exit_code(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the end; the exit code (negative: the signal that killed it)."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code of an orderly stop."""
        self.send_signal(number)
        return self.exit_code()

    def kill9(self) -> None:
        self.send_signal(signal.SIGKILL)
        assert self.exit_code() == -signal.SIGKILL

    def restart(self, *options: str, **settings: str) -> NodeProcess:
        """Start again on the same data directory and ports."""
        return self.start(*options, **settings)

    def cleanup(self) -> None:
        """Whatever became of the test, nothing is left running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    # Speaking to it

    def ask(self, work: Callable[[ExchangeClient], Coroutine[Any, Any, T]]) -> T:
        """One request. Raises as `ExchangeClient`."""
        transport = BlockingTransport(WAIT, trust=self.trust)
        client = ExchangeClient(self.api_url, node_id=self.node_id, transport=transport)
        return run_blocking(work(client))

    @property
    def trust(self) -> Trust:
        """Certificates that clients of the node accept: the one that it has made itself, if it has."""
        certificate = self.data_dir / "api-cert.pem"
        return Trust(ca_file=certificate if certificate.exists() else None)

    def order(
        self,
        side: Side,
        quantity: int | str,
        price: int | str | None = None,
        *,
        market: str = MARKET,
        client_id: str | None = None,
    ) -> OrderView:
        request = OrderRequest(
            market=market,
            side=side,
            quantity=str(quantity),
            price=None if price is None else str(price),
            client_id=client_id,
        )
        return self.ask(lambda client: client.submit(request))

    def sell(self, quantity: int | str, price: int | str | None = None, **more: Any) -> OrderView:
        return self.order("sell", quantity, price, **more)

    def buy(self, quantity: int | str, price: int | str | None = None, **more: Any) -> OrderView:
        return self.order("buy", quantity, price, **more)

    def cancel(self, order_id: str) -> OrderView:
        return self.ask(lambda client: client.cancel(order_id))

    def get_order(self, order_id: str) -> OrderView:
        return self.ask(lambda client: client.order(order_id))

    def orders(self, *, open_only: bool = True) -> list[OrderView]:
        return self.ask(lambda client: client.orders(open_only=open_only))

    def fills(self) -> list[FillView]:
        """All of them, newest first, page by page."""
        found: dict[tuple[str, str], FillView] = {}
        start = None
        while True:
            page = self.ask(
                lambda client, start=start: client.fills(
                    start=start, limit=MAX_LIMIT, newest_first=False
                )
            )
            found |= {(fill.id, fill.role): fill for fill in page}
            if len(page) < MAX_LIMIT:
                return list(found.values())[::-1]
            start = page[-1].time

    def trades(self) -> list[TradeView]:
        return self.ask(lambda client: client.trades())

    def book(self, market: str = MARKET) -> BookView:
        return self.ask(lambda client: client.book(market))

    def levels(self, market: str = MARKET) -> tuple[dict[str, str], dict[str, str]]:
        """(bids, asks): quantity by price."""
        book = self.book(market)
        return {b.price: b.quantity for b in book.bids}, {a.price: a.quantity for a in book.asks}

    def asks(self, market: str = MARKET) -> dict[str, str]:
        return self.levels(market)[1]

    def bids(self, market: str = MARKET) -> dict[str, str]:
        return self.levels(market)[0]

    def peers(self) -> list[PeerView]:
        return self.ask(lambda client: client.peers())

    def linked(self) -> set[str]:
        """Node ids of the peers with a link."""
        return {p.node_id for p in self.peers() if p.status == "connected" and p.node_id}

    def status(self) -> StatusView:
        return self.ask(lambda client: client.status())

    def ping(self, node_id: str) -> PingView:
        return self.ask(lambda client: client.ping(node_id))

    def cli(self, *arguments: str, json_output: bool = True) -> Any:
        """A client command against this node: the JSON document that it prints."""
        more = ("--data-dir", str(self.data_dir), *(("--json",) if json_output else ()))
        done = run_cli(*arguments, *more, prefix=self.prefix)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if json_output else done.stdout

    # What it leaves on the disk

    def remembers(self, other: NodeProcess) -> bool:
        path = self.data_dir / ".peers.json"
        return path.exists() and other.node_id in path.read_text("utf-8")

    def journal(self) -> tuple[Recovered, list[Fill]]:
        """Present content of its journal, from a copy of the log, since a running node holds the journal."""
        with TemporaryDirectory() as scratch:
            copy = Path(scratch) / "journal"
            shutil.copytree(
                self.data_dir / "journal",
                copy,
                ignore=shutil.ignore_patterns("archive*", "anchor*", "*.tmp"),
            )
            with closing(Journal(copy)) as journal:
                return journal.recover(), journal.history().fills(limit=1000)


def run_cli(
    *arguments: str, prefix: Sequence[str] = (), timeout: float = 60.0, **settings: str
) -> subprocess.CompletedProcess[str]:
    """`exchange-node ARGUMENTS` in a process of its own, to its end."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "node.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(**{**SETTINGS, **settings}),
    )


class GrapeProcess:
    """`exchange-node grape` on ports of 127.0.0.1 of its own, the same at every start."""

    def __init__(self, directory: Path, name: str, bootstrap: str = "") -> None:
        self.log_path = directory / f"{name}.log"
        self.bootstrap = bootstrap
        self.dht_port, self.api_port = free_port(), free_port()
        self.url = self.dht_address = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> GrapeProcess:
        """Start it and wait until it says where it serves."""
        begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        options = ["--dp", self.dht_port, "--aph", self.api_port, "--bn", self.bootstrap]
        command = [sys.executable, "-m", "node.cli.main", "grape", *map(str, options), "--json"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--bind", "127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

        def said() -> dict[str, Any]:
            assert self.process is not None
            assert self.process.poll() is None, self.log_path.read_text("utf-8")
            lines = self.log_path.read_text("utf-8")[begin:].splitlines(keepends=True)
            return next((json.loads(t) for t in lines if t[0] == "{" and t[-1] == "\n"), {})

        ready = eventually(said, START_TIMEOUT, what="the Grape to start")
        self.url, self.dht_address = ready["api_url"], ready["dht_address"]
        return self

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def cleanup(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill9()


class Nodes:
    """The nodes of one test, and its Grapes. In `grenache` mode every node goes without direct links:
    it finds the others through a Grape, and what a test says of bootstrap peers is left out."""

    def __init__(self, directory: Path, mode: str = "p2p") -> None:
        self.directory = directory
        self.mode = mode
        self.all: list[NodeProcess] = []
        self.grapes: list[GrapeProcess] = []

    def grape(self, bootstrap: str = "") -> GrapeProcess:
        """A Grape that runs."""
        grape = GrapeProcess(self.directory, f"grape{len(self.grapes)}", bootstrap)
        self.grapes.append(grape)
        return grape.start()

    def make(self, name: str, *options: str, bootstrap: str = "", **settings: str) -> NodeProcess:
        """A node that is not started yet."""
        more = ("--bootstrap", bootstrap) if bootstrap else ()
        if self.mode == "grenache":
            grape = self.grapes[0] if self.grapes else self.grape()
            settings = {**GRENACHE, "P2P_ENABLED": "false", "GRAPE_URL": grape.url, **settings}
        node = NodeProcess(self.directory / name, (*more, *options), settings)
        self.all.append(node)
        return node

    def start(self, name: str, *options: str, bootstrap: str = "", **settings: str) -> NodeProcess:
        return self.make(name, *options, bootstrap=bootstrap, **settings).start()

    def pair(self, **settings: str) -> tuple[NodeProcess, NodeProcess]:
        """Two nodes, the second bootstrapped to the first, that are linked and see each other."""
        a = self.start("a", **settings)
        b = self.start("b", bootstrap=a.p2p_address, **settings)
        see_each_other(a, b)
        return a, b

    def cleanup(self) -> None:
        for started in (*self.all, *self.grapes):
            started.cleanup()


def bootstrap_options(address: str) -> tuple[str, ...]:
    """Command-line options that name a peer; none for a node without direct links."""
    return ("--bootstrap", address) if address else ()


def show_logs(request: pytest.FixtureRequest, nodes: Nodes) -> None:
    """Show the output of these nodes when the test fails."""
    request.node.stash[NODES] = nodes


def see_each_other(*nodes: NodeProcess) -> None:
    """Wait until every node knows that all of them are present."""
    for node in nodes:
        eventually(
            lambda node=node: node.status().nodes_present == len(nodes),
            what=lambda node=node: f"{node.name} to see {len(nodes)} nodes: {node.status()}",
        )


def same_books(*nodes: NodeProcess, market: str = MARKET) -> BookView:
    """Wait until the books of all nodes are the same; one of them."""

    def agreed() -> BookView | None:
        books = [node.book(market) for node in nodes]
        digests = {book.digest for book in books}
        shown = {
            tuple((level.price, level.quantity, level.orders) for level in (*b.bids, *b.asks))
            for b in books
        }
        return books[0] if len(digests) == len(shown) == 1 else None

    found = eventually(agreed, what=lambda: [(n.name, n.levels(market)) for n in nodes])
    assert found is not None
    return found


def trade_ids(fills: Sequence[FillView]) -> list[tuple[str, str, str, str]]:
    """Facts of trades on which both sides must agree, in order."""
    return sorted((fill.id, fill.market, fill.price, fill.quantity) for fill in fills)


@contextmanager
def steady_trading(node: NodeProcess) -> Iterator[None]:
    """Buy and sell at the node in a thread, also while it is killed and started again."""
    over = threading.Event()

    def trade() -> None:
        number = 0
        while not over.is_set():
            with suppress(ClientError):
                price = 100 + number % 7
                node.sell(2, price, client_id=f"s{number}")
                node.buy(2, price, client_id=f"b{number}")
                number += 1

    trading = threading.Thread(target=trade)
    trading.start()
    try:
        yield
    finally:
        over.set()
        trading.join()
