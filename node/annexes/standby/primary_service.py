"""Primary side of a standby on sockets and disks: the gate that everything passes which leaves the node."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from exchange.journal.frames import JournalError
from exchange.journal.journal import Journal
from exchange.journal.write_ahead_log import Tail
from node.annexes.standby.lease import Read, Swap
from node.annexes.standby.link import Link, LinkError, boot_time
from node.annexes.standby.link_messages import (
    Ack,
    CopyEnd,
    CopyNeeded,
    CopyPart,
    Hello,
    Refused,
    Ship,
)
from node.annexes.standby.postgres_lease import LeaseError, PostgresLease
from node.annexes.standby.primary import Primary, ShipFrames
from node.daemon import role_file
from node.daemon.released_position import ReleasedPosition
from node.daemon.role_file import Role
from node.views.node_views import StandbyView
from p2p.base.listener import Cuttable, Listener, listen
from p2p.base.places import Places, Rank
from p2p.ground.owned_tasks import OwnedTasks
from p2p.wire.tls import server_context

log = logging.getLogger(__name__)

TURN: Final = 0.02  # s between two looks at the clock
FIRST_MESSAGE: Final = 5.0  # s that a standby gets for its handshake, then to say Hello
FIRST_ANSWER: Final = 2.0  # s that the lease store gets before the node starts without its answer
MAX_LINKS: Final = 8  # connections at once, of the standby or not, from their acceptance;
LINKS_PER_ADDRESS: Final = 4  # those of one address other than this machine
PART: Final = 2**20  # bytes of a copy in a message


class _Visit:
    """A connection with its slot."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.address = str(writer.get_extra_info("peername", ("",))[0])

    def cut(self) -> None:
        self._writer.transport.abort()


class PrimaryService:
    """Gate of a committer. `stopped` is called with the reason when nothing may leave any more."""

    def __init__(
        self,
        primary: Primary,
        journal: Journal,
        data_dir: Path,
        *,
        store: PostgresLease | None,
        copy: Callable[[Path], object],
        stopped: Callable[[str], None],
    ) -> None:
        """`copy` writes a backup with the key to a file."""
        self.primary = primary
        self._journal = journal
        self._data_dir = data_dir
        self._store = store
        self._copy = copy
        self._stopped = stopped
        self._had_lease = False
        self._released = (
            ReleasedPosition(data_dir, journal.committed)
            if primary.waits and primary.standby
            else None
        )
        self._held: deque[tuple[int, int, Callable[[], None]]] = deque()  # unit, position, call
        self._link: Link | None = None
        self._tail: Tail | None = None
        self._server: Listener | None = None
        self._links = OwnedTasks(log)
        self._places = Places[Cuttable](MAX_LINKS, LINKS_PER_ADDRESS)
        self._handshakes = OwnedTasks(log)
        self._asking = OwnedTasks(log)
        self._trouble = ""  # of the store

    # Gate

    def hold(self, position: int, call: Callable[[], None]) -> None:
        """Call when all frames up to `position` may leave, in the order of the calls of this."""
        self._held.append((self.primary.wants_to_leave(position), position, call))
        self._step()

    @property
    def serves(self) -> bool:
        """Report if this machine may answer requests now."""
        return self.primary.serves(boot_time())

    def view(self) -> StandbyView:
        """Return the state of standby and lease."""
        primary = self.primary
        age = primary.proof_age(boot_time())
        return StandbyView(
            machine=primary.machine,
            standby=primary.standby,
            connected=primary.lag is not None,
            in_sync=None if self._store is None or not primary.waits else primary.in_sync,
            waits=primary.bound,
            lag=primary.lag,
            epoch=primary.epoch,
            proof_age_s=None if age is None else round(age, 3),
        )

    def warnings(self) -> list[str]:
        """Return what a person should know about standby and lease."""
        primary, found = self.primary, []
        if primary.standby and primary.lag is None:
            found.append(f"standby: machine {primary.standby} is not connected")
        elif primary.standby and self._store is not None and primary.waits and not primary.in_sync:
            found.append("standby: it is not in sync, and does not take over by itself")
        if self._trouble:
            found.append(f"standby: the lease store does not answer: {self._trouble}")
        return found

    def _step(self) -> None:
        """Send what the protocol wants to send, and let go what may leave."""
        for effect in self.primary.poll(boot_time()):
            if isinstance(effect, ShipFrames):
                self._ship(effect)
            elif isinstance(effect, Read | Swap):
                self._asking.start(self._ask(effect), name="lease")
        if self.primary.stopped is not None:
            self._stopped(self.primary.stopped)
            return
        left = self.primary.leaves(boot_time())
        while self._held and self._held[0][0] <= left:
            _, position, call = self._held.popleft()
            if self._released is not None:
                self._released.note(position)
            call()

    # Life

    async def listen(self, host: str, port: int) -> None:
        """Accept the standby.

        Raises:
            OSError: not there.
        """

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._links.start(self._accept(reader, writer))

        def make() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(2**20), begin)

        self._server = await listen(
            make,
            host,
            port,
            context=server_context(role_file.machine_identity(self._data_dir)),
            places=self._places,
            tasks=self._handshakes,
        )

    async def run(self) -> None:
        """Look at the clock, until it is cancelled."""
        while True:
            self._step()
            await asyncio.sleep(TURN)

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        await self._handshakes.close()
        await self._links.close()
        await self._asking.close()
        if self._store is not None:
            await self._store.close()
        self._forget_link()
        if self._released is not None:
            self._released.close()

    # Store

    async def check_lease(self) -> str | None:
        """Ask the lease store before the node starts. Returns why this machine must not be the node; None if it may, or
        if the store does not answer: then nothing leaves until it does.
        """
        deadline = boot_time() + FIRST_ANSWER
        primary = self.primary
        while primary.stopped is None and not primary.knows_lease and boot_time() < deadline:
            for effect in primary.poll(boot_time()):
                if isinstance(effect, Read | Swap):
                    await self._ask(effect)
            if not primary.knows_lease:
                await asyncio.sleep(TURN)
        return primary.stopped

    async def _ask(self, request: Read | Swap) -> None:
        assert self._store is not None  # noqa: S101 - it asks only with one
        try:
            row, done = await self._store.ask(request)
        except LeaseError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.warning("the lease store does not answer: %s", error)
            return
        self._trouble = ""
        if row is not None and not self._had_lease:
            role = Role(role="primary", epoch=self.primary.epoch, had_lease=True)
            await asyncio.to_thread(role_file.write, self._data_dir, role)
            self._had_lease = True
        before = self.primary.in_sync
        self.primary.answered(request, row, done=done, now=boot_time())
        if self.primary.in_sync != before:
            log.info("the standby is %s", "in sync" if self.primary.in_sync else "not in sync")
        self._step()

    # Link

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = _Visit(writer)
        goes = self._places.enter(visit, visit.address)
        if goes is not None:
            goes.cut()
        if goes is visit:
            return
        link = None
        try:
            link = Link(reader, writer)
            if link.peer == self.primary.standby:
                self._places.rise(visit, Rank.OPERATOR)
            await self._serve(link)
        except (LinkError, JournalError, TimeoutError) as error:
            log.info("the connection of a standby ended: %s", error or "no message in time")
        finally:
            self._places.leave(visit)
            if link is not None:
                link.close()
            if link is not None and self._link is link:
                self._forget_link()
                self.primary.disconnected(boot_time())
                self._step()

    async def _serve(self, link: Link) -> None:
        if link.peer != self.primary.standby:
            log.warning("machine %s is not the one in STANDBY_ALLOW: refused", link.peer)
            link.send(Refused(f"STANDBY_ALLOW of the primary does not name {link.peer}"))
            return await link.drain()
        async with asyncio.timeout(FIRST_MESSAGE):
            hello = await link.receive()
        if not isinstance(hello, Hello):
            raise LinkError("an unexpected message")
        hello = msgspec.structs.replace(hello, machine=link.peer)
        found = await asyncio.to_thread(self._journal.reader_after, hello.position)
        tail, checksum = found or (None, None)
        self.primary.connected(hello, checksum=checksum, now=boot_time())
        reply = self._connected(link, tail)
        if isinstance(reply, Refused):
            link.send(reply)
            return await link.drain()
        if isinstance(reply, CopyNeeded):
            return await self._send_copy(link)
        while True:
            message = await link.receive()
            if not isinstance(message, Ack) or self._link is not link:
                return None
            self.primary.acked(message, boot_time())
            self._step()

    def _connected(self, link: Link, tail: Tail | None) -> Refused | CopyNeeded | None:
        """Begin to ship over this connection, or return why not."""
        previous = self._link
        self._forget_link()
        if previous is not None:
            previous.close()
        reply = self.primary.take_reply()
        if reply is None and self.primary.stopped is None and tail is not None:
            log.info("standby %s is connected at frame %s", link.peer, f"{tail.at:,}")
            self._link, self._tail = link, tail
        elif tail is not None:
            tail.close()
        self._step()
        return reply or (None if self.primary.stopped is None else Refused(self.primary.stopped))

    def _forget_link(self) -> None:
        self._link = None
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _ship(self, effect: ShipFrames) -> None:
        link, tail = self._link, self._tail
        if link is None or tail is None:
            return
        frames: list[bytes] = []
        try:
            while tail.at < effect.upto:
                frames += [payload for _, payload in tail.take(effect.upto)]
        except (
            JournalError,
            OSError,
        ) as error:  # a snapshot has replaced it: the next Hello gets a copy
            log.warning("cannot ship the journal: %s", error)
            link.close()
            return
        primary = self.primary
        link.send(Ship(primary.epoch, effect.after, tuple(frames), effect.unit, primary.in_sync))

    async def _send_copy(self, link: Link) -> None:
        log.info("standby %s gets a copy", link.peer)
        epoch = self.primary.epoch
        link.send(CopyNeeded())
        with TemporaryDirectory(dir=self._data_dir, prefix=".standby-") as directory:
            path = Path(directory, "copy")
            await asyncio.to_thread(self._copy, path)
            with path.open("rb") as file:  # noqa: ASYNC230 - a file of its own
                while data := await asyncio.to_thread(file.read, PART):
                    link.send(CopyPart(data))
                    await link.drain()
        link.send(CopyEnd(epoch))
        with suppress(LinkError, ssl.SSLError):
            await link.drain()
            await link.receive()  # until the standby closes
