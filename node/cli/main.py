"""`exchange-node`: the entry point, and what all commands share."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from node.cli.client_session import (
    DEBUG_VARIABLE,
    KEY_VARIABLE,
    CommandFailure,
    Exit,
    common_options,
    has_changed,
    print_json,
    shell_command,
)
from node.cli.standard_streams import OutputLost, discard_output
from node.cli.standard_streams import prepare as prepare_streams
from node.client.credentials import has_secret
from node.parts.annex import ANNEXES
from node.parts.table import annexes

# Commands by what they are for: name -> where it is. Loaded when it is used: `exchange-node orders` should not
# pay for the rest.
GROUPS: Final[dict[str, dict[str, str]]] = {
    "Run a node": {
        "start": "node.cli.commands.start_command:start",
        "status": "node.cli.commands.network_commands:status",
        "open": "node.cli.commands.open_command:open_page",
        "config": "node.cli.commands.config_command:config",
        "service": "node.cli.service_unit:service",
    },
    "Trade": {
        "order": "node.cli.commands.order_commands:order",
        "amend": "node.cli.commands.order_commands:amend",
        "cancel": "node.cli.commands.order_commands:cancel",
        "orders": "node.cli.commands.order_commands:orders",
        "trades": "node.cli.commands.order_commands:trades",
    },
    "Markets": {
        "markets": "node.cli.commands.market_commands:markets",
        "book": "node.cli.commands.market_commands:book",
        "candles": "node.cli.commands.market_commands:candles",
        "stream": "node.cli.commands.watch_commands:stream",
        "market": "node.cli.commands.market_commands:market",
    },
    "Accounts and money": {
        "account": "node.cli.commands.account_commands:account",
        "whoami": "node.cli.commands.account_commands:whoami",
        "balances": "node.cli.commands.ledger_commands:balances",
        "ledger": "node.cli.commands.ledger_commands:ledger",
    },
    "Other nodes": {
        "peers": "node.cli.commands.network_commands:peers",
        "connect": "node.cli.commands.network_commands:connect",
        "ping": "node.cli.commands.network_commands:ping",
        "peer-list": "node.cli.commands.peer_list_command:peer_list",
    },
    "Copies of a node's data": {
        "journal": "node.cli.commands.journal_command:journal",
    },
    "Functions that nodes serve": {
        "worker": "node.cli.commands.worker_command:worker",
        "call": "node.cli.commands.service_commands:call",
        "services": "node.cli.commands.service_commands:services",
        "router": "node.cli.commands.service_commands:router",
    },
    "Learn, and help": {
        "help": "node.cli.main:help_command",
        "completion": "node.cli.completion:completion",
        "manual": "node.cli.manual:manual",
        "version": "node.cli.main:version",
    },
}
for _annex in annexes():
    for _name, _where in _annex.commands.items():
        GROUPS[_annex.group][_name] = f"{ANNEXES}.{_annex.name}.{_where}"
COMMANDS: Final = {name: where for group in GROUPS.values() for name, where in group.items()}

# Options whose value may be empty.
EMPTY_OK: Final = frozenset({"--note", "--label", "--reason", "--bn"})

EPILOG: Final = """\b
Exit codes:
  0    done
  1    the node refused it, or it was not confirmed; the reason is printed
  2    wrong usage, or settings, ports, directories and files that cannot be used
  3    no running node found
  4    unexpected failure
  5    done, but the answer could not be printed: do not repeat it, look it up
  130  interrupted
"""


class CommandLine(click.Group):
    """The group of all commands, with the exit codes of `Exit`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            rows = []
            for name in commands:
                command = self.get_command(ctx, name)
                if command is not None:
                    text = command.get_short_help_str(formatter.width - width - 6)
                    rows.append((name.ljust(width), text))
            with formatter.section(title):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _check_arguments(ctx, args)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, name = where.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            ctx.fail(_unknown_command(name, args[1:]))
        return name, self.get_command(ctx, name), args[1:]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except OutputLost as lost:
            lost.changed = has_changed(ctx)
            raise
        return result

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Runs a command and exits; never shows a traceback unless EXCHANGE_NODE_DEBUG is set."""
        kwargs["standalone_mode"] = False
        try:
            result = super().main(*args, **kwargs)
            sys.stdout.flush()  # of --help, which invokes nothing
        except OutputLost as lost:
            sys.exit(_explain_lost(lost))
        except (click.Abort, KeyboardInterrupt):
            sys.exit(Exit.INTERRUPTED)
        except click.ClickException as error:
            try:
                error.show()
                sys.stdout.flush()
            except OutputLost:  # of its document; what failed counts
                discard_output()
            sys.exit(error.code if isinstance(error, CommandFailure) else error.exit_code)
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(
                f"exchange-node: unexpected failure: {text} "
                "(EXCHANGE_NODE_DEBUG=1 shows where it comes from)",
                err=True,
            )
            sys.exit(Exit.UNEXPECTED)
        sys.exit(result if isinstance(result, int) else Exit.OK)


def _check_arguments(ctx: click.Context, args: list[str]) -> None:
    """Refuse what no command can mean: empty arguments, of variables that a script has not set, and bytes
    that are no text."""
    before = ""
    for arg in args:
        if not arg.isprintable() and any("\ud800" <= char <= "\udfff" for char in arg):
            shown = os.fsencode(arg).decode(errors="backslashreplace")
            ctx.fail(f"The argument '{shown}' is not UTF-8 text.")
        if has_secret(arg):  # as an argument other users see it, and messages repeat arguments
            ctx.fail(
                f"An argument has a key with its secret: give it in {KEY_VARIABLE}, where a command needs the key alone "
                "leave the secret out, and make a new one if others may have seen it."
            )
        name, sign, value = arg.partition("=")
        option = name if sign and name.startswith("--") else before
        if not (value if sign and option == name else arg).strip() and option not in EMPTY_OK:
            what = f"The value of {option}" if option.startswith("-") else "An argument"
            ctx.fail(
                f"{what} is empty: is a variable not set? Leave the option out, or give a value."
            )
        before = arg


def _explain_lost(lost: OutputLost) -> Exit:
    """Say what became of a command whose output was lost; returns its exit code."""
    discard_output()
    if lost.reader_left and not lost.changed:  # `| head` has what it wanted
        return Exit.OK
    what = "done, but the answer" if lost.changed else "the output"
    click.echo(f"exchange-node: {what} could not be printed ({lost})", err=True)
    return Exit.NOT_PRINTED


def _unknown_command(name: str, rest: list[str]) -> str:
    if name.lower() in ("buy", "sell"):
        return (
            f"Unknown command {name!r}. Did you mean: {shell_command('order', name.lower(), *rest)}"
        )
    close = difflib.get_close_matches(name.lower(), COMMANDS, n=2, cutoff=0.6)
    if close:
        return f"Unknown command {name!r}. Did you mean {' or '.join(close)}?"
    return f"Unknown command {name!r}. 'exchange-node --help' lists all commands."


def _version() -> str:
    from importlib import metadata

    return metadata.version("exchange-node")


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"exchange-node {_version()}")
        ctx.exit()


@common_options
@click.group(
    cls=CommandLine,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A node of a peer-to-peer exchange, and the commands to trade through it.

    \b
    First steps:
      exchange-node start                            run a node (in a terminal of its own)
      exchange-node order buy BTC-USD 0.5 @ 30000    place an order
      exchange-node book BTC-USD --watch             watch the order book
      exchange-node status                           how the node is

    Every command has its own --help with examples (or: exchange-node help COMMAND). Commands find the node through its data
    directory (--data-dir or DATA_DIR) or its address (--api). --json prints JSON.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command, or list all commands.

    \b
    Examples:
      exchange-node help
      exchange-node help order
      exchange-node help account keys create
    """
    here = ctx.find_root()
    for number, word in enumerate(words):
        command = here.command
        if not isinstance(command, click.Group):
            ctx.fail(f"{here.command_path} has no commands of its own.")
        found = command.get_command(here, word.lower())
        if found is None:
            if number == 0:
                ctx.fail(_unknown_command(word, []))
            known = ", ".join(command.list_commands(here))
            ctx.fail(f"{here.command_path} has no command {word!r}. It has {known}.")
        here = click.Context(found, info_name=word.lower(), parent=here)
    click.echo(here.get_help())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def version(as_json: bool) -> None:
    """Show the version.

    \b
    Examples:
      exchange-node version
      exchange-node version --json
    """
    import platform

    if as_json:
        print_json({"version": _version(), "python": platform.python_version()})
    else:
        click.echo(f"exchange-node {_version()} (Python {platform.python_version()})")


def _check_system() -> None:
    """End with one line where the node cannot run: it locks its files as POSIX systems do."""
    try:
        for needed in ("fcntl", "resource"):
            import_module(needed)
    except ImportError:
        sys.stderr.write(
            f"exchange-node: {sys.platform} is not supported: a node needs a POSIX system "
            "(Linux, macOS, BSD, or WSL on Windows)\n"
        )
        sys.exit(Exit.USAGE)


def main() -> NoReturn:
    """The entry point of the `exchange-node` script."""
    _check_system()
    prepare_streams()
    if (
        os.getpid() == 1
    ):  # of a container: the system ends process 1 by no signal that it does not handle
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    if "_EXCHANGE_NODE_COMPLETE" in os.environ:
        import_module("node.cli.completion").prepare(COMMANDS)
    cli(prog_name="exchange-node")
    raise AssertionError("cli exits")


if __name__ == "__main__":
    main()
