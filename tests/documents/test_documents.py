"""The documents' examples: each is a command that exists, and those with outputs print them."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from node.cli.main import cli
from tests.documents.__main__ import check
from tests.documents.examples import (
    ROOT,
    agrees,
    documents,
    examples,
    instruments,
    missing_programs,
    typed_lines,
    with_outputs,
)

TYPED = [path for path in documents() if examples(path.read_text("utf-8"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_command_in_a_document_can_be_typed(path: Path) -> None:
    for line in typed_lines(path.read_text("utf-8")):
        words = shlex.split(line.replace("...", ""))[1:]
        try:
            parse(cli, words)
        except click.exceptions.Exit:
            pass  # --help and --version
        except click.ClickException as error:
            if "does not exist" in error.format_message():
                continue  # the file of an example
            raise AssertionError(f"{path.name}: {line}: {error.format_message()}") from None


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Read a command line as the program does, without running it."""
    ctx = command.make_context(command.name, list(words), parent=parent)
    if isinstance(command, click.Group) and (rest := [*ctx._protected_args, *ctx.args]):
        name, inner, below = command.resolve_command(ctx, rest)
        assert inner is not None, name
        parse(inner, below, ctx)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", TYPED, ids=lambda path: path.name)
def test_examples_retyped_from_a_fresh_start_print_the_shown_output(path: Path) -> None:
    if missing := missing_programs(each.command for each in examples(path.read_text("utf-8"))):
        pytest.skip(f"{path.name} calls {', '.join(missing)}: not installed")
    assert check(path) == []


TEXT = """
Text.

    $ exchange-node orders
    order 1: TIME 2026-01-02 03:04:05.678Z

    B$ exchange-node peers
    $ exchange-node status
    first
    ...
    last

More.

    [BTC-USD]
    tick = "1"
"""


def test_examples_are_found_with_their_node_and_output() -> None:
    found = examples(TEXT)
    assert [(e.node, e.command, len(e.shown)) for e in found] == [
        ("A", "exchange-node orders", 1),
        ("B", "exchange-node peers", 0),
        ("A", "exchange-node status", 3),
    ]
    assert instruments(TEXT) == '[BTC-USD]\ntick = "1"\n'


def test_programs_that_the_examples_call_are_looked_for_before_they_are_typed() -> None:
    lines = [
        "nix-1 -d 'a | nix-2; nix-3'",
        "exchange-node orders --json | nix-4 -r '.[0]' && sleep 1; nix-5",
        "URL=$(nix-6 .url file)",
        'cat "x;nix-7 y"',
    ]
    assert missing_programs(lines) == ["nix-1", "nix-4", "nix-5", "nix-6"]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ([], "anything", True),
        (["at 2026-01-02 03:04:05.678Z"], "at 09:00:00.001Z\n", True),
        (["filled 0.2"], "filled 0.3\n", False),
        (["a", "...", "z"], "a\nb\nc\nz\n", True),
        (["a", "...", "z"], "a\nb\n", False),
    ],
)
def test_shown_output_is_compared_except_for_values_that_differ_in_each_run(
    shown: list[str], printed: str, same: bool
) -> None:
    assert agrees(shown, printed) is same


def test_an_output_that_differs_is_written_into_the_document() -> None:
    found = examples(TEXT)
    written = with_outputs(TEXT, [(found[0], "order 2: x\nsecond\n"), (found[1], "new\n")])
    assert "    order 2: x\n    second\n\n    B$ exchange-node peers\n    $" in written


def test_readme_is_among_the_documents() -> None:
    assert ROOT / "README.md" in documents()
