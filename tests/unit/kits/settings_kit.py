"""Settings from nothing but what a test gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from config import Loaded, SettingError, load


def leave_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home and an empty working directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")


def from_env(**env: str) -> Loaded:
    return load(env=env, env_file=None)


def problems(
    cli: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    config_file: Path | None = None,
) -> list[str]:
    with pytest.raises(SettingError) as caught:
        load(cli or {}, env=env or {}, env_file=env_file, config_file=config_file)
    assert str(caught.value).split("\n") == list(caught.value.problems)  # one line each
    return list(caught.value.problems)
