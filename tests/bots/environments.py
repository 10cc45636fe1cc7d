"""Locked environments of their own for programs that are not to share the tests' one."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment(name: str, directory: Path | None = None) -> Path:
    """Make the environment that `NAME-requirements.lock` locks, unless it is made; return its programs.

    It is kept in the system's directory for temporary files, so that the next run finds it.
    """
    lock = HERE / f"{name}-requirements.lock"
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
            )
            stamp.write_text(wanted, "utf-8")
    return directory / "bin"
