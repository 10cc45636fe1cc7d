"""Options and checks of commands that work on a data directory without a node."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from node.cli.client_session import CommandFailure, Exit, inherited
from node.cli.commands.start_command import load_settings

T = TypeVar("T")


def data_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --data-dir, --config and --json; the command gets the settings as its first argument."""

    @click.option(
        "--data-dir",
        metavar="DIR",
        help="Data directory.  [default: DATA_DIR, or ~/.exchange-node]",
    )
    @click.option("--config", "config_file", metavar="FILE", help="As for start.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @wraps(command)
    def with_settings(
        *args: Any, data_dir: str | None, config_file: str | None, as_json: bool, **kwargs: Any
    ) -> T:
        settings = load_settings(config_file, data_dir=data_dir).settings
        as_json = as_json or bool(inherited("as_json"))
        return command(*args, settings=settings, as_json=as_json, **kwargs)

    return with_settings


@contextmanager
def explained(as_json: bool) -> Iterator[None]:
    """End the command with a one-line message for errors with files."""
    from exchange.journal.frames import JournalError
    from node.daemon.backup import BackupError

    try:
        yield
    except (BackupError, JournalError) as error:
        raise _failure(str(error), as_json) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise _failure(f"{where}{error.strerror or error}", as_json) from None
    except sqlite3.Error as error:
        raise _failure(
            f"cannot use an SQLite file of the data directory: {error}", as_json
        ) from None


def _failure(text: str, as_json: bool) -> CommandFailure:
    document = {"code": "failed", "detail": text} if as_json else None
    return CommandFailure(text, Exit.REFUSED, document=document)


@contextmanager
def unused(data_dir: Path, as_json: bool) -> Iterator[None]:
    """Keep the directory's lock; end the command if a node has it."""
    with ExitStack() as stack:
        for name in ("node.lock", "journal/lock"):
            path = data_dir / name
            if not path.parent.is_dir():
                continue
            file = stack.enter_context(path.open("a+", encoding="ascii"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _failure(f"a node is running on {data_dir}: stop it first", as_json) from None
        yield
