"""Finds the running node that a client command is meant for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from node.client.credentials import check_key, without_password
from p2p.ground.own_file import read_own

DEFAULT_DATA_DIR: Final = (
    "~/.exchange-node"  # the default of DATA_DIR; importing config costs 0.15 s
)
RUNTIME_FILE: Final = "node.json"
NAME: Final = "exchange-node"  # of the program


class RuntimeFile(msgspec.Struct, kw_only=True):
    """DATA_DIR/node.json, written by a running node and removed when it stops."""

    api_url: str
    node_id: str
    pid: int
    operator_token: str = ""
    api_fingerprint: str | None = None  # SHA-256 of the certificate, hex

    def __repr__(self) -> str:  # without the token: reprs end up in logs
        return f"RuntimeFile({self.api_url}, {self.node_id})"


class NoNode(Exception):
    """No running node was found. The message names the remedy."""


@dataclass(frozen=True, slots=True)
class FoundNode:
    """Address of a node's API. `node_id` is None when only a URL was given."""

    url: str
    node_id: str | None = None
    pid: int | None = None
    file: Path | None = None
    operator_token: str = field(default="", repr=False)
    fingerprint: str | None = None

    def hint(self) -> str:
        """Advice for the case that no node, or another node, answers at the address."""
        if self.file is None:
            return "is the URL given by --api right, and is the node running?"
        start = start_command(self.file.parent)
        if self.pid is not None and not is_running(self.pid):
            return (
                f"{self.file} was left behind by a node that ended without stopping "
                f"(process {self.pid} is gone); start it again with: {start}"
            )
        process = f"process {self.pid}" if self.pid != 1 else "its container"  # 1 is init elsewhere
        return f"{self.file} names this address; if the node hangs, stop {process} and run: {start}"


def start_command(data_dir: Path) -> str:
    """The command that starts a node on `data_dir`."""
    return f"{program()} start{data_dir_option(data_dir)}"


@cache
def program() -> str:
    """This program as a shell finds it: its name, or the path it was called by where the name leads nowhere."""
    called = Path(sys.argv[0])
    if called.name != NAME or shutil.which(NAME) is not None:
        return NAME
    return shlex.quote(str(called.absolute()))


def data_dir_option(data_dir: Path) -> str:
    """The option that names a data directory, as a shell reads it, after a blank; empty for the default."""
    try:
        if data_dir == Path(DEFAULT_DATA_DIR).expanduser():
            return ""
    except RuntimeError:  # there is no home directory
        pass
    return f" --data-dir {shlex.quote(str(data_dir))}"


# Commands in messages, without those that are meant for another directory.
_HINTED: Final = re.compile(r"'(exchange-node (?!restore|backup|standby --of|worker)[a-z][^']*)'")


def same_node(text: str, options: str) -> str:
    """Return a message whose quoted commands have the options that name the node, so that they can be copied."""
    if not options and program() == NAME:
        return text
    return _HINTED.sub(lambda found: f"`{program()}{found[1].removeprefix(NAME)}{options}`", text)


def is_running(pid: int) -> bool:
    """Return True if there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, under another user
    return True


def data_dir_in_force(option: str | None) -> Path:
    """The data directory as `start` would choose it: option, DATA_DIR, .env, default.

    Raises:
        ValueError: it is empty, or has a ~ whose directory is unknown; the message says what to do.
    """
    text = option
    if text is None:
        text = os.environ.get("DATA_DIR")
    if text is not None and not text.strip():
        raise ValueError(
            "DATA_DIR is set but empty: unset it, or set it to the directory of a node"
        )
    text = text or _from_env_file() or DEFAULT_DATA_DIR
    try:
        if text.startswith("~") and not os.environ.get("HOME", "unset"):
            raise RuntimeError  # ~ would be the root directory
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"the home directory for {text} is unknown (HOME is not set, or empty): name the node with "
            "--data-dir DIR or --api URL"
        ) from None


def _from_env_file() -> str | None:
    """Raises `ValueError` if the file has a DATA_DIR that cannot be used: another node would be found."""
    env_file = Path(".env")
    try:
        if not env_file.is_file() or b"DATA_DIR" not in env_file.read_bytes():
            return None
    except OSError:
        return None  # `start` reports what is wrong with it
    from config import SettingError, data_dir_in_env_file

    try:
        return data_dir_in_env_file(env_file)
    except SettingError as error:
        raise ValueError(error.problems[0]) from None


def api_url(text: str) -> str:
    """The URL in `--api`: http:// may be left out.

    Raises:
        ValueError: it is no URL of an API; the message says why.
    """
    text = text.strip()
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    try:
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
        sound = sound and not (parts.query or parts.fragment or parts.username)
        parts.port  # noqa: B018 - raises when it is no port number
    except ValueError:
        sound = False
    if not sound:
        shown = without_password(text)
        raise ValueError(f"{shown!r} is not the URL of a node, such as http://127.0.0.1:8300")
    return url.rstrip("/")


def find(data_dir: str | None = None, api: str | None = None) -> FoundNode:
    """The node of `--api`, or the one that runs on the data directory.

    Raises:
        NoNode: no node runs on the data directory.
        ValueError: `api` is no URL, or DATA_DIR cannot be used.
    """
    if api is not None:
        return FoundNode(api_url(api))
    directory = data_dir_in_force(data_dir)
    file = directory / RUNTIME_FILE
    try:
        running = msgspec.json.decode(read_own(file, directory=directory), type=RuntimeFile)
    except (FileNotFoundError, NotADirectoryError):
        raise NoNode(
            f"no node runs on {directory} (there is no {file.name}); start one with: "
            f"{start_command(directory)}, or name another with --data-dir DIR or --api URL"
        ) from None
    except OSError as error:
        raise NoNode(f"cannot read {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoNode(f"{file} is damaged ({error}); restart the node, or use --api URL") from None
    try:
        if running.operator_token:
            check_key("operator", running.operator_token)
        url = api_url(running.api_url)
    except ValueError as error:
        raise NoNode(f"{file} is damaged ({error}); restart the node, or use --api URL") from None
    return FoundNode(
        url,
        running.node_id,
        running.pid,
        file,
        operator_token=running.operator_token,
        fingerprint=running.api_fingerprint,
    )
