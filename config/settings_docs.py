"""Writes docs/settings.md and .env.example from the schema: `python -m config.settings_docs [DIRECTORY]`."""

from __future__ import annotations

import sys
import textwrap
from itertools import groupby
from pathlib import Path

from config.setting_info import SettingInfo, schema
from config.sources import CONFIG_FILE_NAME

_INTRODUCTION = f"""\
# Settings

<!-- Written from the schema in config/settings.py by `python -m config.settings_docs`; change it there. -->

A value is taken from the first of these that has it:

1. the command line, for settings that the command has a flag for (`--p2p-port 3001`);
2. the environment (`P2P_PORT=3001`);
3. the file `.env` in the working directory (the same variables; `.env.example` lists them all);
4. a TOML config file: `{CONFIG_FILE_NAME}` in the data directory, or the one that `--config FILE` names,
   with the variables in lower case as keys (`p2p_port = 3001`, `bootstrap_peers = ["192.168.1.10:3000"]`);
5. the default.

`exchange-node config` shows every setting, its value and where it came from. A wrong value stops the start
with one line for each:

    P2P_PORT=70000 (environment): expected a port number from 0 to 65535

An unknown key in the config file is an error; an unknown variable is ignored, with a warning when it looks
like one of these: misspelt, or with the same first word. A variable that is set but empty is an error, unless
nothing is a value the setting can have, as it is for lists. Files are UTF-8, with any line ends, with or
without a byte order mark, and refused if other users own them or may write to them. Switches take true, yes,
on, 1 and false, no, off, 0. A relative path is relative to the working directory, in a config file to that file's directory, and, where noted, to the data
directory. A port that is left at its default is a preference; one that is set is a demand, and the
start fails when it is in use.
"""


def settings_page() -> str:
    """docs/settings.md."""
    parts = [_INTRODUCTION]
    for title, settings in groupby(schema().values(), lambda info: info.section):
        parts.append(f"\n## {title}\n\n")
        parts.append("| variable | default | value | meaning |\n|---|---|---|---|\n")
        parts += map(_row, settings)
    return "".join(parts)


def _row(info: SettingInfo) -> str:
    default = f"`{info.default}`" if info.default else "(empty)"
    return f"| `{info.name}` | {default} | {info.expected} | {info.description} |\n"


def env_example() -> str:
    """.env.example: every variable with its default, each switched off by a leading `#`.

    Switched off, because a value that is set, even to the default, is one that was asked for: two nodes
    started in one directory could then not both find a free port.
    """
    lines = [
        "# Settings of exchange-node with their defaults. Copy this file to .env and remove the # of those",
        "# you change. The environment and the command line win over .env. More: docs/settings.md",
    ]
    for title, settings in groupby(schema().values(), lambda info: info.section):
        lines += ["", f"# --- {title} ---"]
        for info in settings:
            comment = f"{info.description} Takes {info.expected}."
            lines += ["", *textwrap.wrap(comment, 98, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"#{info.name}={info.default}")
    return "\n".join(lines) + "\n"


FILES = {"docs/settings.md": settings_page, ".env.example": env_example}


def main(arguments: list[str]) -> None:
    root = Path(arguments[0]) if arguments else Path()
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
