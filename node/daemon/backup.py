"""Backup of a data directory: one tar file with all that makes the node what it is.

Theory of operation. A backup is the state of the journal after one frame, its position. The journal's files
are opened first, so that nothing is lost when the node deletes old ones meanwhile. Archive and market
history are copied next, each as SQLite shows it at one moment. Then the anchor names the last frame that is
on the disk, and the log is copied up to it, every frame checked. Nothing in a backup is later than its
position, and a running node does not wait for any of it.

The last member is the manifest: position, node, versions, and size and SHA-256 of each file. A file without
it was cut off.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from config import Settings
from exchange.journal.frames import FILE_HEAD_SIZE, FrameFault, JournalError
from exchange.journal.journal import SCHEMA_VERSION
from exchange.journal.journal_reader import JournalReader, frames_of
from exchange.journal.write_ahead_log import EARLIEST_VERSION, LOG_SUFFIX
from node.version import VERSION
from p2p.ground.durable_file import flush_directory

MANIFEST: Final = "exchange-node-backup.json"
FORMAT: Final = 1
CHUNK: Final = 2**20
_PAGES: Final = 256  # of an SQLite file, copied in one step
_MEMBER: Final = re.compile(
    r"node\.key|market\.sqlite3|market-steps\.toml|exchange-node\.toml|api-(cert|key)\.pem|peers\.json|"
    r"journal/(\d{20}\.(log|state)|archive\.sqlite3)",
    re.ASCII,
)
Advance = Callable[[int], None]  # gets the number of bytes that were processed


class BackupError(Exception):
    """A backup cannot be made or used. The message names the problem and the remedy."""


class BackupFile(msgspec.Struct, frozen=True):
    """A file in a backup."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """Contents of a backup."""

    format: int
    made: str  # UTC
    program: str
    journal_version: int
    node_id: str
    network: str
    position: int  # last frame of the journal
    has_key: bool
    files: list[BackupFile]


class HashedReader(io.RawIOBase):
    """Reader of the first `size` bytes of a file that hashes them."""

    def __init__(self, source: IO[bytes], size: int, advance: Advance) -> None:
        self._source = source
        self._left = size
        self._advance = advance
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.hash.update(data)
        self._advance(len(data))
        return data


class _Writer:
    """Tar file under construction that hashes its members."""

    def __init__(self, path: Path, advance: Advance) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(fd, "w+b")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._advance = advance
        self.files: list[BackupFile] = []

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """Add `size` bytes of `source` as a member."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(time.time())
        hashed = HashedReader(source, size, self._advance)
        self._tar.addfile(info, hashed)
        self.files.append(BackupFile(name, size, hashed.hash.hexdigest()))

    def finish(self, manifest: bytes) -> None:
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode, info.mtime = len(manifest), 0o600, int(time.time())
        self._tar.addfile(info, io.BytesIO(manifest))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def size_of(settings: Settings) -> int:
    """Return about how many bytes `back_up` will process: each is written and read again."""
    files = [settings.market_path, *settings.journal_path.glob("*")]
    return 2 * sum(path.stat().st_size for path in files if path.is_file())


def back_up(
    settings: Settings, target: Path, *, key_path: Path | None, advance: Advance
) -> Manifest:
    """Write a backup of the node's data directory to the file `target`, and verify it. The node may be
    running. Without `key_path` the key is left out.

    Raises:
        BackupError: there is no journal, or nothing may be written there.
        JournalError: the journal is damaged.
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    if target.exists():
        raise BackupError(f"{target} exists: choose another name, or remove it first")
    if not settings.journal_path.is_dir():
        raise BackupError(
            f"{settings.data_dir} has no journal: name the node's directory with --data-dir"
        )
    draft = target.with_name(target.name + ".partial")
    # Of a fixed name, so that an interruption at any moment leaves neither.
    scratch = target.with_name(f".{target.name}.scratch")
    try:
        writer = _Writer(draft, advance)
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
            scratch.mkdir(mode=0o700)
            with JournalReader(settings.journal_path) as reader:
                manifest = _write(settings, writer, reader, scratch, key_path)
        finally:
            writer.close()
        check(draft, advance)
        draft.rename(target)
        flush_directory(target.absolute().parent)
    finally:
        draft.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _write(
    settings: Settings, writer: _Writer, reader: JournalReader, scratch: Path, key: Path | None
) -> Manifest:
    for name, path in _small_files(settings, key):
        if path.exists():
            data = path.read_bytes()
            writer.add(name, io.BytesIO(data), len(data))
    if settings.market_path.exists():
        with _copied(settings.market_path, scratch) as copy:
            writer.add("market.sqlite3", copy, _length(copy))
    archived, archive = 0, settings.journal_path / "archive.sqlite3"
    if archive.exists():
        with _copied(archive, scratch) as copy:
            with closing(sqlite3.connect(copy.name)) as db:
                (archived,) = db.execute("SELECT frame FROM place").fetchone()
            writer.add("journal/archive.sqlite3", copy, _length(copy))
    reader.refresh()
    position = _position(reader)
    reader.refresh()  # the segment of that position may have been begun in between
    if max(archived, reader.snapshot) > position:
        raise JournalError(
            f"{reader.path}: the log ends at commit {position:,}, before {max(archived, reader.snapshot):,}, "
            "which archive or snapshot have: 'exchange-node journal verify' says more"
        )
    if reader.snapshot:
        reader.state()  # raises if it is damaged
        data = reader.snapshot_data()
        writer.add(f"journal/{reader.snapshot:020}.state", io.BytesIO(data), len(data))
    _add_log(writer, reader, position, min(reader.snapshot, archived))
    found = reader.anchor()
    manifest = Manifest(
        format=FORMAT,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        program=VERSION,
        journal_version=SCHEMA_VERSION,
        node_id="" if found is None else found[0],
        network=settings.p2p_network,
        position=position,
        has_key=key is not None,
        files=writer.files,
    )
    writer.finish(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    return manifest


def _small_files(settings: Settings, key: Path | None) -> Iterator[tuple[str, Path]]:
    if key is not None:
        yield "node.key", key
    yield "peers.json", settings.peers_path
    for name in ("exchange-node.toml", "market-steps.toml", "api-cert.pem", "api-key.pem"):
        yield name, settings.data_dir / name


def _length(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _position(reader: JournalReader) -> int:
    """Return the last frame that is known to be on the disk."""
    found = reader.anchor()
    if found is not None:
        return found[1]
    # Version 0.1.0 had no anchor.
    return max([reader.snapshot, *(frame.number for frame in reader.frames(reader.snapshot))])


def _add_log(writer: _Writer, reader: JournalReader, position: int, after: int) -> None:
    """Add the segments with frames after `after`, the last one up to `position`; every frame is checked."""
    segments = reader.segments
    reached = 0
    for index, first in enumerate(segments):
        if first > position or (index + 1 < len(segments) and segments[index + 1] <= after + 1):
            continue
        if reached and first != reached + 1:
            raise JournalError(f"{reader.path} lacks the segment of frame {reached + 1:,}")
        path, data, end = reader.segment_path(first), reader.segment_data(first), FILE_HEAD_SIZE
        try:
            for frame in frames_of(path, data, first):
                reached, end = frame.number, frame.end
                if reached == position:
                    break
        except FrameFault as fault:
            if reached < position and index + 1 == len(segments):
                raise JournalError(f"{path}, offset {end}: {fault}") from fault
        writer.add(f"journal/{first:020}{LOG_SUFFIX}", io.BytesIO(data[:end]), end)
    if reached < position and not (reader.snapshot == position and not segments):
        raise JournalError(
            f"{reader.path}: the log ends at commit {reached:,}, and {position:,} were written: "
            "'exchange-node journal verify' says more"
        )


@contextmanager
def _copied(path: Path, scratch: Path) -> Iterator[IO[bytes]]:
    """Copy an SQLite file as of one moment, during writes by others, and check the copy."""
    copy = scratch / path.name
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # fixes the moment
        source.backup(target, pages=_PAGES)
        target.execute("PRAGMA journal_mode = DELETE")
        found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise BackupError(f"{path} is damaged ({found}): see 'exchange-node journal verify'")
    with copy.open("rb") as file:
        yield file
    copy.unlink()


# Checking


def manifest_of(path: Path) -> Manifest:
    """Read the manifest of a backup.

    Raises:
        BackupError: it is no backup, incomplete, or of a later version.
        OSError: it cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            file = tar.extractfile(MANIFEST)
            data = b"" if file is None else file.read()
        version = msgspec.json.decode(data)["format"]
        if version != FORMAT:
            raise BackupError(f"{path} has backup format {version}; this program reads {FORMAT}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (tarfile.TarError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise BackupError(
            f"{path} is no complete backup made by 'exchange-node backup' ({error})"
        ) from error
    if not EARLIEST_VERSION <= manifest.journal_version <= SCHEMA_VERSION:
        raise BackupError(
            f"{path} has journal version {manifest.journal_version}; this program reads "
            f"{EARLIEST_VERSION} to {SCHEMA_VERSION}"
        )
    for listed in manifest.files:
        if not _MEMBER.fullmatch(listed.name):
            raise BackupError(f"{path} has a file that no backup has: {listed.name!r}")
    return manifest


def check(path: Path, advance: Advance, *, into: Path | None = None) -> Manifest:
    """Compare every file of a backup with the manifest; with `into`, write it there too.

    Raises:
        BackupError: the backup is damaged.
        OSError: a file cannot be read or written.
    """
    manifest = manifest_of(path)
    with tarfile.open(path, "r:") as tar:
        for listed in manifest.files:
            try:
                source = tar.extractfile(listed.name)
            except KeyError:
                source = None
            if source is None:
                raise BackupError(f"{path} is damaged: {listed.name} is missing")
            hashed = HashedReader(source, listed.size, advance)
            target = os.devnull if into is None else into / listed.name
            fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(fd, "wb") as out:
                while data := hashed.read(CHUNK):
                    out.write(data)
                if into is not None:
                    out.flush()
                    os.fsync(out.fileno())
            if hashed.hash.hexdigest() != listed.sha256:
                raise BackupError(f"{path} is damaged: {listed.name} differs from its checksum")
    return manifest
