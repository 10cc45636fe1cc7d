"""Examples of the documents: found, typed at real nodes, compared with what the documents show.

An example is an indented block with lines such as `$ exchange-node orders`, each followed by what it
prints. `A$` and `B$` name the node whose operator types. What is compared is normalised, in the
document and in the output alike, by `NORMAL` alone. A command without output below it has to succeed;
`...` stands for any lines.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROMPT: Final = re.compile(r"^    (?P<node>[A-Z]?)\$ (?P<command>.*)$")
CALLED: Final = re.compile(r"(?:^|[|;&(])\s*([a-z][\w.-]*)(?=\s|$)")
INDENT: Final = "    "

# What differs from run to run: times, addresses with free ports, take numbers, milliseconds, secrets.
NORMAL: Final = (
    (re.compile(r"(\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d\.\d{3,6}Z"), "TIME"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\b17\d{14}\b"), "NUMBER"),
    (re.compile(r"\b\d+\.\d+ ms"), "N ms"),
    (re.compile(r"\b[A-Za-z0-9_-]{43}\b"), "SECRET"),
    (re.compile(r"up \d+ s\b"), "up N s"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
    (re.compile(r"\n\n+"), "\n"),  # blank lines separate examples too
)


@dataclass
class Example:
    """A command and the lines below it; `line` is where it stands, from 0."""

    line: int
    node: str
    command: str
    shown: list[str] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The line after the example."""
        return self.line + 1 + len(self.shown)


def examples(text: str) -> list[Example]:
    """The examples of a document, in their order."""
    found: list[Example] = []
    open_one: Example | None = None
    blank = 0
    for number, line in enumerate(text.splitlines()):
        match = PROMPT.match(line)
        if match:
            open_one = Example(number, match["node"] or "A", match["command"])
            found.append(open_one)
            blank = 0
        elif open_one is not None and not line.strip():
            blank += 1
        elif open_one is not None and line.startswith(INDENT):
            open_one.shown += [""] * blank + [line[len(INDENT) :]]
            blank = 0
        else:
            open_one = None
    return found


def missing_programs(lines: Iterable[str]) -> list[str]:
    """Programs that lines of a shell call and this machine lacks."""
    bare = [re.sub(r"'[^']*'|\"[^\"]*\"", "", line) for line in lines]
    called = {name for line in bare for name in CALLED.findall(line)} - {"exchange-node"}
    return sorted(name for name in called if shutil.which(name) is None)


def normal(lines: str) -> str:
    """The text with what differs from run to run replaced."""
    for pattern, word in NORMAL:
        lines = pattern.sub(word, lines)
    return lines.strip("\n")


def agrees(shown: list[str], printed: str) -> bool:
    """Report if the document shows what was printed. No lines in the document: anything."""
    if not shown:
        return True
    wanted, got = normal("\n".join(shown)), normal(printed)
    if "..." not in shown:
        return wanted == got
    pattern = ".*".join(
        re.escape(part) for part in re.split(r"^\.\.\.$", wanted, flags=re.MULTILINE)
    )
    return re.fullmatch(pattern, got, re.DOTALL) is not None


def with_outputs(text: str, printed: list[tuple[Example, str]]) -> str:
    """The document with the outputs that differ replaced by what was printed."""
    lines = text.splitlines()
    for example, output in reversed(printed):
        if example.shown and not agrees(example.shown, output):
            new = [f"{INDENT}{line}".rstrip() for line in output.strip("\n").splitlines()]
            lines[example.line + 1 : example.end] = new
    return "\n".join(lines) + "\n"


def instruments(text: str) -> str:
    """The instruments file that a document shows: its indented block that begins with [BTC-USD]."""
    match = re.search(r"^    \[BTC-USD\]\n(    .*\n)+", text, re.MULTILINE)
    return "" if match is None else re.sub(r"^    ", "", match[0], flags=re.MULTILINE)


def typed_lines(text: str) -> Iterator[str]:
    """Commands of `exchange-node` in a document, with or without a prompt, comments cut off."""
    for line in text.splitlines():
        if not line.startswith(INDENT):
            continue
        command = re.sub(r"^[A-Z]?\$ ", "", line.strip())
        command = re.sub(r"^([A-Z_]+=\S+ )+", "", command)
        if command.startswith("exchange-node "):
            yield re.split(r"\s{2,}|\s+#|\s*[|;&>]", command)[0]


def documents() -> list[Path]:
    """README and the documents in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
