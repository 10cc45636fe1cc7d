"""Lines for a newcomer to copy, found in the README: packages that a bare system lacks, and two commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = re.compile(r"`sudo apt install ([^`]+)`")
LINE = re.compile(r"^    (python3 -m venv .*)$", re.MULTILINE)


@dataclass(frozen=True)
class ReadmeLines:
    """`start` ends with a node that runs, `tests` with all tests."""

    packages: tuple[str, ...]
    start: str
    tests: str


def readme_lines(text: str) -> ReadmeLines:
    """Find the lines in the text of a README."""
    packages = PACKAGES.search(text)
    starts = [line for line in LINE.findall(text) if line.endswith("exchange-node start")]
    tests = [line for line in LINE.findall(text) if ".venv/bin/pytest" in line]
    if packages is None or len(starts) != 1 or len(tests) != 1:
        raise ValueError(
            "README.md has to name `sudo apt install ...` and show one line that starts a node and "
            f"one that runs the tests, each beginning with `python3 -m venv`, not {starts + tests}"
        )
    return ReadmeLines(tuple(packages[1].split()), starts[0], tests[0])


def bot_block(text: str) -> tuple[str, str]:
    """The block to paste in docs/api.md that ends with a bot, and what the bot prints."""
    section = text.split("### A bot in ten lines\n")[1].split("\n### ")[0]
    found: list[str] = []
    inside = False
    for line in section.splitlines():
        if line.startswith("    "):
            found += [] if inside else [""]
            found[-1] += f"{line[4:]}\n"
        inside = line.startswith("    ")
    block, printed = found
    return block, printed
