"""Primary side of a standby, as the settings want it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from config import Settings
from node.annexes.standby.lease import Terms
from node.annexes.standby.primary import Primary
from node.annexes.standby.settings import StandbySettings
from node.daemon import released_position, role_file
from node.daemon.backup import back_up
from node.daemon.process import StartError
from node.daemon.role_file import Role
from node.parts.annex import NodeContext

if TYPE_CHECKING:
    from node.annexes.standby.postgres_lease import PostgresLease
    from node.annexes.standby.standby_part import StandbyPart

TERMS: Final = Terms()


def check_standby(settings: Settings) -> None:
    """Check the settings of a standby against each other.

    Raises:
        StartError: they do not fit.
    """
    settings = settings.of(StandbySettings)
    if len(settings.standby_allow) > 1 or len(settings.standby_listen) > 1:
        raise StartError("STANDBY_ALLOW and STANDBY_LISTEN take one machine and one address")
    if bool(settings.standby_allow) != bool(settings.standby_listen):
        raise StartError("STANDBY_ALLOW and STANDBY_LISTEN belong together: set both, or none")
    used = settings.standby_allow or settings.lease_postgres
    if used and settings.standby_ack == "both" and settings.journal_sync != "full":
        raise StartError(
            "STANDBY_ACK=both needs JOURNAL_SYNC=full: a machine whose disk forgets cannot tell what its standby had"
        )
    if settings.lease_postgres and find_spec("psycopg") is None:
        raise StartError(
            "LEASE_POSTGRES needs psycopg, which is not installed: install exchange-node[postgres], or leave "
            "LEASE_POSTGRES empty"
        )


def holds_lease(settings: Settings) -> bool:
    """Check if a lease says which machine is the node."""
    own = settings.of(StandbySettings)
    return bool(own.lease_postgres) and own.standby_ack == "both"


def lease_store(settings: StandbySettings, node: str) -> PostgresLease | None:
    """Return the lease store of a node; None without one."""
    if not settings.lease_postgres:
        return None
    from node.annexes.standby.postgres_lease import PostgresLease

    return PostgresLease(
        settings.lease_postgres, node, lease=TERMS.lease, timeout=TERMS.store_timeout
    )


def standby_part(context: NodeContext) -> StandbyPart | None:
    """Return the primary side of a standby; None if the settings want neither standby nor lease.

    Raises:
        ValueError, OSError: a file of the data directory cannot be used.
    """
    if context.recovering:
        return None
    settings, journal = context.settings.of(StandbySettings), context.journal
    if settings.standby_ack == "first" or not settings.standby_allow:
        released_position.remove(settings.data_dir)
    if not settings.standby_allow and not settings.lease_postgres:
        return None
    from node.annexes.standby.link import boot_time
    from node.annexes.standby.primary_service import PrimaryService
    from node.annexes.standby.standby_part import StandbyPart

    journal.flush_all = True
    data_dir = settings.data_dir
    role = role_file.read(data_dir)
    if role is None:
        role = Role(role="primary", epoch=1)
        role_file.write(data_dir, role)
    store = lease_store(settings, context.identity.node_id)
    primary = Primary(
        role_file.machine_identity(data_dir).node_id,
        settings.standby_allow[0] if settings.standby_allow else "",
        Terms(both=settings.standby_ack == "both", store=store is not None),
        role,
        journal.committed,
        now=boot_time(),
    )
    service = PrimaryService(
        primary,
        journal,
        data_dir,
        store=store,
        copy=partial(back_up, settings, key_path=context.key_path, advance=lambda size: None),
        stopped=context.stopped,
    )
    return StandbyPart(settings, service)
