"""Settings and files of a node with a standby."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config import HostPort, Settings
from node.annexes.standby.standby_setup import check_standby
from node.daemon import role_file
from node.daemon.data_directory import open_key_and_journal
from node.daemon.process import StartError
from node.daemon.role_file import Role

MACHINE = "a" * 32
LISTEN = (HostPort("127.0.0.1", 3900),)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"standby_allow": (MACHINE,)}, "belong together"),
        ({"standby_listen": LISTEN}, "belong together"),
        ({"standby_allow": (MACHINE, "b" * 32), "standby_listen": LISTEN}, "one machine"),
        (
            {"standby_allow": (MACHINE,), "standby_listen": LISTEN, "journal_sync": "normal"},
            "needs JOURNAL_SYNC=full",
        ),
        (
            {"lease_postgres": "postgresql://host/desk", "journal_sync": "normal"},
            "needs JOURNAL_SYNC=full",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(StartError, match=text):
        check_standby(Settings(**values))


def test_first_goes_with_a_journal_that_is_not_flushed() -> None:
    check_standby(
        Settings(
            standby_allow=(MACHINE,),
            standby_listen=LISTEN,
            standby_ack="first",
            journal_sync="normal",
        )
    )


def test_a_directory_that_follows_or_had_a_lease_does_not_become_a_node(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    role_file.write(tmp_path, Role(role="standby", epoch=3))
    with pytest.raises(StartError, match="follows a node that runs elsewhere"):
        open_key_and_journal(settings, settings.key_path)
    role_file.write(tmp_path, Role(role="primary", epoch=3, had_lease=True))
    with pytest.raises(StartError, match="set LEASE_POSTGRES"):
        open_key_and_journal(settings, settings.key_path)
    assert not settings.key_path.exists()


def test_the_identity_of_a_machine_is_made_once_and_private(tmp_path: Path) -> None:
    made = role_file.machine_identity(tmp_path)
    assert role_file.machine_identity(tmp_path).node_id == made.node_id
    assert (tmp_path / role_file.KEY).stat().st_mode & 0o077 == 0


def test_a_damaged_role_is_an_error(tmp_path: Path) -> None:
    assert role_file.read(tmp_path) is None
    (tmp_path / role_file.NAME).write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        role_file.read(tmp_path)
