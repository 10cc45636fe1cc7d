"""The person who types a document's examples: fresh nodes, a terminal of 80 columns, one home each."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ClientError, ExchangeClient
from node.views.node_views import StatusView
from p2p.base.identity import Identity
from tests.documents.examples import ROOT, Example

ALONE: Final = "C"
START: Final = 40.0  # seconds
COMMAND: Final = 30.0
QUIET: Final = 8.0  # seconds for the nodes to agree before somebody else types
SHELL: Final = re.compile(r"[|;&<>$`\\~]|^\w+=")
TERMINAL: Final = {
    "TERM": "xterm",
    "NO_COLOR": "1",
    "COLUMNS": "80",
    "LINES": "40",
    "LC_ALL": "C.UTF-8",
}
KEPT: Final = ("PATH", "TMPDIR", "VIRTUAL_ENV")


@dataclass
class Typist:
    """One operator with a home directory, and the node that runs there."""

    name: str
    home: Path
    api: str = ""
    p2p: str = ""
    node_id: str = ""
    process: subprocess.Popen[bytes] | None = None
    variables: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {
            **kept,
            **TERMINAL,
            "HOME": str(self.home),
            "PATH": f"{self.home}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SSL_CERT_FILE": os.devnull,
        }

    def start(self, bootstrap: str, instruments: str) -> None:
        """Start a node with a key that every run has, so that the documents show the same ids. One with
        instruments of its own is alone in its network."""
        data = self.home / ".exchange-node"
        data.mkdir(parents=True, mode=0o700)
        Identity.from_seed(self.name.encode() * 32).save(data / "node.key")
        script = self.home / "bin" / "exchange-node"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m node.cli.main "$@"\n')
        script.chmod(0o755)
        settings = {
            "P2P_HOST": "127.0.0.1",
            "P2P_PORT": "0",
            "API_PORT": "0",
            "DISCOVERY_MDNS": "false",
            "DISCOVERY_GRENACHE": "false",
            "JOURNAL_SYNC": "normal",
            **({"BOOTSTRAP_PEERS": bootstrap} if bootstrap else {}),
        }
        if instruments:
            file = self.home / "markets.toml"
            file.write_text(instruments)
            settings |= {"INSTRUMENTS_FILE": str(file), "P2P_NETWORK": "alone"}
        with (self.home / "node.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.cli.main", "start"],
                env=self.environment() | settings, cwd=self.home, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def ready(self) -> None:
        import json

        runtime = self.home / ".exchange-node" / "node.json"
        deadline = time.monotonic() + START
        while not runtime.exists():
            assert time.monotonic() < deadline, (self.home / "node.log").read_text()
            assert self.process is not None
            assert self.process.poll() is None, (self.home / "node.log").read_text()
            time.sleep(0.02)
        found = json.loads(runtime.read_text())
        self.api, self.p2p, self.node_id = found["api_url"], found["p2p_address"], found["node_id"]

    def status(self) -> StatusView:
        client = ExchangeClient(self.api, transport=BlockingTransport(5.0))
        return run_blocking(client.status())

    def state(self) -> tuple[object, ...]:
        """The part of the state that equals that of other nodes once all are in step."""
        client = ExchangeClient(self.api, transport=BlockingTransport(5.0))
        status = run_blocking(client.status())
        book = run_blocking(client.book("BTC-USD"))
        return (book.digest, status.nodes_present), status.pending_takes + status.feeds_behind

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    # Typing

    def type(self, command: str) -> tuple[int, str]:
        """Exit code and output of a command at the terminal."""
        if re.fullmatch(r"[A-Z_]+=.*", command):
            self.variables.append(command)
            return 0, ""
        if SHELL.search(command) or not command.startswith("exchange-node "):
            script = "\n".join([*self.variables, command])
            return self._in_terminal(
                lambda: os.execvpe("bash", ["bash", "-c", script], self.environment())
            )
        words = shlex.split(command)[1:]
        return self._in_terminal(lambda: run_here(words, self.environment()))

    def _in_terminal(self, run: object) -> tuple[int, str]:
        pid, terminal = pty.fork()
        if pid == 0:  # pragma: no cover - another process
            os.chdir(self.home)
            run()  # type: ignore[operator]
            os._exit(99)
        seen = b""
        deadline = time.monotonic() + COMMAND
        try:
            while True:
                ready, _, _ = select.select(
                    [terminal], [], [], max(0.0, deadline - time.monotonic())
                )
                if not ready:
                    os.kill(pid, signal.SIGKILL)
                    seen += b"\n(no end within the time)"
                    break
                try:
                    data = os.read(terminal, 65536)
                except OSError:
                    break  # the terminal's other end is closed
                if not data:
                    break
                seen += data
        finally:
            os.close(terminal)
        _, status = os.waitpid(pid, 0)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode("utf-8", "replace"))
        return os.waitstatus_to_exitcode(status), text.replace("\r", "")


def run_here(words: list[str], environment: dict[str, str]) -> None:  # pragma: no cover
    """Run the program in this forked process: the same code, without the time of its imports."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin, sys.stdout, sys.stderr = (
            open(0, closefd=False),  # noqa: SIM115
            open(1, "w", encoding="utf-8", closefd=False, buffering=1),  # noqa: SIM115
            open(2, "w", encoding="utf-8", closefd=False, buffering=1),  # noqa: SIM115
        )
        from node.cli.main import cli

        cli(words, prog_name="exchange-node")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def load_commands() -> None:
    """Import what `run_here` needs, once."""
    from importlib import import_module

    from node.cli.main import COMMANDS

    for where in COMMANDS.values():
        import_module(where.partition(":")[0])
    import_module("node.cli.order_check")


@contextmanager
def typists(names: list[str], directory: Path, instruments: str) -> Iterator[dict[str, Typist]]:
    """Operators with nodes that see each other, but for C, which has `instruments` of its own."""
    load_commands()
    found = {name: Typist(name, directory / name) for name in names}
    together = [typist for typist in found.values() if typist.name != ALONE]
    try:
        for typist in found.values():
            typist.start(together[0].p2p, instruments if typist.name == ALONE else "")
            if typist is together[0]:
                typist.ready()
        for typist in found.values():
            typist.ready()
        until(lambda: all(t.status().nodes_present == len(together) for t in together), START)
        yield found
    finally:
        for typist in found.values():
            typist.stop()


def until(condition: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():  # type: ignore[operator]
                return True
        except ClientError:
            pass
        time.sleep(0.03)
    return False


def type_all(found: dict[str, Typist], typed: list[Example]) -> Iterator[tuple[Example, int, str]]:
    """Type the examples in their order; the nodes come to agree before another person goes on."""
    last = None
    for example in typed:
        if last not in (None, example.node):
            until(lambda: settled(found), QUIET)
        last = example.node
        code, output = found[example.node].type(example.command)
        yield example, code, output


def settled(found: dict[str, Typist]) -> bool:
    states = [typist.state() for typist in found.values() if typist.name != ALONE]
    return len({state[0] for state in states}) == 1 and not any(state[1] for state in states)
