"""Load all sources into one `Settings`, with the origin of every value."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from config.section import Refused
from config.setting_info import SettingInfo, kinds, schema
from config.settings import Settings, WrongValues, is_loopback, sections
from config.sources import (
    CONFIG_FILE_NAME,
    DEFAULT,
    Layer,
    Origin,
    SettingError,
    SettingSource,
    read_command_line,
    read_config_file,
    read_env_file,
    read_environment,
)

DEFAULT_ENV_FILE: Final = Path(".env")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings, the origin of each (by key, e.g. `p2p_port`), and warnings."""

    settings: Settings
    origin: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()
    config_file: Path | None = None  # the one that was read

    def is_default(self, key: str) -> bool:
        """True if no source sets the value; a configured value must not be replaced silently."""
        return self.origin[key].source is SettingSource.DEFAULT


@dataclass(frozen=True, slots=True)
class SettingView(SettingInfo):
    """A setting with its value."""

    value: str  # as it would be written in the environment, without credentials
    origin: str  # "default", "file PATH", ".env PATH", "environment", "command line --flag"


def load(
    cli: Mapping[str, object] = MappingProxyType({}),
    *,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = DEFAULT_ENV_FILE,
    config_file: Path | None = None,
) -> Loaded:
    """The settings from defaults < config file < .env < environment < command line.

    Args:
        cli: values by key; None for a flag that was not given.
        env: the environment, by default this process's.
        env_file: None for none. The default one may be missing, another one must exist.
        config_file: by default `exchange-node.toml` in the data directory, if it is there; a file that
            is named must exist.

            Raises:
                SettingError: something is wrong; one line for each thing.
    """
    problems: list[str] = []
    upper: list[Layer] = [
        read_command_line(cli),
        read_environment(os.environ if env is None else env),
    ]
    if env_file is not None and (env_file != DEFAULT_ENV_FILE or _is_there(env_file)):
        try:
            upper.append(read_env_file(env_file.absolute()))
        except SettingError as error:
            problems += error.problems
    config_path, in_data_dir = config_file, config_file is None
    if config_path is None:
        config_path = _file_in_data_dir(upper)
    layers = list(upper)
    if config_path is not None:
        try:
            layers.append(read_config_file(config_path.absolute(), in_data_dir=in_data_dir))
        except SettingError as error:
            problems += error.problems
    problems += [problem for layer in layers for problem in layer.problems]

    origins = {
        key: next((layer.origins[key] for layer in layers if key in layer.origins), DEFAULT)
        for key in schema()
    }
    settings = _checked(layers, origins, problems)
    warnings = [warning for layer in layers for warning in layer.warnings]
    return Loaded(
        settings=settings,
        origin=MappingProxyType(origins),
        warnings=(*warnings, *_advice(settings, origins)),
        config_file=config_path.absolute() if config_path is not None else None,
    )


def describe(loaded: Loaded) -> list[SettingView]:
    """Every setting with its value and where it came from, in the order of the documentation."""
    return [
        SettingView(
            **{field.name: getattr(info, field.name) for field in fields(SettingInfo)},
            value=kinds()[key].text(getattr(loaded.settings, key)),
            origin=str(loaded.origin[key]),
        )
        for key, info in schema().items()
    ]


def _is_there(env_file: Path) -> bool:
    return env_file.exists() and not env_file.is_dir()  # some keep a virtual environment in .env


def _file_in_data_dir(layers: Sequence[Layer]) -> Path | None:
    """The config file in the data directory that `layers` (strongest first) name, if there is one."""
    default = schema()["data_dir"].default
    raw = next((la.values["data_dir"] for la in layers if "data_dir" in la.values), default)
    try:
        path = kinds()["data_dir"].parse(raw) / CONFIG_FILE_NAME
        return path if path.exists() else None
    except (ValueError, OSError):
        return None  # the check of DATA_DIR itself, or the start, reports what is wrong with it


def _checked(
    layers: Sequence[Layer], origins: Mapping[str, Origin], problems: list[str]
) -> Settings:
    raw = {key: value for layer in reversed(layers) for key, value in layer.values.items()}
    try:
        settings = Settings(**raw)
    except WrongValues as wrong:
        problems += [
            _wrong(key, raw, origins[key], wrong.errors[key])
            for key in schema()
            if key in wrong.errors
        ]
    else:
        if not problems:
            return settings
    raise SettingError(problems)


def _wrong(key: str, raw: Mapping[str, Any], origin: Origin, error: ValueError) -> str:
    info = schema()[key]
    shown = kinds()[key].shown(raw[key]) if key in raw else info.default
    if isinstance(error, Refused):
        expected = str(error)
    else:
        expected = f"expected {info.expected}"
        if reason := str(error):
            expected += f" ({reason})"
    return f"{info.name}={shown} ({origin}): {expected}"


def _advice(settings: Settings, origins: Mapping[str, Origin]) -> list[str]:
    advice = []
    if not is_loopback(settings.api_host) and not settings.api_has_tls:
        risk = "API keys from other machines are refused; set API_TLS_SELF_SIGNED=true to serve TLS"
        if settings.api_plain_keys:
            risk = "anyone on the network path can read its clients' API keys (API_PLAIN_KEYS)"
        advice.append(
            f"API_HOST={settings.api_host} ({origins['api_host']}): the API is served without TLS, so {risk}"
        )
    if settings.p2p_security == "off":
        advice.append(
            f"P2P_SECURITY=off ({origins['p2p_security']}): links are neither encrypted nor authenticated"
        )
    for off, names in ChainMap(*(dict(section.useless) for section in sections())).items():
        key, _, value = off.lower().partition("=")
        if kinds()[key].text(getattr(settings, key)) == value:
            given = [name for name in names if origins[name.lower()] != DEFAULT]
            if given:
                advice.append(f"{', '.join(given)}: ignored because of {off}")
    return advice
