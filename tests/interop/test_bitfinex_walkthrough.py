"""The bot of docs/api.md, pasted into a shell as it stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.bare.readme_lines import bot_block
from tests.integration.processes import ROOT, SETTINGS, environment

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q ccxt"  # runs in tests/bare


def program(path: Path, options: str) -> None:
    """A program of this environment, by another name."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {options}"$@"\n')
    path.chmod(0o755)


def paste(block: str, directory: Path, programs: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a shell that reads the block from its terminal."""
    path = f"{programs}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash"],
        cwd=directory, env={**environment(**SETTINGS), "PATH": path, "HOME": str(directory)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = shell.communicate(block, timeout=90)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the node goes on after the block
    return shell.returncode, output, errors


def test_a_bot_in_ten_lines(tmp_path: Path) -> None:
    block, printed = bot_block((ROOT / "docs" / "api.md").read_text("utf-8"))
    assert len(block.split("<<'END'\n")[1].split("END\n")[0].splitlines()) == 10
    assert block.count(INSTALL) == 1
    program(tmp_path / "bin" / "exchange-node", "-P -m node.cli.main ")
    program(tmp_path / "bin" / "program-of-the-bot", "")
    installed = "mkdir -p .venv/bin && ln -sf ../../../bin/program-of-the-bot .venv/bin/python"
    code, output, errors = paste(block.replace(INSTALL, installed), tmp_path, tmp_path / "bin")
    assert (code, output.endswith(printed)) == (0, True), f"{output}\n{errors}"


def test_the_block_ends_where_the_program_is_not_found(tmp_path: Path) -> None:
    block, _ = bot_block((ROOT / "docs" / "api.md").read_text("utf-8"))
    program(tmp_path / "bin" / "exchange-node", "-c 'raise SystemExit(127)' ")
    code, output, _ = paste(block.replace(INSTALL, "true"), tmp_path, tmp_path / "bin")
    assert (code, output) == (127, "")
