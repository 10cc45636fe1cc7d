"""Restoring of a backup into an empty data directory.

A backup is older than the last event of its node, and a node that went on from it would write other events
under numbers that the network has seen. So a restored directory is marked: the node does not start on it
before `exchange-node recover` has brought it up to date (`exchange.engine.recovery`).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from config import Settings
from exchange.journal import anchor
from exchange.journal.journal import Journal
from node.daemon.backup import Advance, BackupError, Manifest, check, manifest_of
from p2p.ground.durable_file import flush_directory, replace_file
from p2p.ground.own_file import read_own

MARKER: Final = "restored.json"  # in a data directory whose node has to recover before it starts


class Restored(msgspec.Struct, frozen=True):
    """Content of the marker."""

    reason: str  # for people
    position: int  # last frame of the journal
    made: str  # UTC: state of the data


def mark(data_dir: Path, restored: Restored) -> None:
    """Keep the node from starting before it has recovered.

    Raises:
        OSError: the marker cannot be written.
    """
    replace_file(data_dir / MARKER, msgspec.json.encode(restored))


def marked(data_dir: Path) -> Restored | None:
    """Return the marker; None if the node may start."""
    try:
        return msgspec.json.decode(read_own(data_dir / MARKER, directory=data_dir), type=Restored)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        return Restored(f"{MARKER} cannot be read", 0, "")


def unmark(data_dir: Path) -> None:
    """Let the node start again."""
    (data_dir / MARKER).unlink(missing_ok=True)
    flush_directory(data_dir)


def restore(
    settings: Settings, source: Path, *, advance: Advance, as_standby: bool = False
) -> Manifest:
    """Write a backup into the data directory, which must not be in use or have a journal, and verify it. The
    node has to recover before it starts; a copy for a standby is never started as it is, so it need not, and
    the machine keeps its settings.

    Raises:
        BackupError: the directory is in use, or the backup cannot be used.
        JournalError: the journal in the backup cannot be opened.
        OSError: a file cannot be read or written.
    """
    data_dir = settings.data_dir
    manifest_of(source)
    if settings.journal_path.exists() or settings.key_path.exists():
        raise BackupError(
            f"{data_dir} has the key or the journal of a node already: restore into another directory "
            "with --data-dir, or move this one out of the way"
        )
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = data_dir / "restoring"
    with ExitStack() as undo:
        undo.callback(_remove, draft)
        _remove(draft)
        (draft / "journal").mkdir(mode=0o700, parents=True)
        manifest = check(source, advance, into=draft)
        path = draft / "journal"
        anchor.write(path / anchor.NAME, owner=manifest.node_id, position=manifest.position).close()
        journal = Journal(path, owner=manifest.node_id, background=False)
        try:
            journal.recover()
        finally:
            journal.close()
        reason = f"it was restored from a backup of {manifest.made}"
        if not as_standby:
            mark(data_dir, Restored(reason, manifest.position, manifest.made))
        for listed in manifest.files:
            if as_standby and listed.name == "exchange-node.toml":
                continue
            if not listed.name.startswith("journal/"):
                target = data_dir / listed.name
                if listed.name == "peers.json":
                    target = settings.peers_path
                (draft / listed.name).replace(target)
        path.replace(settings.journal_path)
        flush_directory(data_dir)
    return manifest


def _remove(directory: Path) -> None:
    if not directory.exists():
        return
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()
