"""`exchange-node standby`: follow a node, and become it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from config import HostPort, Loaded, Settings
from exchange.journal.frames import JournalError
from exchange.journal.journal import Journal
from node.annexes.standby.lease import Read, Swap, Terms
from node.annexes.standby.link import Link, LinkError, boot_time, dial
from node.annexes.standby.link_messages import CopyEnd, CopyNeeded, CopyPart, Refused, Ship
from node.annexes.standby.settings import StandbySettings
from node.annexes.standby.standby import Gap, Promotion, Standby
from node.annexes.standby.standby_setup import check_standby, lease_store
from node.client.node_finder import data_dir_option, same_node
from node.daemon import role_file
from node.daemon.backup import BackupError
from node.daemon.process import (
    EXIT_FAILED,
    EXIT_OK,
    StartError,
    claim_descriptors,
    configure_logging,
    loop_factory,
    tell,
)
from node.daemon.restore import Restored, mark, restore, unmark
from node.daemon.role_file import Role
from node.daemon.run_node import lock_directory, run
from p2p.base.identity import Identity
from p2p.ground.durable_file import replace_file

log = logging.getLogger(__name__)

TURN: Final = 0.05  # s between two looks at the clock
REDIAL: Final = 0.25  # s
REQUEST: Final = "standby-promote"  # file in the data directory: a person wants the promotion
STATUS: Final = "standby-status.json"
STATUS_EVERY: Final = 1.0  # s


class StandbyStatus(msgspec.Struct):
    """State of a standby, for people."""

    time: float
    machine: str
    primary: str
    connected: bool
    in_sync: bool | None  # as was known last; None without a lease store
    epoch: int
    position: int
    trouble: str
    refused: str


def read_status(data_dir: Path) -> dict[str, Any] | None:
    """Return what a standby noted last; None if none did."""
    try:
        found: dict[str, Any] = msgspec.json.decode((data_dir / STATUS).read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return found


def request_promotion(data_dir: Path, *, lossy: bool) -> None:
    """Leave a person's request for the process that follows."""
    replace_file(data_dir / REQUEST, b"lossy" if lossy else b"in sync", durable=False)


def refusal(data_dir: Path, since: float) -> str:
    """Return why the last request was refused, noted after `since`; "" if it was not."""
    found = read_status(data_dir)
    if found is None or found["time"] <= since or (data_dir / REQUEST).exists():
        return ""
    return str(found["refused"])


class _Copy(Exception):
    """The standby has a new copy."""


def run_standby(loaded: Loaded, of: HostPort, *, as_json: bool = False) -> int:
    """Follow the node at `of`, and run it when it is taken over; returns the exit code."""
    settings = loaded.settings
    try:
        check_standby(settings)
        claim_descriptors()
        configure_logging(settings)
        role = role_file.read(settings.data_dir)
        if role is None or role.role == "standby":
            with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory()) as runner:
                promoted = runner.run(_follow(settings, of, stack))
            if promoted is None:
                return EXIT_OK
            if promoted.lossy:
                tell(
                    "exchange-node: this machine is the node now, and may lack its last events: run 'exchange-node "
                    "recover --from-peers', then start it",
                    sys.stderr,
                )
                return EXIT_OK
            tell("exchange-node: this machine is the node now", sys.stderr)
    except StartError as error:
        where = data_dir_option(settings.data_dir)
        tell(f"exchange-node: {same_node(str(error), where)}", sys.stderr)
        return error.code
    except (JournalError, BackupError, OSError, ValueError) as error:
        tell(f"exchange-node: the standby has stopped: {error}", sys.stderr)
        return EXIT_FAILED
    return run(loaded, as_json=as_json)


async def _follow(settings: Settings, of: HostPort, stack: ExitStack) -> Promotion | None:
    data_dir = settings.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_directory(settings.lock_path, stack)
    role = role_file.read(data_dir)
    if role is None:
        if settings.journal_path.exists() or settings.key_path.exists():
            raise StartError(
                f"{data_dir} has the journal or the key of a node: a standby needs a directory of its own. Name an empty "
                "one with --data-dir"
            )
        role_file.write(data_dir, Role(role="standby", epoch=0))
    identity = role_file.machine_identity(data_dir)
    tell(
        f"exchange-node: standby {identity.node_id} of {of}; the primary needs STANDBY_ALLOW={identity.node_id}",
        sys.stderr,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    while True:
        follower = Follower(settings.of(StandbySettings), of, identity)
        try:
            return await follower.run(stop)
        except _Copy:
            continue
        finally:
            await follower.close()


class Follower:
    """A standby with the copy that it has now."""

    def __init__(self, settings: StandbySettings, of: HostPort, identity: Identity) -> None:
        """Raises JournalError, OSError, ValueError: the copy cannot be used."""
        self._settings = settings
        self._data_dir = settings.data_dir
        self._of = of
        self._identity = identity
        role = role_file.read(self._data_dir)
        if role is None:
            raise ValueError(f"{self._data_dir / role_file.NAME} is gone")
        self._role = role
        self._journal: Journal | None = None
        self._node = ""
        position = checksum = 0
        if role.epoch:
            self._node = Identity.load(settings.key_path).node_id
            self._journal = Journal(settings.journal_path, sync="full", owner=self._node)
            position = self._journal.committed
            found = self._journal.reader_after(position)
            if found is not None:
                found[0].close()
                checksum = found[1]
        self._store = lease_store(settings, self._node) if role.epoch else None
        self._standby = Standby(
            identity.node_id,
            Terms(store=self._store is not None),
            role.epoch,
            position,
            checksum,
            now=boot_time(),
        )
        self._link: Link | None = None
        self._trouble = ""
        self._asking: asyncio.Task[None] | None = None
        self._in_sync: bool | None = None

    async def run(self, stop: asyncio.Event) -> Promotion | None:
        """Follow until the take-over, which is returned, or `stop`.

        Raises:
            _Copy: there is a new copy.
            JournalError, OSError: the disk failed.
        """
        following = asyncio.create_task(self._connect(), name="primary")
        clock = asyncio.create_task(self._turns(), name="lease")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        tasks: list[asyncio.Task[Any]] = [following, clock, stopping]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            return clock.result() if clock.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close journal and connections."""
        if self._link is not None:
            self._link.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._store is not None:
            await self._store.close()
        if self._journal is not None:
            self._journal.close()

    # Lease

    async def _turns(self) -> Promotion:
        """Ask the store when it is time. Returns after the take-over, when the new role is on the disk."""
        noted = 0.0
        while True:
            self._take_request()
            wanted = self._standby.poll(boot_time())
            if wanted is not None and self._store is not None:
                self._asking = asyncio.create_task(self._ask(wanted), name="lease")
            promoted = self._standby.promoted
            if promoted is not None:
                if not promoted.lossy:
                    unmark(self._data_dir)  # a lossy request was not needed
                role = Role(role="primary", epoch=promoted.epoch, had_lease=self._store is not None)
                role_file.write(self._data_dir, role)
                (self._data_dir / STATUS).unlink(missing_ok=True)
                return promoted
            if self._link is not None and self._standby.is_silent(boot_time()):
                self._link.close()
            if boot_time() - noted >= STATUS_EVERY:
                noted = boot_time()
                self._note_status()
            await asyncio.sleep(TURN)

    async def _ask(self, request: Read | Swap) -> None:
        from node.annexes.standby.postgres_lease import LeaseError

        assert self._store is not None  # noqa: S101 - it asks only with one
        try:
            row, done = await self._store.ask(request)
        except LeaseError as error:
            self._note_trouble(f"the lease store does not answer: {error}")
            return
        if row is not None:
            self._in_sync = row.in_sync and row.standby == self._identity.node_id
        self._standby.answered(request, row, done=done)

    def _take_request(self) -> None:
        """Carry out what `exchange-node standby promote` left, and say why not if it is refused."""
        path = self._data_dir / REQUEST
        if path.exists() and self._role.epoch:
            lossy = path.read_text("ascii").strip() == "lossy"
            path.unlink()
            if lossy:  # before anything can be in effect
                reason = "it took over as a standby that may lack its last events"
                made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                mark(self._data_dir, Restored(reason, self._standby.position, made))
            self._standby.promote(lossy=lossy)

    def _note_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            log.warning("%s", text)

    def _note_status(self) -> None:
        status = StandbyStatus(
            time=time.time(),
            machine=self._identity.node_id,
            primary=self._role.primary,
            connected=self._link is not None,
            in_sync=self._in_sync,
            epoch=self._role.epoch,
            position=self._standby.position,
            trouble="" if self._link is not None else self._trouble,
            refused=self._standby.refused or "",
        )
        replace_file(self._data_dir / STATUS, msgspec.json.encode(status), durable=False)

    # Link

    async def _connect(self) -> NoReturn:
        """Follow the primary over one connection after the other."""
        while True:
            try:
                link = await dial(self._of.host, self._of.port, self._identity)
                try:
                    self._check_primary(link.peer)
                    link.send(self._standby.hello(boot_time()))
                    self._link = link
                    await self._receive(link)
                finally:
                    self._link = None
                    link.close()
            except (LinkError, Gap) as error:
                self._note_trouble(f"the primary at {self._of} is away: {error}")
            await asyncio.sleep(REDIAL)

    def _check_primary(self, machine: str) -> None:
        """Remember the machine at first use, and accept no other one later."""
        known = self._role.primary
        if known and known != machine:
            raise LinkError(
                f"machine {machine} answers there, not {known}: if that is right, begin in an empty directory"
            )
        if not known:
            self._role = msgspec.structs.replace(self._role, primary=machine)
            role_file.write(self._data_dir, self._role)

    async def _receive(self, link: Link) -> None:
        while True:
            message = await link.receive()
            if isinstance(message, Ship):
                self._in_sync = message.in_sync if self._store is not None else None
                if not self._standby.shipped(message, boot_time()):
                    return
                checksum = await _finished(lambda message=message: self._append(message))  # type: ignore[misc]
                ack = self._standby.flushed(message, checksum, boot_time())
                link.send(ack)
                await link.drain()
            elif isinstance(message, CopyNeeded):
                await self._take_copy(link)
            elif isinstance(message, Refused):
                raise LinkError(message.reason)
            else:
                raise LinkError("an unexpected message")

    def _append(self, ship: Ship) -> int:
        """Append frames, flush, and return the checksum of the last frame."""
        journal = self._journal
        assert journal is not None  # noqa: S101 - of another epoch the frames were refused
        last = len(ship.frames)
        for number, payload in enumerate(ship.frames, 1):
            journal.append_frame(ship.after + number, payload, sync=number == last)
        return zlib.crc32(ship.frames[-1]) if ship.frames else self._standby.checksum

    async def _take_copy(self, link: Link) -> NoReturn:
        """Replace journal and key by a copy of the primary's."""
        draft = self._data_dir / "copy.partial"
        draft.unlink(missing_ok=True)
        log.warning("getting a copy of the node")
        with open(draft, "wb", opener=_private) as file:  # noqa: ASYNC230 - opens a file of its own
            while True:
                message = await link.receive()
                if isinstance(message, CopyEnd):
                    break
                if not isinstance(message, CopyPart):
                    raise LinkError("an unexpected message")
                self._standby.heard(boot_time())
                await asyncio.to_thread(file.write, message.data)
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        primary = self._role.primary
        self._role = Role(role="standby", epoch=0, primary=primary)
        role_file.write(self._data_dir, self._role)  # until the copy is whole
        await _finished(lambda: _replace(self._settings, draft))
        role_file.write(self._data_dir, Role(role="standby", epoch=message.epoch, primary=primary))
        raise _Copy


async def _finished(work: Callable[[], int]) -> int:
    """Do `work` in a thread, to its end even if this is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _replace(settings: Settings, copy: Path) -> int:
    """Put a copy in the place of the one before."""
    if settings.journal_path.exists():
        shutil.rmtree(settings.journal_path)
    settings.key_path.unlink(missing_ok=True)
    settings.market_path.unlink(missing_ok=True)
    manifest = restore(settings, copy, advance=lambda size: None, as_standby=True)
    copy.unlink()
    return manifest.position
