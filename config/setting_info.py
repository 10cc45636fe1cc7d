"""Settings as plain records, for messages, documentation and the `config` command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from config.section import Section
from config.setting_types import Kind
from config.settings import sections

# Flags that are not just the setting's name with dashes.
_FLAGS: Final = {"bootstrap_peers": "--bootstrap"}


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """Description of a setting, independent of its value."""

    key: str  # p2p_port: the field of `Settings`, and the key in a config file
    name: str  # P2P_PORT: the variable
    flag: str  # --p2p-port
    section: str
    description: str
    expected: str
    unit: str  # "ms" or ""
    default: str  # as it would be written in the environment


def _info(section: type[Section], key: str) -> SettingInfo:
    kind, default, description = section.fields[key]
    return SettingInfo(
        key=key,
        name=key.upper(),
        flag=_FLAGS.get(key, "--" + key.replace("_", "-")),
        section=section.title,
        description=description,
        expected=kind.expected,
        unit=kind.unit,
        default=kind.text(default),
    )


@cache
def schema() -> Mapping[str, SettingInfo]:
    """Return all settings by key, in the order of the documentation."""
    return {key: _info(section, key) for section in sections() for key in section.fields}


@cache
def kinds() -> Mapping[str, Kind]:
    """Return the kinds of all settings by key."""
    return {key: field.kind for section in sections() for key, field in section.fields.items()}
