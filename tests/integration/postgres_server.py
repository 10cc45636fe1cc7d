"""A PostgreSQL server of a test's own: its binaries are the system's, its data a temporary directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from tests.ports import free_port

_DEBIAN = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """Return the directory of the server's programs; None where it is not installed."""
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return None if there is None else Path(there).parent


def _children(parent: int) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if _parent(path) == parent
    ]


def _parent(path: Path) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(path.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    return 0


class PostgresServer:
    """Listens on 127.0.0.1. Root cannot run it, so the data then belong to the user `postgres`."""

    def __init__(self) -> None:
        bin_ = binaries()
        assert bin_ is not None, "PostgreSQL is not installed"
        self._bin = bin_
        # Not below pytest's directories, which are closed to other users whenever a run begins.
        self._directory = TemporaryDirectory(prefix="exchange-node-postgres-")
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        self._data = directory / "postgres"
        self._data.mkdir(mode=0o700)
        self._user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._data, "postgres", "postgres")
            self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._log = directory / "postgres.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "desk", "--auth=trust", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://desk@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(self._bin / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd="/", timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        self._launch()
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self._log.read_text("utf-8", "replace")[-4000:]
                time.sleep(0.05)
                if self._process is None or self._process.poll() is not None:
                    self._launch()  # its shared memory was still held by processes that were being killed

    def _launch(self) -> None:
        command = [*self._user, str(self._bin / "postgres"), "-D", str(self._data), "-k", ""]
        command += ["-h", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd="/", stderr=log, start_new_session=True)

    def kill(self) -> None:
        """As by kill -9 of the whole server."""
        if self._process is not None:
            for pid in (self._process.pid, *_children(self._process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop it at once, in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def close(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        self._directory.cleanup()

    def ask(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with psycopg.connect(self.url) as db:
            return db.execute(text.encode(), values).fetchall()

    def execute(self, text: str) -> None:
        """Run a statement."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(text.encode())
