"""docs/troubleshooting.md has every error text of start, journal and connection, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.documents.examples import ROOT
from tests.documents.problem_table import PAGE, written

ERRORS = frozenset(
    [
        "AttachRefused",
        "HistoryError",
        "InstrumentsFileError",
        "JournalError",
        "NoNode",
        "NodeUnreachable",
        "NotANode",
        "PortTaken",
        "StartError",
        "TlsError",
        "UntrustedNode",
    ]
)
VALUE = "…"
LEAST = 8  # letters that a text has of its own; one with fewer passes on another's
TEXT_HELPERS = frozenset(
    {
        "node/annexes/grenache/run_grape.py:_bind_text",
        "node/daemon/run_node.py:_bind_text",
        "node/daemon/run_node.py:_directory_text",
        "node/annexes/recovery/run_recovery.py:_missing_text",
        "node/annexes/export/sinks.py:missing_package",
    }
)
# Texts of an instruments file name file, entry and field; the page has one line for all of them.
OWN_WORDS = ("exchange/model/instruments.py",)


def text_of(node: ast.expr) -> str:
    """A text as the code has it, with … for values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(v) if isinstance(v, ast.Constant) else VALUE for v in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return VALUE


def texts_in(path: Path) -> Iterator[tuple[str, str]]:
    """Error texts of a module with their places; also those that helpers make."""
    place = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        found: list[ast.expr] = []
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found = [node.args[0]] if name in ERRORS else []
        elif isinstance(node, ast.FunctionDef) and f"{place}:{node.name}" in TEXT_HELPERS:
            found = [n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value]
        for each in found:
            text = text_of(each)
            if len(re.sub(r"[^a-zA-Z]", "", text)) >= LEAST and place not in OWN_WORDS:
                yield f"{place}:{each.lineno}", text


@cache
def texts() -> dict[str, str]:
    modules = [p for room in ("node", "exchange") for p in sorted((ROOT / room).rglob("*.py"))]
    return dict(pair for module in modules for pair in texts_in(module))


@cache
def listed() -> list[str]:
    """The messages of the page."""
    page = PAGE.read_text("utf-8").partition("<!-- codes -->")[0]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def fits(message: str, text: str) -> bool:
    parts = [re.escape(part) for part in message.split(VALUE)]
    return re.search(".*".join(parts), text, re.DOTALL) is not None


def test_every_error_text_has_a_line() -> None:
    assert len(texts()) > 50
    missing = {
        place: text
        for place, text in texts().items()
        if not any(fits(message, text) for message in listed())
    }
    assert missing == {}


def test_every_line_is_of_an_error_text() -> None:
    others = "\n".join(
        (ROOT / name).read_text("utf-8")
        for name in (
            "exchange/engine/engine.py",
            "exchange/journal/journal.py",
            "node/annexes/export/export_part.py",
            "node/cli/commands/worker_command.py",
        )
    )
    unknown = [
        message
        for message in listed()
        if not any(fits(message, text) for text in texts().values())
        and not any(part.strip() in others for part in message.split(VALUE) if part.strip())
    ]
    assert unknown == []


def test_the_codes_are_those_of_the_api() -> None:
    page = PAGE.read_text("utf-8")
    assert written(page) == page, "run: python -m tests.documents.problem_table"
