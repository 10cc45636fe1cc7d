"""Groups of commands, and options that several commands have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from node.cli.client_session import node_options
from node.cli.times import moment

T = TypeVar("T")

# An amount of -5 then reaches the command, which explains the error.
LENIENT: Final = {"ignore_unknown_options": True}


class Group(click.Group):
    """Lists its commands as they were added, and suggests one for a slip of the pen."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help" and "help" not in self.commands:
            root = ctx.find_root()
            assert isinstance(root.command, click.Group)  # noqa: S101 - this is a command below it
            below = ctx.command_path.removeprefix(root.command_path).split()
            return "help", root.command.get_command(root, "help"), [*below, *args[1:]]
        if args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0].lower(), self.commands, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            known = ", ".join(self.commands)
            ctx.fail(f"{ctx.command_path} has no command {args[0]!r}.{hint} It has {known}.")
        return super().resolve_command(ctx, args)


def check_words(words: tuple[str, ...] | list[str]) -> None:
    """Refuses unknown options, which a lenient command gets as words."""
    ctx = click.get_current_context()
    for word in words:
        if word.startswith("--"):
            known = [
                name for param in ctx.command.params for name in param.opts if name.startswith("--")
            ]
            close = difflib.get_close_matches(word.partition("=")[0], known, n=2)
            raise click.NoSuchOption(word, possibilities=close, ctx=ctx)


def wrong_text(error: ValueError) -> click.UsageError:
    """The error of typed text. A command that it ends with is for the same node."""
    text = str(error)
    if re.search(r"exchange-node [a-z][^;,()]*$", text):
        text += node_options()
    return click.UsageError(text, ctx=click.get_current_context())


def account_option(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --account, for the operator."""
    return click.option(
        "--account",
        metavar="NAME",
        help="Of this account, by name or number.  [default: the house, or your key's account]",
    )(command)


def limit_option(command: Callable[..., T]) -> Callable[..., T]:
    return click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=100,
        show_default=True,
        help="Maximum number of results, newest first.",
    )(command)


def span_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --start and --end."""
    command = click.option("--end", metavar="TIME", callback=moment, help="Not after.")(command)
    return click.option(
        "--start",
        metavar="TIME",
        callback=moment,
        help="Not before: 2026-01-02T03:04:05Z, or milliseconds.",
    )(command)


def upper(name: str | None) -> Any:
    """A market or asset as the node writes it."""
    return None if name is None else name.upper()
