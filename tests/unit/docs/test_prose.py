"""Docstrings, comments and messages of the packages are in plain terms."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import PACKAGES, ROOT, modules, riddles, source

# Left: a word of the time before the glossary. Right: what to write instead.
BANNED = {
    "anybody": "any node, any client",
    "asker": "requester",
    "askers": "requesters",
    "everybody": "all nodes, all clients",
    "hear": "receive, get an answer",
    "heard": "received, answered",
    "hears": "receives, is called with",
    "nobody": "no node, no client",
    "so many": "this many, a number of",
    "somebody": "another node, a client",
    "told": "notified, sent, published",
    "whoever": "the owner, the caller, its readers",
}
WORDS = re.compile(rf"(?<![`\w.])({'|'.join(BANNED)})(?![`\w])", re.IGNORECASE)
LIKELY = re.compile("|".join(BANNED).replace(" ", r"\W+"), re.IGNORECASE)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, docstrings and texts of three words and more, with their lines, of a module with a likely word."""
    code = source(path)
    if not LIKELY.search(code):
        return  # parsing takes a while
    for node in ast.walk(ast.parse(code)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and len(text.split()) >= 3:
            yield node.lineno, text
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("package", PACKAGES)
def test_prose_of_a_package_has_no_private_words(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: '{word}', write for example: {BANNED[word.lower()]}"
        for path in modules(ROOT / package)
        for line, text in prose(path)
        for word in WORDS.findall(text)
    ]
    assert found == []


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_docstring_begins_with_a_question_word(folder: str) -> None:
    old = ROOT / "tests" / "fixtures"  # modules of earlier versions stay as they are
    assert riddles([path for path in modules(ROOT / folder) if old not in path.parents]) == []


def test_private_words_are_found_in_comments_docstrings_and_messages(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""The readers are told."""\nx = 1  # nobody asks\ny = "Whoever is first"\n')
    found = [word for _, text in prose(module) for word in WORDS.findall(text)]
    assert sorted(found, key=str.lower) == ["nobody", "told", "Whoever"]
