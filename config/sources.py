"""Sources of settings. Each reader turns one source into a `Layer` of raw, unchecked values."""

from __future__ import annotations

import difflib
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from config.setting_info import kinds, schema
from config.setting_types import FilePath
from p2p.ground.own_file import read_own
from p2p.ground.text_file import decode_text

CONFIG_FILE_NAME: Final = "exchange-node.toml"

# Variables of the command line, which are no settings of a node.
PROGRAM_VARIABLES: Final = ("EXCHANGE_NODE_KEY", "EXCHANGE_NODE_DESK", "EXCHANGE_NODE_DEBUG")
_PROGRAM: Final = "EXCHANGE_NODE_"
# First words that names of other programs often have; with one word more they are not taken for ours.
_COMMON_WORDS: Final = frozenset(
    {"API", "CLIENT", "DATA", "DNS", "EXPORT", "INBOUND", "LOG", "MARKET", "MAX", "METRICS"}
    | {"PEER", "PORT", "TAKE", "TRACING", "WORKER"}
)
# Similarity (difflib's ratio) from which an unknown name counts as a misspelt setting.
_LIKE_WITH_OUR_PREFIX: Final = 0.8
_LIKE_WITHOUT: Final = 0.9


class SettingError(Exception):
    """The settings cannot be used. `problems` has one line for each thing that is wrong.

    A line names the variable, the value, where it came from and what was expected, and never
    contains credentials, so it can be printed and logged as it is.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SettingSource(StrEnum):
    """The sources, weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENV_FILE = ".env"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of one value. As text: `default`, `file PATH`, `command line --p2p-port`, ..."""

    source: SettingSource
    detail: str = ""  # the path or the flag

    def __str__(self) -> str:
        return f"{self.source} {self.detail}".rstrip()


DEFAULT: Final = Origin(SettingSource.DEFAULT)


@dataclass(slots=True)
class Layer:
    """Contents of one source: raw values by key, each with its origin, and warnings."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: Origin) -> None:
        self.values[key] = value
        self.origins[key] = origin


def closest(name: str, known: Iterable[str], likeness: float) -> str | None:
    """Return the name of `known` that is most like `name`, by at least `likeness` (0 to 1)."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=likeness)
    return found[0] if found else None


def read_command_line(values: Mapping[str, object]) -> Layer:
    """Values by key, as the command line's parser made them; None is a flag that was not given.

    Raises:
        TypeError: a key is not a setting, which is a mistake in the program.
    """
    layer = Layer()
    for key, value in values.items():
        if value is None:
            continue
        if key not in schema():
            raise TypeError(f"{key!r} is not a setting")
        layer.put(key, value, Origin(SettingSource.COMMAND_LINE, schema()[key].flag))
    return layer


def read_environment(env: Mapping[str, str]) -> Layer:
    """Return the settings in `env`."""
    return _variables(env, Origin(SettingSource.ENVIRONMENT))


def read_env_file(path: Path) -> Layer:
    """The variables in a .env file: quotes, comments and `export` as usual, `${...}` taken as it is.

    Raises:
        SettingError: the file cannot be read, or a line in it cannot.
    """
    from dotenv.parser import parse_stream  # deferred: most starts have no such file

    values: dict[str, str] = {}
    problems: list[str] = []
    for binding in parse_stream(io.StringIO(_read_text(path))):
        # Blank space before a binding belongs to it, so its line is where the rest begins.
        text = binding.original.string
        line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
        if binding.error or (binding.key is not None and binding.value is None):
            problems.append(f".env {path}: line {line} is not NAME=value")
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    if problems:
        raise SettingError(problems)
    return _variables(values, Origin(SettingSource.ENV_FILE, str(path)))


def data_dir_in_env_file(path: Path) -> str | None:
    """DATA_DIR of a .env file, None without one. Other settings in it are not looked at.

    Raises:
        SettingError: the file cannot be read, or has an empty DATA_DIR.
    """
    layer = read_env_file(path)
    if problems := [problem for problem in layer.problems if problem.startswith("DATA_DIR=")]:
        raise SettingError(problems)
    value: str | None = layer.values.get("data_dir")
    return value


def read_config_file(path: Path, *, in_data_dir: bool) -> Layer:
    """The keys of a TOML file. A relative path in it is relative to its directory.

    `in_data_dir`: the file was found through the data directory, so it cannot move it.

    Raises:
        SettingError: the file cannot be read, or is not TOML.
    """
    origin = Origin(SettingSource.FILE, str(path))
    try:
        table = tomllib.loads(_read_text(path, path.parent if in_data_dir else None))
    except tomllib.TOMLDecodeError as error:
        raise SettingError([f"{origin}: not TOML: {error}"]) from None
    layer = Layer()
    for key, value in table.items():
        if key not in schema():
            like = closest(key.lower(), schema(), 0.0)
            layer.problems.append(f"{origin}: unknown key {key!r}; the closest known one is {like}")
        elif key == "data_dir" and in_data_dir:
            layer.problems.append(
                f"{origin}: data_dir cannot be set here, because this file was found through it; "
                "use DATA_DIR or --data-dir, or name the file with --config"
            )
        else:
            kind = kinds()[key]
            if isinstance(kind, FilePath) and not kind.inside and isinstance(value, str):
                value = value if value.startswith("~") or not value else str(path.parent / value)
            layer.put(key, value, origin)
    return layer


def _variables(values: Mapping[str, str], origin: Origin) -> Layer:
    layer = Layer()
    for name, value in values.items():
        key = name.lower()
        if name != name.upper() or key not in schema():
            if like := _near_miss(name):
                layer.warnings.append(f"{name} ({origin}) is not a setting; did you mean {like}?")
        elif value.strip() or kinds()[key].empty_ok:
            layer.put(key, value.strip(), origin)
        else:
            # Of a variable in a script that was never set: the default might be another node.
            layer.problems.append(
                f"{name}= ({origin}) is set but empty: unset it, or give {kinds()[key].expected}"
            )
    return layer


def _near_miss(name: str) -> str | None:
    """Return the setting that a name of no setting is probably meant for, None for other programs' names."""
    if name in PROGRAM_VARIABLES:
        return None
    if like := closest(name.upper(), PROGRAM_VARIABLES, _LIKE_WITH_OUR_PREFIX):
        return like
    upper = name.upper().removeprefix(_PROGRAM)
    first, *more = upper.split("_")
    ours = any(key.partition("_")[0] == first.lower() for key in schema())
    if like := closest(upper, _names(), _LIKE_WITH_OUR_PREFIX if ours else _LIKE_WITHOUT):
        return like
    prefixed = upper != name.upper()
    if prefixed or (more and ours and (first not in _COMMON_WORDS or len(more) > 1)):
        return _nearest(upper)
    return None


def _nearest(name: str) -> str:
    """Return the setting with most words in common, and among those the most similar."""
    words = set(name.split("_"))

    def likeness(known: str) -> tuple[int, float]:
        return len(words & set(known.split("_"))), SequenceMatcher(None, name, known).ratio()

    return max(_names(), key=likeness)


def _names() -> list[str]:
    """Return the variables of all settings."""
    return [info.name for info in schema().values()]


def _read_text(path: Path, data_dir: Path | None = None) -> str:
    try:
        return decode_text(read_own(path, directory=data_dir))
    except OSError as error:
        raise SettingError([f"cannot read {path}: {error.strerror or error}"]) from None
    except ValueError as error:
        raise SettingError([f"cannot read {path}: it {error}"]) from None
