"""`manual`: manual pages, made from the help of the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from node.version import VERSION

SECTION: Final = 1
NAME: Final = "exchange-node"
_EXAMPLES: Final = "Examples:"


@click.command()
@click.argument("name", metavar="[COMMAND]", required=False)
@click.option(
    "--write",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write all pages there, as man finds them.",
)
@click.pass_context
def manual(ctx: click.Context, name: str | None, directory: Path | None) -> None:
    """Print a manual page, or write all of them for 'man'.

    \b
    Examples:
      exchange-node manual --write ~/.local/share/man/man1     then: man exchange-node
      exchange-node manual order | man -l -
    """
    root = ctx.find_root().command
    found = dict(pages(root))
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        for title, text in found.items():
            (directory / f"{title}.{SECTION}").write_text(text, "utf-8")
        click.echo(f"{len(found)} pages are in {directory}; man exchange-node shows the first")
        return
    title = f"{NAME}-{name}" if name else NAME
    if title not in found:
        raise click.BadParameter(f"there is no command {name!r}", param_hint="COMMAND")
    click.echo(found[title], nl=False)


def pages(root: click.Command) -> Iterator[tuple[str, str]]:
    """All pages as (name, roff): the program's, and one for each of its commands."""
    from node.cli.main import COMMANDS, EPILOG

    with click.Context(root, info_name=NAME) as ctx:
        lines = _page(ctx, root, NAME)
        lines.append(".SH COMMANDS")
        commands = []
        for name, where in COMMANDS.items():
            module, _, attribute = where.partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            commands.append((name, command))
            lines += [".TP", f"\\fB{_roff(name)}\\fR", _roff(command.get_short_help_str(200))]
            lines.append(f"See \\fB{NAME}\\-{_roff(name)}\\fR({SECTION}).")
        lines += [".SH EXIT STATUS", ".nf", *map(_roff, EPILOG.splitlines()[2:]), ".fi"]
        yield NAME, "\n".join(lines) + "\n"
        for name, command in commands:
            with click.Context(command, info_name=name, parent=ctx) as inner:
                body = _page(inner, command, f"{NAME}-{name}")
                for path, each, below in _below(inner, command):
                    body += [f".SH {_roff(path.upper())}", *_text(each), *_options(below, each)]
                yield f"{NAME}-{name}", "\n".join(body) + "\n"


def _below(
    ctx: click.Context, command: click.Command
) -> Iterator[tuple[str, click.Command, click.Context]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            if inner is not None and not inner.hidden:
                with click.Context(inner, info_name=name, parent=ctx) as below:
                    yield below.command_path.removeprefix(f"{NAME} "), inner, below
                    yield from _below(below, inner)


def _page(ctx: click.Context, command: click.Command, title: str) -> list[str]:
    summary = command.get_short_help_str(200).rstrip(".")
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    return [
        f'.TH "{_roff(title.upper())}" {SECTION} "" "{NAME} {VERSION}" "User commands"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(summary)}",
        ".SH SYNOPSIS",
        f"\\fB{_roff(usage)}\\fR",
        ".SH DESCRIPTION",
        *_text(command),
        *([".SH OPTIONS"] if _records(ctx, command) else []),
        *_options(ctx, command),
    ]


def _text(command: click.Command) -> list[str]:
    """The help of a command: paragraphs, then its examples as they are typed."""
    text, _, examples = (command.help or "").replace("\r", "").partition(_EXAMPLES)
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\b", "").strip()):
        lines += [".PP", *(_roff(line.strip()) for line in paragraph.splitlines())]
    if examples.strip():
        lines += [".PP", "Examples:", ".PP", ".nf", ".RS"]
        lines += [_roff(line.strip()) for line in examples.strip().splitlines()]
        lines += [".RE", ".fi"]
    return lines


def _records(ctx: click.Context, command: click.Command) -> list[tuple[str, str]]:
    found = [param.get_help_record(ctx) for param in command.get_params(ctx)]
    return [record for record in found if record is not None]


def _options(ctx: click.Context, command: click.Command) -> list[str]:
    lines = []
    for names, text in _records(ctx, command):
        lines += [".TP", f"\\fB{_roff(names)}\\fR", _roff(" ".join(text.split())) or "\\&"]
    return lines


def _roff(text: str) -> str:
    """The text with what roff would take for its own escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
