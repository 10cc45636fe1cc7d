"""Files that others own or may write to are refused wherever they decide anything, with the command that cures it."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from config.sources import read_config_file, read_env_file
from exchange.model.instruments import Instruments
from node.annexes.desk.desk_profile import read_profile
from node.cli.handler_loader import load_handler
from node.client.node_finder import find
from node.daemon import role_file
from node.daemon.restore import marked
from node.service.market_steps import load_market_steps
from p2p.ground import own_file
from p2p.ground.own_file import check_own
from p2p.peers.peer_policy import PeerPolicy

READERS: dict[str, Callable[[Path], object]] = {
    ".env": read_env_file,
    "exchange-node.toml": lambda path: read_config_file(path, in_data_dir=True),
    "instruments.toml": Instruments.load,
    "peer-policy.json": lambda path: PeerPolicy(path, wall=time.time),
    "standby.json": lambda path: role_file.read(path.parent),
    "restored.json": lambda path: marked(path.parent),
    "market-steps.toml": lambda path: load_market_steps(
        path, Instruments.default(), upgraded=False
    ),
    "node.json": lambda path: find(str(path.parent)),
    "jobs.py": lambda path: load_handler(f"{path}:run"),
    "work.py": lambda path: load_handler("work:run"),
    "desk.toml": read_profile,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_others_may_write_to_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_text("{}")
    path.chmod(0o666)  # as with a umask of 000
    with pytest.raises(Exception, match=re.escape(f"run: chmod go-w {path}")):
        READERS[name](path)


@pytest.mark.parametrize(
    ("user", "owner", "group", "mode", "cure"),
    [
        (1000, 1000, 1000, 0o644, ""),
        (1000, 0, 0, 0o644, ""),
        (0, 0, 0, 0o600, ""),
        (1000, 1000, 1000, 0o664, ""),  # the user's own group
        (1000, 1000, 50, 0o664, "chmod go-w"),
        (1000, 0, 50, 0o664, "chmod go-w"),
        (1000, 1000, 1000, 0o646, "chmod go-w"),
        (1000, 65534, 1000, 0o644, "chown 1000"),
        (0, 1000, 1000, 0o600, "chown 0"),
        (0, 700, 700, 0o600, ""),
        (0, 700, 700, 0o660, "chmod go-w"),
    ],
)
def test_the_owner_is_this_user_or_root_and_nobody_else_writes(
    user: int, owner: int, group: int, mode: int, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_file.os, "geteuid", lambda: user)
    monkeypatch.setattr(own_file, "_user", str)
    monkeypatch.setattr(own_file, "_is_private", lambda number: number == 1000)
    # 700: the owner of the data directory that was named
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
    refused = pytest.raises(PermissionError, match=f"run: {cure} 'a file'")
    with refused if cure else nullcontext():
        check_own(Path("a file"), status, 700)
