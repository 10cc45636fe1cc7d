"""Settings as plain records, for messages, documentation and the `config` command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from config.setting_types import Kind
from config.settings import SECTIONS, Section

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


def _kind(section: type[Section], key: str) -> Kind:
    return next(item for item in section.model_fields[key].metadata if isinstance(item, Kind))


def _info(section: type[Section], key: str) -> SettingInfo:
    field = section.model_fields[key]
    kind = _kind(section, key)
    default: Any = field.default
    return SettingInfo(
        key=key,
        name=key.upper(),
        flag=_FLAGS.get(key, "--" + key.replace("_", "-")),
        section=section.title,
        description=field.description or "",
        expected=kind.expected,
        unit=kind.unit,
        default=kind.text(default),
    )


# By key, in the order of the documentation.
SCHEMA: Final[Mapping[str, SettingInfo]] = MappingProxyType(
    {key: _info(section, key) for section in SECTIONS for key in section.model_fields}
)
KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {key: _kind(section, key) for section in SECTIONS for key in section.model_fields}
)
