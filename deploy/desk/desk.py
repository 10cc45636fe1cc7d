#!/usr/bin/env python3
"""A desk for a try, on this machine alone: two nodes, a standby of the first, a database and a bus.

    python deploy/desk/desk.py                 until Ctrl-C; everything is in ./desk
    python deploy/desk/desk.py --dir /srv/desk --port 9300

Needs exchange-node[nats,postgres], and of Debian: postgresql, nats-server. A part whose program is missing is left
out, with a line that names it. All parts listen on 127.0.0.1. There are no passwords: do not trade with this setup.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START: Final = 60.0  # s
STOP: Final = 20.0  # s
QUIET: Final = {
    "P2P_HOST": "127.0.0.1",
    "DISCOVERY_MDNS": "false",
    "DISCOVERY_GRENACHE": "false",
    "PORT_MAPPING": "false",
}


def program(name: str) -> str | None:
    """Return the path of a system's program; also of those that Debian keeps from PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        places = sorted(
            Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3])
        )
        found = str(places[-1]) if places else None
    return found


def exchange_node() -> list[str]:
    """Return the command line's program: that of this Python, or the installed one."""
    if importlib.util.find_spec("node") is not None:
        return [sys.executable, "-m", "node.cli.main"]
    found = shutil.which("exchange-node")
    if found is None:
        raise SystemExit(
            "exchange-node is not installed: pipx install 'exchange-node[nats,postgres]'"
        )
    return [found]


def answers(port: int) -> bool:
    """Report if something listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@dataclass
class Part:
    """A process of the desk. `port`: the one that it listens on when it is ready. `id_wanted`: it is ready when it
    has logged the id of its machine. `taken_over`: the desk goes on without it.
    """

    name: str
    command: list[str]
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGINT
    id_wanted: bool = False
    taken_over: bool = False
    id: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self, logs: Path) -> None:
        """Start the process and wait until it listens."""
        if answers(self.port):
            raise SystemExit(f"port {self.port} of the {self.name} is taken: --port chooses others")
        log = logs / f"{self.name.replace(' ', '-')}.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(  # noqa: S603 - own command
                self.command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **self.settings},
                start_new_session=True,
            )
        deadline = time.monotonic() + START
        while not self._ready(log):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the {self.name} did not start, see {log}")
            time.sleep(0.1)

    def _ready(self, log: Path) -> bool:
        if not self.id_wanted:
            return answers(self.port)
        found = re.findall(r"standby ([a-z2-7]{32}) of ", log.read_text("utf-8", "replace"))
        self.id = found[-1] if found else ""
        return bool(found)

    @property
    def ended(self) -> bool:
        """Report if it ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def end(self) -> None:
        """Stop the process in order, or by force after some time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.stop)
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Desk:
    """The parts, in the order of their start."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.missing: list[str] = []
        self.parts: list[Part] = []
        self.settings = dict(QUIET)
        self._database(port + 10)
        self._bus(port + 11)
        standby = self._standby(port)
        if standby is None or standby.id_wanted:
            self._node("node a", port, ["--bootstrap", f"127.0.0.1:{port + 5}"], standby)
        else:
            self.missing.append("node a: its standby has taken over, and is the node now")
        known = [f"127.0.0.1:{port + 1}", *([f"127.0.0.1:{port + 3}"] if standby else [])]
        self._node("node b", port + 4, [word for at in known for word in ("--bootstrap", at)])

    def _database(self, port: int) -> None:
        server, initdb = program("postgres"), program("initdb")
        if server is None or initdb is None:
            self.missing.append("database: apt install postgresql")
            return
        data = self.directory / "database"
        user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if not (data / "PG_VERSION").exists():
            data.mkdir(mode=0o700, exist_ok=True)
            if user:
                shutil.chown(data, "postgres", "postgres")
            options = ["-D", str(data), "-U", "desk", "--auth=trust", "-E", "UTF8"]
            made = subprocess.run(  # noqa: S603 - own command
                [*user, initdb, *options], cwd="/", capture_output=True, text=True
            )
            if made.returncode:
                raise SystemExit(f"the database could not be made: {made.stderr.strip()}")
        command = [*user, server, "-D", str(data), "-k", "", "-h", "127.0.0.1", "-p", str(port)]
        self.parts.append(Part("database", command, port))
        self.settings["EXPORT_POSTGRES"] = f"postgresql://desk@127.0.0.1:{port}/postgres"

    def _bus(self, port: int) -> None:
        server = program("nats-server")
        if server is None:
            self.missing.append("bus: apt install nats-server")
            return
        store = str(self.directory / "bus")
        command = [server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", store]
        self.parts.append(Part("bus", command, port))
        self.settings["EXPORT_NATS"] = f"nats://127.0.0.1:{port}"

    def _standby(self, port: int) -> Part | None:
        """Add the standby of node a, which listens at `port`; its lease is in the database."""
        url = self.settings.get("EXPORT_POSTGRES")
        if url is None:
            self.missing.append("standby: it needs the database")
            return None
        self._lease = {"LEASE_POSTGRES": url, "JOURNAL_SYNC": "full"}
        data = self.directory / "standby"
        command = [*exchange_node(), "standby", "--of", f"127.0.0.1:{port + 6}"]
        command += ["--data-dir", str(data), "--api-port", str(port + 2)]
        command += ["--p2p-port", str(port + 3), "--bootstrap", f"127.0.0.1:{port + 5}"]
        settings = {**self.settings, **self._lease}
        part = Part("standby", command, port + 2, settings, id_wanted=not self._replaced())
        self.parts.append(part)
        return part

    def _replaced(self) -> bool:
        """Report if the standby has taken over, in this run or an earlier one."""
        try:
            role = json.loads((self.directory / "standby" / "standby.json").read_bytes())["role"]
        except (OSError, ValueError, KeyError):
            return False
        return bool(role == "primary")

    def _node(self, name: str, port: int, options: list[str], standby: Part | None = None) -> None:
        data = self.directory / name.replace(" ", "-")
        command = [*exchange_node(), "start", "--data-dir", str(data)]
        command += ["--api-port", str(port), "--p2p-port", str(port + 1), *options]
        part = Part(name, command, port, dict(self.settings))
        if standby is not None:
            part.settings |= {**self._lease, "STANDBY_LISTEN": f"127.0.0.1:{port + 6}"}
            part.taken_over = True
        self.parts.append(part)

    def start(self) -> None:
        """Start every part, each when those before it are ready."""
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        for part in self.parts:
            if part.taken_over:
                part.settings["STANDBY_ALLOW"] = next(p.id for p in self.parts if p.id_wanted)
            part.start(logs)
            print(f"{part.name:10} 127.0.0.1:{part.port}", flush=True)

    def stop(self) -> None:
        """Stop every part, the last one first."""
        for part in reversed(self.parts):
            part.end()

    def hints(self) -> list[str]:
        """Return commands for a first look."""
        first = "standby" if self._replaced() else "node-a"
        a, b = (self.directory / name for name in (first, "node-b"))
        lines = [
            f"exchange-node order sell BTC-USD 0.5 @ 30000 --data-dir {a}",
            f"exchange-node order buy BTC-USD 0.2 @ 30000 --data-dir {b}",
            f"exchange-node status --data-dir {a}",
        ]
        if url := self.settings.get("EXPORT_POSTGRES"):
            lines.append(f"psql {url} -c 'TABLE exchange.own_trades'")
        if url := self.settings.get("EXPORT_NATS"):
            lines.append(f"nats --server {url} sub 'exchange.market.>'")
        if part := next((p for p in self.parts if p.taken_over and p.process), None):
            standby = self.directory / "standby"
            lines.append(f"exchange-node standby status --data-dir {standby}")
            lines.append(
                f"kill -9 {part.process.pid if part.process else 0}    and look at the standby ten seconds later:"
            )
            lines.append(f"exchange-node orders --data-dir {standby}")
        return lines

    def ended(self) -> list[str]:
        """Return the parts that ended by themselves and that nothing replaces."""
        return [part.name for part in self.parts if part.ended and not part.taken_over]


def wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    while not condition():
        time.sleep(0.2)


def main() -> int:
    text, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=text, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, default=Path("desk"), help="data of all parts (./desk)")
    parser.add_argument("--port", type=int, default=8300, help="first of 12 ports (8300)")
    arguments = parser.parse_args()
    directory = arguments.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signal_, _: asked.append(signal_))
    desk = Desk(directory, arguments.port)
    try:
        desk.start()
        for line in desk.missing:
            print(f"left out   {line}")
        print("\nTry, in another terminal:")
        for line in desk.hints():
            print(f"  {line}")
        print("Ctrl-C stops the desk; its data stay.", flush=True)
        wait(lambda: bool(asked or desk.ended()))
        ended = desk.ended()
        if not asked and ended:
            print(f"ended by itself: {', '.join(ended)}; see {directory / 'logs'}", file=sys.stderr)
            return 1
        return 0
    finally:
        desk.stop()


if __name__ == "__main__":
    sys.exit(main())
