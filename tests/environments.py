"""Locked environments of their own for programs that are not to share the tests' one."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tempfile
import venv
from pathlib import Path

SUFFIX = "-requirements.lock"
INSTALL_TIMEOUT = 600.0  # seconds


def environment(lock: Path, directory: Path | None = None) -> Path:
    """Make the environment that `lock` (NAME-requirements.lock) lists, unless it is made; return the
    directory of its programs.

    It is kept in the system's directory for temporary files, so that the next run finds it.
    """
    name = lock.name.removesuffix(SUFFIX)
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    directory = directory or Path(tempfile.gettempdir()) / f"exchange-node-{name}"
    directory.mkdir(parents=True, exist_ok=True)
    stamp = directory / "installed-from"
    with (directory / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            print(f"installing {name} ...", flush=True)
            venv.create(directory, with_pip=True, clear=False)
            subprocess.run(
                [directory / "bin" / "pip", "install", "-q", "-r", lock],
                check=True,
                stderr=subprocess.DEVNULL,
                timeout=INSTALL_TIMEOUT,
            )
            stamp.write_text(wanted, "utf-8")
    return directory / "bin"
