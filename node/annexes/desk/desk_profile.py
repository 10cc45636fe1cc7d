"""Desk profile: the own nodes of a desk, from a list of directories and addresses or from a file.

    [[node]]
    name = "alice"
    data_dir = "/srv/alice"              # a node of this machine

    [[node]]
    name = "bob"
    api = "https://10.0.0.2:8300"        # a node elsewhere
    ca_file = "bob.pem"                  # the certificate that it is known by
    key_file = "bob.key"                 # KEY:SECRET; readable by its owner only

Files are relative to the profile.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.client.credentials import looks_like_key, read_text

MAX_NODES: Final = 64
MAX_FILE: Final = 64 * 1024  # bytes
FIELDS: Final = ("name", "data_dir", "api", "ca_file", "key_file")
EXAMPLE: Final = '[[node]] with name = "alice" and data_dir = "/srv/alice", or api = "https://..."'


@dataclass(frozen=True, slots=True)
class DeskNode:
    """A node of the desk, on this machine (`data_dir`) or at an address (`api`)."""

    name: str
    data_dir: str | None = None
    api: str | None = None
    ca_file: Path | None = None
    key_file: Path | None = None


def nodes_of(text: str) -> list[DeskNode]:
    """Parse data directories and addresses of APIs, separated by commas.

    Raises:
        ValueError: none, too many, or one twice; the message says what to do.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return _checked(
        [
            DeskNode(part, api=part)
            if _is_address(part)
            else DeskNode(Path(part).name or part, data_dir=part)
            for part in parts
        ],
        "--nodes",
    )


def _is_address(text: str) -> bool:
    if "://" in text:
        return True
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isdigit() and "/" not in text)


def read_profile(path: Path) -> list[DeskNode]:
    """Read a profile.

    Raises:
        ValueError: it cannot be read, or is not as the module's docstring has it; the message says where.
    """
    try:
        tables = tomllib.loads(read_text(path, MAX_FILE))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML file: {error}; expected {EXAMPLE}") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}; expected {EXAMPLE}") from None
    entries = tables.pop("node", None)
    if tables or not isinstance(entries, list):
        found = f"has {', '.join(map(repr, tables))}" if tables else "has no [[node]]"
        raise ValueError(f"{path} {found}; expected {EXAMPLE}")
    return _checked(
        [_entry(entry, number, path) for number, entry in enumerate(entries, 1)], str(path)
    )


def _entry(entry: Any, number: int, path: Path) -> DeskNode:
    where = f"{path}, node {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is no table; expected {EXAMPLE}")
    for name, value in entry.items():
        if name not in FIELDS:
            raise ValueError(f"{where} has {name!r}; expected one of {', '.join(FIELDS)}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} is {value!r}; expected a text")
        if looks_like_key(value):
            raise ValueError(f"{where}: {name} is a key; expected the path of a file that has it")
    entry = {name: value.strip() for name, value in entry.items()}
    if ("data_dir" in entry) == ("api" in entry):
        raise ValueError(f"{where} needs one of data_dir and api")
    files = {name: path.parent / entry[name] for name in ("ca_file", "key_file") if name in entry}
    place = entry.get("data_dir")
    return DeskNode(
        name=entry.get("name") or entry.get("api") or Path(str(place)).name,
        data_dir=None if place is None else str(path.parent / Path(place).expanduser()),
        api=entry.get("api"),
        **files,
    )


def _checked(nodes: Sequence[DeskNode], where: str) -> list[DeskNode]:
    if not nodes:
        raise ValueError(f"{where} names no node")
    if len(nodes) > MAX_NODES:
        raise ValueError(f"{where} names {len(nodes)} nodes; at most {MAX_NODES} are read together")
    names = [node.name for node in nodes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where} has two nodes named {twice!r}; give each a name of its own")
    return list(nodes)
