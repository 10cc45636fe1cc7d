"""Simulation of two machines that are one node, with a lease store: the classes of `node.annexes.standby` under faults.

Every machine has a disk, a clock of its own rate, and a process in one of the two roles. Faults freeze, crash and
separate them, fill their disks, and delay or lose requests to the store. What leaves a primary is compared with
what left any primary before.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import click

from node.annexes.standby.lease import Lease, Read, Swap, Terms, allows, swapped
from node.annexes.standby.link_messages import Ack, CopyNeeded, Hello, Message, Refused, Ship
from node.annexes.standby.primary import Primary, ShipFrames
from node.annexes.standby.standby import Gap, Standby
from node.daemon.role_file import Role
from node.virtual.server_model import VirtualTime

TERMS: Final = Terms(lease=5.0)
STEP: Final = 0.05  # s between two turns of a process
RATE: Final = 0.04  # most by which a machine's clock is too fast or too slow
TROUBLED: Final = 100.0  # s with faults, and
QUIET: Final = 40.0  # s without, after which the node must trade
LONGEST: Final = 14.0  # s of a fault
FAULTS: Final = ("freeze", "crash", "power", "blackout", "link", "store", "both", "full", "person")


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Rules:
    """Classes and behaviour of the machines, which deliberate bugs replace."""

    primary: type[Primary] = Primary
    standby: type[Standby] = Standby
    flush_before_ack: bool = True
    compare_versions: bool = True  # in the store
    sleeping_clock: bool = False  # time does not pass for a frozen machine


@dataclass
class Disk:
    """Content of a machine's disk."""

    frames: list[bytes] = field(default_factory=list)
    synced: int = 0  # frames that a power cut leaves
    epoch: int = 1
    had_lease: bool = False
    role: str = "standby"

    def checksum(self, position: int) -> int | None:
        if position > len(self.frames):
            return None
        return zlib.crc32(self.frames[position - 1]) if position else 0


class Store:
    """Lease store: one row, requests that are late, lost, or answered in vain."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.row: Lease | None = None
        self._expires = 0.0

    def now_row(self) -> Lease | None:
        row = self.row
        if row is None:
            return None
        return Lease(
            version=row.version,
            epoch=row.epoch,
            holder=row.holder,
            standby=row.standby,
            in_sync=row.in_sync,
            expired=self._world.clock.now >= self._expires,
        )

    def request(
        self, machine: Machine, what: Read | Swap, answer: Callable[[Lease | None, bool], None]
    ) -> None:
        world = self._world
        rng = world.rng
        if rng.random() < 0.03 or machine.name in world.cut_from_store:
            if rng.random() < 0.5:
                return  # lost
            # Held up in the network until it is forgotten by all but the store.
            delay = rng.uniform(0.5, 8.0)
        else:
            delay = rng.uniform(0.001, 0.03)

        def arrive() -> None:
            row, done = self._carry_out(what)
            if rng.random() < 0.03 or machine.name in world.cut_from_store:
                return
            world.clock.after(rng.uniform(0.001, 0.03), lambda: answer(row, done))

        world.clock.after(delay, arrive)

    def _carry_out(self, what: Read | Swap) -> tuple[Lease | None, bool]:
        if isinstance(what, Read):
            return self.now_row(), False
        allowed = allows(self.now_row(), what)
        if not self._world.rules.compare_versions and not what.only_expired:
            allowed = True
        if allowed:
            self.row = swapped(what)
            self._expires = self._world.clock.now + TERMS.lease
        return self.now_row(), allowed


class Machine:
    """One of the two machines."""

    def __init__(self, world: World, name: str, other: str) -> None:
        self.world = world
        self.name, self.other = name, other
        self.disk = Disk()
        self.rate = 1 + world.rng.uniform(-RATE, RATE)
        self.run = 0  # number of its process
        self.role: Primary | Standby | None = None  # of its process
        self.frozen = False
        self.asleep = 0.0  # seconds frozen so far
        self.full = False  # its disk
        self.link = 0  # number of the connection that a primary has, as far as it knows
        self._copying = False
        self._flushing = False
        self._unread: list[tuple[Ship, int]] = []
        self.units: list[tuple[int, int]] = []  # (unit, position) that have not left
        # While it is frozen: calls, and if a clock wants them.
        self._inbox: list[tuple[bool, Callable[[], None]]] = []

    @property
    def now(self) -> float:
        passed = self.world.clock.now
        if self.world.rules.sleeping_clock:
            passed -= self.asleep
        return passed * self.rate

    # Process

    def start(self) -> None:
        if self.role is not None:
            return
        self.run += 1
        self.units.clear()
        disk, world = self.disk, self.world
        if disk.role == "primary":
            self.role = world.rules.primary(
                self.name,
                self.other,
                TERMS,
                Role(role="primary", epoch=disk.epoch, had_lease=disk.had_lease),
                len(disk.frames),
                now=self.now,
            )
        else:
            self.role = world.rules.standby(
                self.name,
                TERMS,
                disk.epoch,
                len(disk.frames),
                disk.checksum(len(disk.frames)) or 0,
                now=self.now,
            )
        run = self.run
        world.clock.after(0.0, lambda: self._turn(run))

    def kill(self, *, power: bool) -> None:
        """End the process; with `power` the system too, which forgets what was not flushed."""
        self.role = None
        self.run += 1
        self._copying = self._flushing = False
        self._unread.clear()
        self._inbox.clear()
        disk = self.disk
        if power:
            del disk.frames[self.world.rng.randint(disk.synced, len(disk.frames)) :]
        disk.synced = min(disk.synced, len(disk.frames))

    def freeze(self, seconds: float) -> None:
        if self.frozen:
            return
        self.frozen = True

        def thaw() -> None:
            self.frozen = False
            self.asleep += seconds
            held, self._inbox = self._inbox, []
            order = self.world.rng.choice(("kept", "reversed", "timers first"))
            if order == "reversed":
                held.reverse()
            elif order == "timers first":
                held.sort(key=lambda each: not each[0])
            for _, call in held:
                call()

        self.world.clock.after(seconds, thaw)

    def do(self, run: int, call: Callable[[], None], *, timer: bool = False) -> None:
        """Call in the process `run`: now, after it has thawed, or never."""
        if run != self.run:
            return
        if self.frozen:
            self._inbox.append((timer, lambda: self.do(run, call, timer=timer)))
        else:
            call()

    def _turn(self, run: int) -> None:
        def turn() -> None:
            role = self.role
            if isinstance(role, Primary):
                self._primary_turn(role)
            elif isinstance(role, Standby):
                self._standby_turn(role)
            self.world.clock.after(
                STEP * self.world.rng.uniform(0.5, 1.5), lambda: self.do(run, turn, timer=True)
            )

        self.do(run, turn, timer=True)

    # Primary

    def _primary_turn(self, role: Primary) -> None:
        if role.stopped is None and self.world.rng.random() < 0.6:
            if self.full:
                self.kill(power=False)
                self.world.clock.after(self.world.rng.uniform(0.5, 4), self.start)
                return
            self._trade(role)
        self.act()
        if role.stopped is not None and self.role is role:
            self.kill(power=False)  # and a person makes a standby of it
            self.disk.role = "standby"
            self.world.clock.after(self.world.rng.uniform(0.5, 4), self.start)

    def _trade(self, role: Primary) -> None:
        disk, world = self.disk, self.world
        for _ in range(world.rng.randint(0, 3)):  # 0: a message without a record
            disk.frames.append(f"{self.name} {disk.epoch} {world.number}".encode())
            world.number += 1
        disk.synced = len(disk.frames)
        self.units.append((role.wants_to_leave(len(disk.frames)), len(disk.frames)))

    def act(self) -> None:
        """Send what the primary wants to send, and let go what may leave."""
        role = self.role
        assert isinstance(role, Primary)
        for effect in role.poll(self.now):
            if isinstance(effect, ShipFrames):
                frames = tuple(self.disk.frames[effect.after : effect.upto])
                self._send(Ship(self.disk.epoch, effect.after, frames, effect.unit))
            elif isinstance(effect, CopyNeeded | Refused):
                self._send(effect)
            else:
                self._ask(effect)
        left = role.leaves(self.now)
        while self.units and self.units[0][0] <= left:
            _, position = self.units.pop(0)
            self.world.leaves(self, position)
        if role.serves(self.now):
            self.world.serves(self)

    def _ask(self, what: Read | Swap) -> None:
        run = self.run

        def answer(row: Lease | None, done: bool) -> None:
            def take() -> None:
                role = self.role
                if isinstance(role, Primary):
                    role.answered(what, row, done=done, now=self.now)
                    self.disk.had_lease = self.disk.had_lease or row is not None
                    self.act()
                elif isinstance(role, Standby):
                    role.answered(what, row, done=done)

            self.do(run, take)

        self.world.store.request(self, what, answer)

    # Standby

    def _standby_turn(self, role: Standby) -> None:
        wanted = role.poll(self.now)
        if wanted is not None:
            self._ask(wanted)
        if role.promoted is not None:
            self._promoted(role.promoted.epoch)
        elif not (self._copying or self._flushing) and (
            not self.connection_alive() or role.is_silent(self.now)
        ):
            self.world.connect(self, lambda: role.hello(self.now))

    def connection_alive(self) -> bool:
        connection = self.world.connection
        return connection is not None and connection[0] == (self.name, self.run)

    def _promoted(self, epoch: int) -> None:
        self.world.promoted(self, epoch)
        self.kill(power=False)
        self.disk.epoch, self.disk.role, self.disk.had_lease = epoch, "primary", True
        self.start()

    # Link

    def _send(self, message: Message) -> None:
        self.world.send(self, message)

    def received(self, message: Message, number: int) -> None:
        """Take a message of the connection `number`."""
        role = self.role
        if isinstance(role, Primary):
            if isinstance(message, Hello):
                self.link = number
                checksum = self.disk.checksum(message.position)
                role.connected(message, checksum=checksum, now=self.now)
            elif isinstance(message, Ack):
                role.acked(message, self.now)
            self.act()
        elif isinstance(role, Standby):
            if isinstance(message, Ship):
                self._append(role, message, number)
            elif isinstance(message, CopyNeeded):
                self._copy()
            elif isinstance(message, Refused):
                self.world.disconnect()

    def _append(self, role: Standby, ship: Ship, number: int) -> None:
        if self._flushing:  # the connection is read when the disk is ready
            self._unread.append((ship, number))
            return
        try:
            taken = role.shipped(ship, self.now)
        except Gap:
            taken = False
        if not taken:
            self.world.disconnect()
            return
        if self.full and ship.frames:
            self.kill(power=False)
            self.world.clock.after(self.world.rng.uniform(0.5, 4), self.start)
            return
        self.disk.frames += ship.frames
        self._flushing = True
        run = self.run

        def flushed() -> None:
            self.disk.synced = len(self.disk.frames)
            ack = role.flushed(ship, self.disk.checksum(len(self.disk.frames)) or 0, self.now)
            if self.world.rules.flush_before_ack:
                self.world.send(self, ack, number)
            self._flushing = False
            unread, self._unread = self._unread, []
            for ship_, number_ in unread:
                if self.world.connection is not None and self.world.connection[2] == number_:
                    self._append(role, ship_, number_)

        if not self.world.rules.flush_before_ack:
            self.world.send(self, Ack(ship.epoch, ship.after + len(ship.frames), ship.unit), number)
        delay = self.world.rng.uniform(0.0005, self.world.flush_time)
        self.world.clock.after(delay, lambda: self.do(run, flushed))

    def _copy(self) -> None:
        """Get a full copy of the primary's disk, as it is now."""
        source = self.world.machines[self.other].disk
        run = self.run

        def copied() -> None:
            self._copying = False
            if not isinstance(self.world.machines[self.other].role, Primary):
                self.world.disconnect()
                return
            self.kill(power=False)
            self.disk.frames = list(source.frames)
            self.disk.synced, self.disk.epoch = len(self.disk.frames), source.epoch
            self.start()

        self._copying = True
        self.world.clock.after(self.world.rng.uniform(0.1, 1.0), lambda: self.do(run, copied))


class World:
    """Two machines, a link, a store, and what has left the node so far."""

    def __init__(self, seed: int, rules: Rules | None = None) -> None:
        self.rng = random.Random(f"standby {seed}")
        self.rules = rules or Rules()
        self.clock = VirtualTime()
        self.latency = self.rng.choice((0.02, 0.02, 0.3))  # s, the most on the link
        self.flush_time = self.rng.choice((0.02, 0.02, 0.3))
        self.store = Store(self)
        self.cut_from_store: set[str] = set()
        self.cut: set[str] = set()  # machines whose messages do not arrive
        self.number = 0  # of payloads
        self.published: list[bytes] = []  # frames that anybody outside has seen, by number
        self.epoch = 1
        self.by_lease = True  # the last take-over
        self.takeovers = 0
        self.left = 0
        self.connection: tuple[tuple[str, int], int, int] | None = None
        self._connections = 0
        self._faults = True
        self._by_person: set[str] = set()  # machines that a person promotes
        self._arrival = {"one": 0.0, "two": 0.0}
        self.machines = {
            name: Machine(self, name, other) for name, other in (("one", "two"), ("two", "one"))
        }
        self.machines["one"].disk.role = "primary"

    # Link: in order, at most one connection

    def connect(self, standby: Machine, hello: Callable[[], Hello]) -> None:
        primary = self.machines[standby.other]
        if self.cut or not isinstance(primary.role, Primary) or self.rng.random() < 0.5:
            return
        self._connections += 1
        self.connection = (standby.name, standby.run), primary.run, self._connections
        self.send(standby, hello())

    def disconnect(self) -> None:
        connection, self.connection = self.connection, None
        if connection is None:
            return
        for machine in self.machines.values():
            run = machine.run

            def gone(machine: Machine = machine) -> None:
                machine.link = 0
                if isinstance(machine.role, Primary) and self.connection is None:
                    machine.role.disconnected(machine.now)
                    machine.act()

            self.clock.after(
                0.01, lambda machine=machine, run=run, gone=gone: machine.do(run, gone)
            )  # type: ignore[misc]

    def send(self, sender: Machine, message: Message, number: int | None = None) -> None:
        """Send over the connection of now, or over `number` if it is still that."""
        if self.connection is None:
            return
        (_, standby_run), primary_run, current = self.connection
        stale = number is not None and number != current
        if stale or (sender.name == self.connection[0][0]) != isinstance(sender.role, Standby):
            return
        target = self.machines[sender.other]
        run = primary_run if isinstance(sender.role, Standby) else standby_run
        own = standby_run if isinstance(sender.role, Standby) else primary_run
        if sender.run != own or target.run != run:
            self.disconnect()
            return
        at = max(
            self._arrival[sender.name], self.clock.now + self.rng.uniform(0.0003, self.latency)
        )
        self._arrival[sender.name] = at

        def arrive() -> None:
            if self.connection is None or self.connection[2] != current:
                return
            if sender.name in self.cut:  # as TCP does: later, unless the connection ends before
                self.clock.after(0.2, arrive)
                return
            target.do(run, take)

        def take() -> None:
            alive = self.connection is not None and self.connection[2] == current
            # What reached a frozen machine is read when it goes on, also if the connection has ended since.
            if alive or (isinstance(target.role, Primary) and target.link == current):
                target.received(message, current)

        self.clock.at(at, arrive)

    # What is checked

    def leaves(self, machine: Machine, position: int) -> None:
        """Frames up to `position` leave a primary."""
        self._check_not_deposed(machine, "published")
        frames = machine.disk.frames
        for index in range(max(0, min(position, len(self.published)) - 8), position):
            if index < len(self.published):
                if self.published[index] != frames[index]:
                    raise Violation(
                        f"{self.clock.now:.3f}: {machine.name} published {frames[index]!r} as {index + 1}, "
                        f"which was {self.published[index]!r}"
                    )
            else:
                self.published.append(frames[index])
        self.left += 1

    def serves(self, machine: Machine) -> None:
        self._check_not_deposed(machine, "answered")

    def _check_not_deposed(self, machine: Machine, did: str) -> None:
        # A person may take over while the primary lives, and what was acknowledged before may leave it then.
        if machine.disk.epoch < self.epoch and self.by_lease:
            raise Violation(f"{self.clock.now:.3f}: {machine.name} {did} after it was deposed")

    def promoted(self, machine: Machine, epoch: int) -> None:
        """A standby takes over."""
        if epoch <= self.epoch:
            raise Violation(f"{self.clock.now:.3f}: epoch {epoch} was given twice")
        self.epoch = epoch
        self.takeovers += 1
        self.by_lease = machine.name not in self._by_person
        self._by_person.clear()
        have = machine.disk.frames[: machine.disk.synced]
        if have[: len(self.published)] != self.published:
            raise Violation(
                f"{self.clock.now:.3f}: {machine.name} takes over with {len(have)} frames, and "
                f"{len(self.published)} were published"
            )

    # Run

    def run(self) -> None:
        """Run with faults, then without; raises Violation."""
        for machine in self.machines.values():
            machine.start()
        self.clock.run(5)
        self._trouble()
        self.clock.run(TROUBLED)
        self._faults = False
        self.clock.run(TROUBLED + QUIET - 10)
        before = self.left
        self.clock.run(TROUBLED + QUIET)
        if self.left == before:
            raise Violation("the node does not trade again after the faults")
        row = self.store.row
        if row is None or not row.in_sync:
            raise Violation("the standby is not in sync again after the faults")

    def _trouble(self) -> None:
        if not self._faults:
            return
        rng = self.rng
        name, kind = rng.choice(("one", "two")), rng.choice(FAULTS)
        self._fault(kind, name, self._seconds())
        if rng.random() < 0.5:  # another one while its effects last
            second = rng.choice(("one", "two")), rng.choice(FAULTS)
            self.clock.after(
                rng.choice((0.05, 1.0, 5.0)) * rng.random(),
                lambda: self._fault(second[1], second[0], self._seconds()),
            )
        self.clock.after(rng.expovariate(1 / 5.0), self._trouble)

    def _seconds(self) -> float:
        """Return how long a fault lasts; none lasts into the quiet time."""
        longest = self.rng.choice((0.5, 2.0, 1.5 * TERMS.lease, LONGEST))
        return max(0.0, min(longest * self.rng.random(), TROUBLED - self.clock.now))

    def _fault(self, kind: str, name: str, seconds: float) -> None:
        machine = self.machines[name]
        if kind == "freeze":
            machine.freeze(seconds)
        elif kind in ("crash", "power"):
            self._crash(machine, seconds, power=kind == "power")
        elif kind == "blackout":
            for each in self.machines.values():
                self._crash(each, seconds if each is machine else 0.1, power=True)
        elif kind == "person":
            if isinstance(machine.role, Standby) and not machine.frozen:
                self._by_person.add(name)
                machine.role.promote(lossy=False)
        elif kind == "full":
            machine.full = True
            self.clock.after(seconds, lambda: setattr(machine, "full", False))
        else:
            self._separate(kind, name, seconds)

    def _crash(self, machine: Machine, seconds: float, *, power: bool) -> None:
        machine.kill(power=power)
        self.disconnect()
        self.clock.after(seconds, machine.start)

    def _separate(self, kind: str, name: str, seconds: float) -> None:
        sets = [self.cut] if kind == "link" else [self.cut_from_store]
        if kind == "both":
            sets = [self.cut, self.cut_from_store]
        names = {name} if self.rng.random() < 0.5 else {"one", "two"}
        for cut in sets:
            cut |= names
        if self.rng.random() < 0.5 and kind != "store":
            self.disconnect()
        self.clock.after(seconds, lambda: [cut.difference_update(names) for cut in sets])


@click.command()
@click.option("--seeds", default=200, show_default=True, help="Number of runs.")
@click.option("--first", default=0, show_default=True, help="Seed of the first run.")
def main(seeds: int, first: int) -> None:
    """Run with random faults, and check what left the node."""
    takeovers = left = 0
    for seed in range(first, first + seeds):
        world = World(seed)
        try:
            world.run()
        except Violation as error:
            raise click.ClickException(f"seed {seed}: {error}") from error
        takeovers += world.takeovers
        left += world.left
    click.echo(f"{seeds} runs, {takeovers} take-overs, {left} units left the node: no violation")


if __name__ == "__main__":
    main()
