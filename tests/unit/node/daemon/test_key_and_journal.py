"""A data directory has a key and a journal of one node, or neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import Settings
from exchange.journal.journal import JournalError
from exchange.model.records import PutMeta
from node.daemon.data_directory import open_key_and_journal
from node.daemon.process import StartError
from p2p.base.identity import Identity


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def run(settings: Settings, *values: int) -> str:
    """A node that commits something and stops; its id."""
    identity, journal = open_key_and_journal(settings, settings.key_path)
    for value in values:
        journal.commit([PutMeta("value", value)])
    journal.close()
    settings.market_path.touch()  # as a node does, once both are there
    return identity.node_id


def test_a_missing_key_is_refused_where_a_journal_is(settings: Settings) -> None:
    first = run(settings, 1)
    kept = settings.key_path.read_bytes()
    settings.key_path.unlink()
    with pytest.raises(StartError, match=rf"key is missing.*journal of node {first}.*Put the key"):
        run(settings)
    assert not settings.key_path.exists()
    (settings.journal_path / "anchor").unlink()  # as version 0.1.0 left it
    with pytest.raises(StartError, match=r"key is missing.*the journal that belongs to it"):
        run(settings)
    settings.key_path.write_bytes(kept)
    settings.key_path.chmod(0o600)
    assert run(settings) == first


def test_another_key_is_refused(settings: Settings) -> None:
    first = run(settings, 1)
    other = Identity.generate()
    other.save(settings.key_path)
    with pytest.raises(JournalError, match=rf"journal of node {first}.*node {other.node_id}"):
        run(settings)


def test_a_missing_journal_is_refused_where_the_node_has_run(settings: Settings) -> None:
    first = run(settings, 1)
    for file in settings.journal_path.iterdir():
        file.unlink()
    for _ in range(2):
        with pytest.raises(StartError, match=rf"journal is missing.*node {first}.*from a backup"):
            run(settings)
        if settings.journal_path.exists():
            settings.journal_path.rmdir()
    settings.market_path.unlink()  # as the message says
    assert run(settings) == first


def test_a_key_that_was_made_elsewhere_begins_a_journal(settings: Settings) -> None:
    identity = Identity.generate()
    identity.save(settings.key_path)
    assert run(settings, 1) == identity.node_id


def test_a_crash_between_journal_and_key_leaves_nothing_that_is_in_the_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Identity, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Identity, "save", full)
    with pytest.raises(OSError, match="No space"):
        run(settings)
    monkeypatch.undo()
    assert run(settings, 1) == run(settings, 2)
