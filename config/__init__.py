"""Settings: one typed schema, read from defaults < config file < .env < environment < command line.

`load` gives a `Loaded`: the checked `Settings`, and for every one of them where its value came from.
"""

from config.loading import DEFAULT_ENV_FILE, Loaded, SettingView, describe, load
from config.setting_info import SettingInfo, schema
from config.setting_types import HostPort
from config.settings import Settings, is_loopback
from config.sources import (
    CONFIG_FILE_NAME,
    Origin,
    SettingError,
    SettingSource,
    data_dir_in_env_file,
)

__all__ = [
    "CONFIG_FILE_NAME",
    "DEFAULT_ENV_FILE",
    "HostPort",
    "Loaded",
    "Origin",
    "SettingError",
    "SettingInfo",
    "SettingSource",
    "SettingView",
    "Settings",
    "data_dir_in_env_file",
    "describe",
    "is_loopback",
    "load",
    "schema",
]
