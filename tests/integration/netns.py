"""Two machines on one cable, as network namespaces joined by a veth pair.

    with namespace_pair() as (left, right):
        server = left.popen([sys.executable, "server.py"])
        client = right.popen([sys.executable, "client.py", left.address])

Needs root and `ip`; `why_no_namespaces()` says what is missing. Nothing outside the two namespaces is
changed. Leaving the context ends whatever was started by `popen` and removes both.
"""

import contextlib
import functools
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

END_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL


class Namespace:
    """One machine: `name` of the namespace, `address` of its end of the cable (IPv4, /24)."""

    def __init__(self, name: str, interface: str, address: str) -> None:
        self.name = name
        self.interface = interface
        self.address = address
        self._processes: list[subprocess.Popen[Any]] = []

    def command(self, args: Sequence[str]) -> list[str]:
        """`args` as they are run inside."""
        return ["ip", "netns", "exec", self.name, *args]

    def popen(
        self, args: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a program inside; `env` is added to the environment of this process. A signal sent
        to the result reaches the program (`ip netns exec` becomes it)."""
        process = subprocess.Popen(self.command(args), env={**os.environ, **(env or {})}, **options)
        self._processes.append(process)
        return process

    def end_processes(self) -> None:
        """SIGTERM, then SIGKILL, to what was started here and still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()


@functools.cache
def why_no_namespaces() -> str | None:
    """Reason for which namespaces cannot be made here; None when they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "the program `ip` (iproute2) is not installed"
    try:
        with namespace_pair():
            return None
    except RuntimeError as error:
        return f"network namespaces cannot be made here: {error}"


@contextlib.contextmanager
def namespace_pair(subnet: str = "10.77.77") -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with loopback and one cable; addresses `subnet`.1 and .2.

    Raises:
        RuntimeError: the system does not let us, in its words.
    """
    run = secrets.token_hex(3)
    ends = [
        Namespace(f"exn-{run}-{side}", f"exn{run}{side}", f"{subnet}.{number}")
        for number, side in enumerate("lr", start=1)
    ]
    left, right = ends
    with contextlib.ExitStack() as cleanup:
        for end in ends:
            _ip("netns", "add", end.name)
            cleanup.callback(_ip, "netns", "del", end.name, check=False)
            cleanup.callback(end.end_processes)
        # Made inside, so that the interfaces never show outside; they go with the namespaces.
        _ip(
            *("-n", left.name, "link", "add", left.interface, "type", "veth"),
            *("peer", "name", right.interface, "netns", right.name),
        )
        for end in ends:
            _ip("-n", end.name, "addr", "add", f"{end.address}/24", "dev", end.interface)
            _ip("-n", end.name, "link", "set", "lo", "up")
            _ip("-n", end.name, "link", "set", end.interface, "up")
        yield left, right


def _ip(*args: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise RuntimeError(f"`ip {' '.join(args)}`: {done.stderr.strip()}")
