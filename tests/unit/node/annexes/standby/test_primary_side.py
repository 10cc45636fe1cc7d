"""Primary side of the standby protocol, step by step."""

from __future__ import annotations

from typing import Literal

from node.annexes.standby.lease import Lease, Read, Swap, Terms, swapped
from node.annexes.standby.link_messages import Ack, CopyNeeded, Hello, Refused
from node.annexes.standby.primary import CHUNK, WINDOW, Effect, Primary, ShipFrames
from node.daemon.role_file import Role

TERMS = Terms(lease=5.0)


class Desk:
    """A primary with a store that answers at once, unless it is away, and a standby that does."""

    def __init__(
        self,
        ack: Literal["both", "first"] = "both",
        *,
        store: bool = True,
        row: Lease | None = None,
        epoch: int = 1,
        had_lease: bool = False,
        position: int = 0,
    ) -> None:
        self.now = 100.0
        self.row = row
        self.store_away = False
        self.link = False
        self.shipped: list[ShipFrames] = []
        self.replies: list[Effect] = []
        self.lost: list[Swap] = []
        self.primary = Primary(
            "one",
            "two",
            Terms(lease=5.0, both=ack == "both", store=store),
            Role(role="primary", epoch=epoch, had_lease=had_lease),
            position,
            now=self.now,
        )

    def pass_time(self, seconds: float, *, acks: bool = True) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self.turn(acks=acks)

    def turn(self, *, acks: bool = True) -> None:
        for effect in self.primary.poll(self.now):
            if isinstance(effect, ShipFrames):
                self.shipped.append(effect)
                if acks:
                    self.primary.acked(Ack(1, effect.upto, effect.unit), self.now)
            elif isinstance(effect, Read | Swap):
                self._store(effect)
            else:
                self.replies.append(effect)

    def _store(self, request: Read | Swap) -> None:
        if self.store_away:
            if isinstance(request, Swap):
                self.lost.append(request)
            return
        done = False
        if isinstance(request, Swap):
            done = (self.row.version if self.row else 0) == request.version
            if done:
                self.row = swapped(request)
        self.primary.answered(request, self.row, done=done, now=self.now)

    def connect(self, position: int = 0, epoch: int = 1, checksum: int = 0) -> None:
        hello = Hello("two", epoch, position, checksum)
        self.primary.connected(hello, checksum=checksum, now=self.now)

    def wants(self) -> int:
        return self.primary.wants_to_leave(self.primary.position + 1)

    def left(self) -> int:
        return self.primary.leaves(self.now)

    @property
    def in_sync(self) -> bool:
        return self.row is not None and self.row.in_sync


def together(**options: bool) -> Desk:
    desk = Desk(**options)  # type: ignore[arg-type]
    desk.pass_time(0.3)
    desk.connect(desk.primary.position)
    desk.pass_time(1.0)
    return desk


def test_without_a_standby_it_goes_alone_after_its_patience() -> None:
    desk = Desk()
    unit = desk.wants()
    desk.pass_time(TERMS.patience - 0.2)
    assert desk.left() < unit
    desk.pass_time(0.3)
    assert desk.left() == unit
    assert desk.primary.serves(desk.now)


def test_a_swap_whose_answer_was_lost_counts_as_carried_out() -> None:
    desk = Desk()
    desk.pass_time(0.3)
    assert desk.row is not None
    desk.store_away = True
    desk.connect()
    desk.pass_time(0.6)
    assert [swap.in_sync for swap in desk.lost] == [True]
    desk.primary.disconnected(desk.now)
    unit = desk.wants()
    desk.pass_time(TERMS.patience * 2)
    assert desk.left() < unit
    desk.store_away = False
    desk.row = swapped(desk.lost[0])  # it arrives after all
    desk.pass_time(TERMS.renewal)
    assert not desk.in_sync
    assert desk.left() == unit


def test_an_answer_from_before_a_freeze_is_no_proof_for_a_message_after_it() -> None:
    desk = together()
    desk.store_away = True
    desk.pass_time(TERMS.heartbeat + 0.05, acks=False)
    sent = desk.shipped[-1]
    desk.now += TERMS.lease * 2  # frozen, with the answer in its socket
    desk.turn(acks=False)
    assert desk.shipped[-1] == sent  # a message that says the same
    desk.primary.acked(Ack(1, sent.upto, sent.unit), desk.now)
    assert not desk.primary.serves(desk.now)
    desk.primary.acked(Ack(1, sent.upto, sent.unit), desk.now)
    assert desk.primary.serves(desk.now)


def test_while_the_store_is_away_the_standby_is_proof_enough() -> None:
    desk = together()
    desk.store_away = True
    desk.pass_time(TERMS.lease * 10)
    unit = desk.wants()
    desk.pass_time(0.1)
    assert desk.left() == unit
    assert desk.primary.serves(desk.now)


def test_a_later_epoch_in_the_store_stops_it_for_good() -> None:
    desk = together()
    row = desk.row
    assert row is not None
    desk.row = Lease(version=row.version + 1, epoch=2, holder="two")
    desk.pass_time(TERMS.renewal * 2, acks=False)
    assert desk.primary.stopped == "machine two has taken over with epoch 2"
    unit = desk.wants()
    desk.connect()
    desk.pass_time(TERMS.lease)
    assert desk.left() < unit
    assert desk.replies == [Refused(desk.primary.stopped)]


def test_a_primary_starts_only_with_its_earlier_lease_store() -> None:
    lost = Desk(had_lease=True)
    lost.pass_time(0.3)
    assert lost.primary.stopped is not None
    assert "lost this node's row" in lost.primary.stopped
    old = Desk(epoch=3, row=Lease(version=9, epoch=2, holder="one"))
    old.pass_time(0.3)
    assert old.primary.stopped == "the lease store has epoch 2, before this machine's 3"


def test_after_a_start_in_sync_it_waits_for_standby_or_store() -> None:
    desk = Desk(row=Lease(version=9, epoch=1, holder="one", standby="two", in_sync=True))
    unit = desk.wants()
    desk.pass_time(TERMS.patience - 0.2)
    assert desk.left() < unit
    desk.pass_time(0.5)
    assert desk.left() == unit
    assert not desk.in_sync


def test_the_position_of_a_standby_decides_whether_it_needs_a_copy() -> None:
    desk = Desk(position=10, epoch=2)
    desk.connect(position=5, epoch=1)
    desk.turn()
    assert desk.replies == [CopyNeeded()]
    desk.primary.connected(Hello("two", 2, 3, 7), checksum=None, now=desk.now)
    desk.turn()
    assert desk.replies == [CopyNeeded(), CopyNeeded()]
    desk.primary.connected(Hello("three", 2, 3, 7), checksum=7, now=desk.now)
    desk.turn()
    assert desk.replies[2:] == [Refused("STANDBY_ALLOW does not name three")]
    desk.connect(position=11, epoch=2)
    assert "lost the end of its log" in (desk.primary.stopped or "")


def test_a_log_that_differs_from_the_standbys_stops_it() -> None:
    desk = Desk(position=10)
    desk.primary.connected(Hello("two", 1, 5, 7), checksum=8, now=desk.now)
    assert "lost the end of its log" in (desk.primary.stopped or "")


def test_a_promoted_standby_stops_it() -> None:
    desk = Desk(store=False)
    desk.connect(epoch=2)
    assert desk.primary.stopped == "the standby was promoted: it has epoch 2"


def test_without_a_store_both_never_goes_alone() -> None:
    desk = Desk(store=False)
    unit = desk.wants()
    desk.pass_time(TERMS.lease * 4)
    assert desk.left() < unit
    desk.connect()
    desk.pass_time(0.1)
    assert desk.left() == unit


def test_first_never_waits() -> None:
    desk = Desk("first")
    unit = desk.wants()
    assert desk.left() == unit
    desk.connect()
    desk.turn(acks=False)
    assert desk.primary.lag == 1
    assert desk.shipped == [ShipFrames(0, 1, unit)]


def test_a_catching_up_standby_gets_messages_of_a_bounded_number() -> None:
    desk = Desk(position=CHUNK * 10)
    desk.connect()
    desk.turn(acks=False)
    assert [each.upto for each in desk.shipped] == [CHUNK * (n + 1) for n in range(WINDOW)]
    assert not desk.in_sync
