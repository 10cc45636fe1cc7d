"""The walk-through of docs/api.md, a bot that trades against another node, run as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bitfinex_world import IGNORED
from processes import ROOT, SETTINGS, environment, eventually

from tests.ports import free_port

pytestmark = [*IGNORED]


def blocks(heading: str) -> list[str]:
    """The indented blocks of a section."""
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    section = text.split(f"### {heading}\n")[1].split("\n### ")[0]
    found: list[str] = []
    inside = False
    for line in section.splitlines():
        if line.startswith("    "):
            found += [] if inside else [""]
            found[-1] += f"{line[4:]}\n"
        inside = line.startswith("    ")
    return found


def test_a_bot_in_ten_lines(tmp_path: Path) -> None:
    commands, bot, printed = blocks("A bot in ten lines")
    assert len(bot.splitlines()) == 10
    for port in ("3000", "8300", "3100", "8400"):  # what is free here
        free = str(free_port())
        commands, bot = (re.sub(rf"\b{port}\b", free, text) for text in (commands, bot))
    (tmp_path / "bot.py").write_text(bot)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, options in (("exchange-node", "-m node.cli.main "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {options}"$@"\n')
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    surroundings = {**environment(**SETTINGS), "PATH": path}
    log = (tmp_path / "nodes.log").open("wb")
    nodes: list[subprocess.Popen[bytes]] = []

    def run(command: str) -> str | None:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=tmp_path,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:  # the nodes are still starting, or the offer is on its way
            log.write(done.stderr.encode())
            return None
        return done.stdout or " "

    output = ""
    try:
        for command in commands.splitlines():
            if command.endswith("&"):
                started = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command.removesuffix('&')}"],
                    cwd=tmp_path,
                    env=surroundings,
                    stdout=log,
                    stderr=log,
                )
                nodes.append(started)
            else:
                output = eventually(lambda command=command: run(command), what=command)  # type: ignore[misc]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
        log.close()
    assert output == printed, (tmp_path / "nodes.log").read_text("utf-8", "replace")
