"""SQLite files with derived data: a lost or damaged file is made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(
    path: Path, schema: str, version: int, connections: int
) -> Iterator[list[sqlite3.Connection]]:
    """Open `connections` connections to a file, creating it if it is missing.

    They stay open unless the body fails. Any thread may use a connection, one thread at a time.

    Raises:
        OSError: the file cannot be created.
        sqlite3.OperationalError: the file cannot be opened now.
        sqlite3.DatabaseError: the file is damaged or of another version.
    """
    made: list[sqlite3.Connection] = []
    try:
        path.touch(mode=0o600, exist_ok=True)
        made.extend(
            sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for _ in range(connections)
        )
        db = made[0]
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            db.executescript(f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")
        elif found != version:
            raise sqlite3.DatabaseError(f"version {found}, this program writes {version}")
        yield made
    except BaseException:
        for connection in made:
            connection.close()
        raise
