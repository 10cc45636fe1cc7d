"""Key and journal of a data directory: both or none, and of one node."""

from __future__ import annotations

from pathlib import Path

from config import Settings
from exchange.journal.completeness import owner_of
from exchange.journal.journal import Journal, JournalError, Retention
from node.daemon import role_file
from node.daemon.process import StartError
from node.parts.table import annexes, wanted
from p2p.base.identity import Identity


def open_key_and_journal(settings: Settings, key_path: Path) -> tuple[Identity, Journal]:
    """Open both, or make both. The key may be elsewhere, where a service manager keeps it. A new key is written when its journal is there: a crash in between leaves
    an empty journal, which the next key takes over.

    Raises:
        StartError: one of them is missing.
        JournalError: the journal cannot be used, or is another node's.
        OSError, ValueError: a file cannot be read or written, or is no key.
    """
    _check_role(settings)
    created = not key_path.exists()
    if created:
        _check_no_journal(settings, key_path)
        identity = Identity.generate()
    else:
        identity = Identity.load(key_path)
        _check_journal(settings, identity)
    journal = Journal(
        settings.journal_path,
        sync=settings.journal_sync,
        owner=identity.node_id,
        retention=_retention(settings),
    )
    if created:
        try:
            identity.save(key_path)
        except OSError:
            journal.close()
            raise
    return identity, journal


def _retention(settings: Settings) -> Retention | None:
    """Return the log to keep for readers of the journal that are behind."""
    kept = (annex.load(annex.retention)(settings) for annex in wanted(settings) if annex.retention)
    return next((retention for retention in kept if retention is not None), None)


def _check_role(settings: Settings) -> None:
    """Raises `StartError` if another machine may be the node of this directory."""
    role = role_file.read(settings.data_dir)
    if role is None:
        return
    if role.role == "standby":
        raise StartError(
            f"{settings.data_dir} follows a node that runs elsewhere: 'exchange-node standby promote' makes this "
            "machine the node"
        )
    if role.had_lease and not any(
        annex.load(annex.lease)(settings) for annex in annexes() if annex.lease
    ):
        raise StartError(
            "this node has a lease in a database, which says if another machine is the node now: set LEASE_POSTGRES and "
            f"STANDBY_ACK=both. To go on without a standby, make sure that no other machine runs this node, and delete "
            f"{settings.data_dir / role_file.NAME}"
        )


def holds_journal(path: Path) -> bool:
    """Check for a journal, of the present version or an earlier one."""
    return path.is_file() or any(path.glob("*.log")) or any(path.glob("a*"))


def _check_no_journal(settings: Settings, key_path: Path) -> None:
    path = settings.journal_path
    try:
        owner = owner_of(path)
    except JournalError:
        owner = ""
    if owner is not None:
        whose = f"of node {owner} " if owner else ""
        raise StartError(
            f"{key_path} is missing, and {path} has the journal {whose}that belongs to it: without "
            "the key its orders cannot be changed. Put the key back from a backup ('exchange-node restore' into another directory gives it), or start with another "
            "--data-dir to become a new node"
        )


def _check_journal(settings: Settings, identity: Identity) -> None:
    """A key alone may be one that was made elsewhere; but a node that ran here had a journal."""
    path = settings.journal_path
    if not holds_journal(path) and settings.market_path.exists():
        raise StartError(
            f"{path} is missing: the orders and balances of node {identity.node_id}, which ran here before. "
            "Put that directory back from a backup ('exchange-node restore'), or start with another --data-dir to become a new node. "
            f"To begin anew under this key, which other nodes refuse if they remember its orders, delete "
            f"{settings.market_path}"
        )
