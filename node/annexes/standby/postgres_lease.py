"""Lease store in PostgreSQL. Needs the extra `[postgres]`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import psycopg

from node.annexes.standby.lease import Lease, Read, Swap

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS exchange_node_lease (
    node text PRIMARY KEY, version bigint NOT NULL, epoch bigint NOT NULL, holder text NOT NULL,
    standby text NOT NULL, in_sync boolean NOT NULL, expires timestamptz NOT NULL)
"""
_COLUMNS: Final = "version, epoch, holder, standby, in_sync, expires <= clock_timestamp()"
_READ: Final = f"SELECT {_COLUMNS} FROM exchange_node_lease WHERE node = %(node)s"  # noqa: S608
_INSERT: Final = f"""
INSERT INTO exchange_node_lease
VALUES (%(node)s, 1, %(epoch)s, %(holder)s, %(standby)s, %(in_sync)s, clock_timestamp() + %(lease)s * interval '1 second')
ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
"""  # noqa: S608
_UPDATE: Final = f"""
UPDATE exchange_node_lease
SET version = version + 1, epoch = %(epoch)s, holder = %(holder)s, standby = %(standby)s, in_sync = %(in_sync)s,
    expires = clock_timestamp() + %(lease)s * interval '1 second'
WHERE node = %(node)s AND version = %(version)s AND (NOT %(only_expired)s OR expires <= clock_timestamp())
RETURNING {_COLUMNS}
"""  # noqa: S608


class LeaseError(Exception):
    """The store did not answer. The text has no credentials."""


class PostgresLease:
    """Row of one node. One request at a time; a connection that failed is made anew."""

    def __init__(self, url: str, node: str, *, lease: float, timeout: float) -> None:
        self._url = url
        self._node = node
        self._lease = lease
        self._timeout = timeout  # s, of a request with its connection
        self._db: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    async def ask(self, request: Read | Swap) -> tuple[Lease | None, bool]:
        """Carry out a request. Returns the row after it, and if a swap was carried out.

        Raises:
            LeaseError: it may have been carried out or not, or may yet be.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._carry_out(request)
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self.close()
                text = str(error).strip().partition("\n")[0] or "no answer in time"
                raise LeaseError(text) from error
            except BaseException:
                await self.close()
                raise

    async def _carry_out(self, request: Read | Swap) -> tuple[Lease | None, bool]:
        db = self._db or await self._connect()
        if isinstance(request, Swap):
            statement = _UPDATE if request.version else _INSERT
            done = await (await db.execute(statement.encode(), self._values(request))).fetchone()
            if done is not None:
                return _lease(done), True
        row = await (await db.execute(_READ.encode(), {"node": self._node})).fetchone()
        return (None if row is None else _lease(row)), False

    def _values(self, swap: Swap) -> dict[str, object]:
        return {
            "node": self._node,
            "lease": self._lease,
            "version": swap.version,
            "epoch": swap.epoch,
            "holder": swap.holder,
            "standby": swap.standby,
            "in_sync": swap.in_sync,
            "only_expired": swap.only_expired,
        }

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        db = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name="exchange-node lease",
            # A commit that a crash of the server forgets would give one lease to two machines.
            options="-c synchronous_commit=on -c lock_timeout=2000 -c statement_timeout=5000",
        )
        self._db = db
        await db.execute(_TABLE.encode())
        return db

    async def close(self) -> None:
        """Close the connection."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(psycopg.Error, OSError):
                await db.close()


def _lease(row: tuple[Any, ...]) -> Lease:
    version, epoch, holder, standby, in_sync, expired = row
    return Lease(
        version=version,
        epoch=epoch,
        holder=holder,
        standby=standby,
        in_sync=in_sync,
        expired=expired,
    )
