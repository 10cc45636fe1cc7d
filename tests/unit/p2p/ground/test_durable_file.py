"""Small files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2p.ground import durable_file
from p2p.ground.durable_file import replace_file


def test_a_file_is_replaced_with_its_mode_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a longer content")
    path.chmod(0o644)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_content_and_then_name_are_flushed_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", []

    def fsync(fd: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(path, b"x")
    assert seen == [(False, False), (True, True)]
    replace_file(path, b"y", durable=False)
    assert len(seen) == 2


def test_a_failure_leaves_the_old_content_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    (tmp_path / "file.new").symlink_to(other)
    replace_file(tmp_path / "file", b"ours")
    assert (other.read_bytes(), (tmp_path / "file").read_bytes()) == (b"theirs", b"ours")
