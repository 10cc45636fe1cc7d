"""Standby side of the standby protocol, step by step."""

from __future__ import annotations

import pytest

from node.annexes.standby.lease import Lease, Read, Swap, Terms, allows, swapped
from node.annexes.standby.link_messages import Ack, Hello, Ship
from node.annexes.standby.standby import Gap, Promotion, Standby

TERMS = Terms(lease=5.0)
IN_SYNC = Lease(version=7, epoch=1, holder="one", standby="two", in_sync=True, expired=True)


def made(*, store: bool = True) -> Standby:
    return Standby("two", Terms(lease=5.0, store=store), 1, 10, 3, now=0.0)


def attempt(standby: Standby, now: float, row: Lease | None = IN_SYNC) -> Swap | None:
    """Let the standby read the row; returns its attempt."""
    read = standby.poll(now)
    assert isinstance(read, Read)
    standby.answered(read, row, done=False)
    wanted = standby.poll(now + 1)
    return wanted if isinstance(wanted, Swap) else None


def test_frames_are_acknowledged_when_they_are_flushed() -> None:
    standby = made()
    assert standby.hello(0.0) == Hello("two", 1, 10, 3)
    ship = Ship(1, 10, (b"a", b"b"), 5)
    assert standby.shipped(ship, 0.1)
    assert standby.flushed(ship, 9, 0.2) == Ack(1, 12, 5)
    assert standby.hello(0.3) == Hello("two", 1, 12, 9)


@pytest.mark.parametrize("ship", [Ship(1, 11, (), 1), Ship(1, 9, (b"a",), 1), Ship(2, 10, (), 1)])
def test_frames_that_do_not_follow_are_refused(ship: Ship) -> None:
    with pytest.raises(Gap):
        made().shipped(ship, 0.1)


def test_a_lease_is_taken_over_after_its_whole_duration_of_silence() -> None:
    standby = made()
    assert standby.poll(TERMS.lease - 0.1) is None
    swap = attempt(standby, TERMS.lease)
    assert swap == Swap(version=7, epoch=2, holder="two", only_expired=True)
    assert allows(IN_SYNC, swap)
    standby.answered(swap, swapped(swap), done=True)
    assert standby.promoted == Promotion(2, lossy=False)
    assert not standby.shipped(Ship(1, 10, (), 1), 7.0)


@pytest.mark.parametrize(
    "row",
    [
        None,
        Lease(version=7, epoch=1, holder="one", standby="two", in_sync=False, expired=True),
        Lease(version=7, epoch=1, holder="one", standby="three", in_sync=True, expired=True),
        Lease(version=7, epoch=2, holder="one", standby="two", in_sync=True, expired=True),
        Lease(version=7, epoch=1, holder="one", standby="two", in_sync=True, expired=False),
    ],
)
def test_a_standby_does_not_take_over_without_permission(row: Lease | None) -> None:
    standby = made()
    swap = attempt(standby, 20.0, row)
    assert swap is None
    assert standby.acknowledges


def test_an_attempt_without_answer_ends_its_acknowledgements_until_the_row_changes() -> None:
    standby = made()
    assert attempt(standby, 20.0) is not None
    assert not standby.shipped(Ship(1, 10, (), 1), 21.5)
    read = standby.poll(22.0)  # the attempt got no answer in time
    assert isinstance(read, Read)
    standby.answered(read, IN_SYNC, done=False)
    assert not standby.acknowledges
    again = standby.poll(23.0)
    assert isinstance(again, Swap)
    renewed = Lease(version=8, epoch=1, holder="one", standby="two", in_sync=True)
    standby.answered(again, renewed, done=False)
    assert standby.acknowledges


def test_an_attempt_whose_answer_was_lost_has_succeeded() -> None:
    standby = made()
    swap = attempt(standby, 20.0)
    assert swap is not None
    read = standby.poll(22.0)
    assert isinstance(read, Read)
    standby.answered(read, swapped(swap), done=False)
    assert standby.promoted == Promotion(2, lossy=False)


def test_no_attempt_begins_during_an_append() -> None:
    standby = made()
    ship = Ship(1, 10, (b"a",), 1)
    assert standby.shipped(ship, 1.0)
    assert attempt(standby, 50.0) is None
    assert standby.poll(52.0) is None
    standby.flushed(ship, 4, 53.0)
    standby.promote(lossy=False)
    assert standby.poll(54.0) == Swap(version=7, epoch=2, holder="two")


def test_a_person_promotes_a_standby_in_sync_while_the_primary_lives() -> None:
    standby = made()
    standby.promote(lossy=False)
    row = Lease(version=7, epoch=1, holder="one", standby="two", in_sync=True)
    swap = attempt(standby, 1.0, row)
    assert swap == Swap(version=7, epoch=2, holder="two", only_expired=False)
    renewed = Lease(version=8, epoch=1, holder="one", standby="two", in_sync=True)
    standby.answered(swap, renewed, done=False)  # the primary was faster: once more
    assert attempt(standby, 3.0, renewed) == Swap(version=8, epoch=2, holder="two")


def test_a_person_promotes_one_that_is_not_in_sync_with_losses_only() -> None:
    standby = made()
    row = Lease(version=7, epoch=1, holder="one", standby="two", in_sync=False)
    standby.promote(lossy=False)
    assert attempt(standby, 1.0, row) is None
    assert standby.refused == "this standby is not in sync"
    standby.promote(lossy=True)
    swap = attempt(standby, 3.0, row)
    assert swap is not None
    standby.answered(swap, swapped(swap), done=True)
    assert standby.promoted == Promotion(2, lossy=True)


def test_without_a_store_a_promotion_counts_as_lossy() -> None:
    standby = made(store=False)
    assert standby.poll(100.0) is None
    standby.promote(lossy=False)
    assert standby.poll(101.0) is None
    assert standby.refused is not None
    standby.promote(lossy=True)
    standby.poll(102.0)
    assert standby.promoted == Promotion(2, lossy=True)


def test_a_silent_connection_is_made_anew() -> None:
    standby = made()
    standby.hello(1.0)
    assert not standby.is_silent(1.5)
    assert standby.is_silent(1.0 + TERMS.patience)
