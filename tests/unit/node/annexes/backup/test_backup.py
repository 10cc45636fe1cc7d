"""A backup of a journal that is being written is the state after one commit; restore checks it all."""

from __future__ import annotations

import random
import tarfile
import threading
import time
from pathlib import Path

import pytest
from journal_kit import FILL, replace

from config import Settings
from exchange.journal import write_ahead_log
from exchange.journal.journal import Journal, JournalError
from exchange.model.records import PutMeta
from node.daemon.backup import MANIFEST, BackupError, back_up, manifest_of
from node.daemon.restore import marked, restore
from p2p.base.identity import Identity


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "node")


def no_progress(size: int) -> None:
    pass


def commit(journal: Journal, number: int) -> None:
    journal.commit([PutMeta("last", number), replace(FILL, take=number)])


def open_journal(settings: Settings, owner: str) -> Journal:
    return Journal(settings.journal_path, owner=owner, segment_bytes=4000, snapshot_bytes=8000)


def some_node(settings: Settings, commits: int = 50) -> Identity:
    settings.data_dir.mkdir()
    identity = Identity.generate()
    identity.save(settings.key_path)
    settings.peers_path.write_text("[]")
    journal = open_journal(settings, identity.node_id)
    for number in range(1, commits + 1):
        commit(journal, number)
    journal.close()
    return identity


def backed_up(settings: Settings, target: Path) -> int:
    return back_up(settings, target, key_path=settings.key_path, advance=no_progress).position


def test_backups_under_load_are_whole_and_of_their_position(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "flush", lambda fd: None)  # many commits, no slow disk
    identity = some_node(settings)
    journal = open_journal(settings, identity.node_id)
    stop = threading.Event()
    last = 50

    def write() -> None:
        nonlocal last
        while not stop.is_set():
            commit(journal, last + 1)
            last += 1
            if not last % 20:
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    positions: list[int] = []
    try:
        for number in range(8):
            while positions and last <= positions[-1]:  # a busy machine may not let it write
                time.sleep(0.001)
            positions.append(backed_up(settings, tmp_path / f"{number}.tar"))
    finally:
        stop.set()
        writer.join()
        journal.close()
    assert positions == sorted(set(positions))
    assert positions[-1] > positions[0] + 50, "nothing was written meanwhile"
    for number, position in enumerate(positions):
        restored = Settings(data_dir=tmp_path / f"restored {number}")
        restore(restored, tmp_path / f"{number}.tar", advance=no_progress)
        again = Journal(restored.journal_path, owner=identity.node_id, background=False)
        assert again.recover().meta == {"last": position}
        takes = [fill.take for fill in again.history().fills(limit=-1)]
        assert takes == list(range(position, 0, -1))
        assert again.notes == []
        again.close()
        assert Identity.load(restored.key_path).node_id == identity.node_id
        assert marked(restored.data_dir) is not None


def test_damage_anywhere_is_found(settings: Settings, tmp_path: Path) -> None:
    some_node(settings)
    target = tmp_path / "backup.tar"
    backed_up(settings, target)
    assert target.stat().st_mode & 0o077 == 0
    whole = target.read_bytes()
    with tarfile.open(target) as tar:
        spans = [
            (info.offset_data, info.offset_data + info.size)
            for info in tar.getmembers()
            if info.name != MANIFEST
        ]
    rng = random.Random(5)
    for start, end in spans:
        offset = rng.randrange(start, end)
        target.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with pytest.raises(BackupError, match="differs from its checksum"):
            restore(Settings(data_dir=tmp_path / "new"), target, advance=no_progress)
        assert not (tmp_path / "new" / "journal").exists()
        assert not (tmp_path / "new" / "restoring").exists()
    for length in (0, 100, len(whole) // 2):
        target.write_bytes(whole[:length])
        with pytest.raises(BackupError, match="no complete backup"):
            manifest_of(target)


def test_other_members_than_those_of_a_backup_are_refused(
    settings: Settings, tmp_path: Path
) -> None:
    some_node(settings)
    target = tmp_path / "backup.tar"
    backed_up(settings, target)
    data = target.read_bytes().replace(b'"name": "peers.json"', b'"name": "../../evil"')
    target.write_bytes(data)
    with pytest.raises(BackupError, match="no backup has"):
        restore(Settings(data_dir=tmp_path / "new"), target, advance=no_progress)


def test_a_directory_with_a_node_is_not_overwritten(settings: Settings, tmp_path: Path) -> None:
    some_node(settings)
    target = tmp_path / "backup.tar"
    backed_up(settings, target)
    with pytest.raises(BackupError, match="has the key or the journal"):
        restore(settings, target, advance=no_progress)
    with pytest.raises(BackupError, match="exists"):
        backed_up(settings, target)


def test_a_damaged_journal_is_not_backed_up(settings: Settings, tmp_path: Path) -> None:
    some_node(settings)
    log = max(settings.journal_path.glob("*.log"))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(JournalError, match=log.name):
        backed_up(settings, tmp_path / "backup.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["node"]
