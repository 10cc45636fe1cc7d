"""A minimal Debian in a folder, with one ordinary user, who sits at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.bare.machine import WayToTheIndex
from tests.bare.readme_lines import ROOT

USER: Final = "newcomer"
USER_ID: Final = 1000
HOME: Final = Path("/home") / USER
CHECKOUT: Final = HOME / "exchange-node"
MAKING: Final = 600.0  # seconds
ENDING: Final = 5.0
CTRL_C: Final = b"\x03"


@dataclass
class BareRoot:
    """The folder, and what a command in it has of this machine. Mounts are made in a namespace of
    each command alone, so that none is left, however it ends."""

    folder: Path
    way: WayToTheIndex

    def prepare(self) -> None:
        """Make the user and his copy of this checkout; bring in the way to the package index."""
        for path in self.way.files:
            copy = self._inside(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            shutil.copy(path, copy)
        for path in self.way.folders:
            self._inside(path).mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["chroot", self.folder, "useradd", "-m", "-u", str(USER_ID), "-s", "/bin/bash", USER],
            check=True,
        )
        checkout = self._inside(CHECKOUT)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if os.path.lexists(ROOT / name):  # else deleted, but not committed yet
                copy = checkout / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy, follow_symlinks=False)
        subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", checkout], check=True)

    def _inside(self, path: Path) -> Path:
        return self.folder / path.relative_to("/")

    @property
    def home(self) -> Path:
        return self._inside(HOME)

    @contextmanager
    def typed(
        self, line: str, output: IO[bytes], settings: Mapping[str, str] | None = None
    ) -> Iterator[Terminal]:
        """Type a line at a terminal in the checkout. What runs is ended when this is left."""
        terminal = Terminal(self._command(line, settings or {}), output)
        try:
            yield terminal
        finally:
            terminal.close()

    def _command(self, line: str, settings: Mapping[str, str]) -> list[str]:
        bare = f"{self.folder}"
        steps = [
            f"mount -t proc proc {bare}/proc",
            f"mount --rbind /dev {bare}/dev",
            *(f"mount --bind -o ro {p} {self._inside(p)}" for p in self.way.folders),
            'exec "$@"',
        ]
        environment = {
            "HOME": str(HOME),
            "USER": USER,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **self.way.environment,
            **settings,
        }
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "sh", "-ec", "\n".join(steps), "sh",
            "chroot", f"--userspec={USER_ID}:{USER_ID}", "--groups=", bare,
            "env", "-i", *(f"{k}={v}" for k, v in environment.items()),
            "bash", "-c", f"cd {CHECKOUT}\n{line}",
        ]  # fmt: skip


class Terminal:
    """A command at a pseudo-terminal; what it prints is copied to a file."""

    def __init__(self, command: Sequence[str], output: IO[bytes]) -> None:
        self._output = output
        self._pid, self._fd = pty.fork()
        if self._pid == 0:  # pragma: no cover - another process
            with suppress(OSError):
                os.execvp(command[0], command)
            os._exit(127)
        self._code: int | None = None

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
        """Copy the output till the command has ended or `until` holds; the exit code, or None."""
        deadline = time.monotonic() + seconds
        while self._code is None and not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s")
            if not select.select([self._fd], [], [], 0.1)[0]:
                continue
            data = b""
            with suppress(OSError):  # the terminal's other end is closed
                data = os.read(self._fd, 65536)
            self._output.write(data)
            self._output.flush()
            if not data:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._fd, CTRL_C)

    def close(self) -> None:
        """End the command with all that it started: they share a process namespace."""
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            with suppress(OSError):  # when the last of them has let go of the terminal
                while select.select([self._fd], [], [], ENDING)[0] and os.read(self._fd, 65536):
                    pass
        os.close(self._fd)


@contextmanager
def bare_root(
    release: str, packages: Sequence[str], mirror: str, way: WayToTheIndex, *, keep: bool = False
) -> Iterator[BareRoot]:
    """A fresh minimal Debian with the packages, removed afterwards. It is unpacked from an archive in
    the system's directory for temporary files, which the first run makes."""
    archive = archive_of(release, packages, mirror)
    folder = Path(tempfile.mkdtemp(prefix=f"exchange-node-{release}-"))
    try:
        folder.chmod(0o755)
        subprocess.run(["tar", "-C", folder, "-xf", archive], check=True)
        root = BareRoot(folder, way)
        root.prepare()
        yield root
    finally:
        if keep:
            print(f"kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder)


def archive_of(release: str, packages: Sequence[str], mirror: str) -> Path:
    """Make the archive with debootstrap, unless it is there."""
    cache = Path(tempfile.gettempdir()) / "exchange-node-bare"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.geteuid():
        raise PermissionError(f"{cache} belongs to another user; remove it")
    archive = cache / f"{'-'.join([release, *packages])}.tar"
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as made:
                subprocess.run(
                    ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}",
                     release, f"{made}/root", mirror],
                    check=True, stdout=subprocess.DEVNULL, timeout=MAKING,
                )  # fmt: skip
                draft = Path(made) / "draft.tar"
                kept = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*"]
                command = ["tar", "-C", f"{made}/root", *kept, "-cf", draft, "."]
                subprocess.run(command, check=True)
                draft.rename(archive)
    return archive
