"""`completion`: words for the Tab key in bash, zsh and fish, those of the running node included."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from node.cli.client_session import Session, inherited

VARIABLE: Final = "_EXCHANGE_NODE_COMPLETE"  # click's: set by the shell's script
TIMEOUT: Final = 1.0  # seconds that the Tab key may take for asking the node
SHELLS: Final = ("bash", "zsh", "fish")

Items = list[CompletionItem]
Completer = Callable[[click.Context, str], Items]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print a script for the Tab key in bash, zsh or fish.

    It completes commands, and markets, peers, order numbers, accounts and services of the node.

    Without SHELL it is for the shell in the variable SHELL.

    \b
    Examples:
      exchange-node completion bash > ~/.local/share/bash-completion/completions/exchange-node
      exchange-node completion zsh > ~/.zfunc/_exchange-node       with fpath+=~/.zfunc before compinit
      exchange-node completion fish > ~/.config/fish/completions/exchange-node.fish
      source <(exchange-node completion bash)                      for this terminal alone
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"which shell? It is one of {', '.join(SHELLS)}.")
    made = get_completion_class(name)
    if made is None:
        raise click.UsageError(f"there is no completion for {name}")
    click.echo(
        made(
            click.get_current_context().find_root().command, {}, "exchange-node", VARIABLE
        ).source()
    )


# Words of the running node


def _ask(ctx: click.Context, work: Callable[[Any], Any]) -> Any:
    """The node's answer; an empty list when there is none, for the Tab key reports no errors."""
    with contextlib.suppress(click.ClickException), ctx:
        params = ctx.params
        data_dir, api = params.get("data_dir"), params.get("api")
        if data_dir is None and api is None:
            data_dir, api = inherited("data_dir"), inherited("api")
        session = Session(False, data_dir, api, params.get("ca_file"))
        return session.ask(work, timeout=TIMEOUT)
    return []


def _matching(words: Iterable[tuple[str, str]], incomplete: str) -> Items:
    start = incomplete.lower()
    return [
        CompletionItem(word, help=text or None)
        for word, text in words
        if word.lower().startswith(start)
    ]


def markets(ctx: click.Context, incomplete: str) -> Items:
    """Markets, with their best prices."""
    views = _ask(ctx, lambda client: client.markets())
    return _matching(((v.symbol, f"{v.bid or '-'} / {v.ask or '-'}") for v in views), incomplete)


def orders(ctx: click.Context, incomplete: str) -> Items:
    """Numbers of open orders."""
    account = ctx.params.get("account")
    views = _ask(ctx, lambda client: client.orders(account=account))
    return _matching(
        (
            (str(v.number), f"{v.side} {v.quantity} {v.market} @ {v.price or 'market'}")
            for v in views
        ),
        incomplete,
    )


def accounts(ctx: click.Context, incomplete: str) -> Items:
    """Names of accounts."""
    views = _ask(ctx, lambda client: client.accounts())
    return _matching(((v.name, "") for v in views), incomplete)


def peers(ctx: click.Context, incomplete: str) -> Items:
    """Ids of known nodes, with their addresses."""
    views = _ask(ctx, lambda client: client.peers())
    return _matching(
        ((v.node_id, f"{v.address}:{v.port} {v.status}") for v in views if v.node_id), incomplete
    )


def services(ctx: click.Context, incomplete: str) -> Items:
    """Names of services."""
    views = _ask(ctx, lambda client: client.services())
    return _matching(((v.name, "") for v in views), incomplete)


def typed_order(ctx: click.Context, incomplete: str) -> Items:
    """The market, and the @ between quantity and price."""
    words = ctx.params.get("words") or ()
    if not words:
        return markets(ctx, incomplete)
    return _matching([("@", "limit price")], incomplete) if len(words) == 2 else []


def commands(ctx: click.Context, incomplete: str) -> Items:
    """Commands of this program."""
    root = ctx.find_root()
    return _matching(((name, "") for name in root.command.list_commands(root)), incomplete)  # type: ignore[attr-defined]


# Metavar or name of a parameter -> what it stands for.
_BY_METAVAR: Final[dict[str, Completer]] = {
    "MARKET": markets,
    "MARKET QTY [@ PRICE]": typed_order,
    "ID|NUMBER": orders,
    "[ID|NUMBER]": orders,
    "[COMMAND]": commands,
    "[COMMAND]...": commands,
    "NODE": peers,
    "SERVICE": services,
}
_BY_NAME: Final[dict[str, Completer]] = {"market": markets, "account": accounts, "peer": peers}


def completer_of(command: click.Command, param: click.Parameter, path: str) -> Completer | None:
    """Return what completes a parameter with words of the node; None: the shell's or click's words."""
    if param.name == "name" and path.startswith("account ") and command.name != "create":
        return accounts
    return _BY_METAVAR.get(param.metavar or "") or _BY_NAME.get(param.name or "")


def prepare(commands: dict[str, str]) -> None:
    """Teach the parameters of all commands what completes them. For a completing process only."""
    for name, where in commands.items():
        module, _, attribute = where.partition(":")
        _teach(getattr(import_module(module), attribute), name)


def _teach(command: click.Command, path: str) -> None:
    for param in command.params:
        completer = completer_of(command, param, path)
        if completer is not None:
            setattr(param, "shell_complete", completer)  # noqa: B010 - of this one, not of its class
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _teach(inner, f"{path} {name}")
