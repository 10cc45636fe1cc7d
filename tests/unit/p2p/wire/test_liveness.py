from __future__ import annotations

from p2p.wire.liveness import Liveness
from p2p.wire.messages import Heartbeat


def test_a_heartbeat_is_due_at_once_and_then_at_every_interval() -> None:
    live = Liveness(100.0, interval=2, dead_after=8)
    assert live.tick(100.0) == Heartbeat(sequence=1)
    assert live.tick(101.9) is None
    assert live.next_tick() == 102.0
    assert live.tick(102.0) == Heartbeat(sequence=2)


def test_silence_is_death_and_any_byte_is_life() -> None:
    live = Liveness(0.0, interval=2, dead_after=8)
    for second in range(0, 7, 2):
        live.tick(float(second))
    assert not live.dead(7.9)
    assert live.dead(8.0)
    live.bytes_received(7.9)
    assert not live.dead(8.0)
    live.bytes_received(3.0)  # old news change nothing
    assert live.dead(15.9)


def test_the_round_trip_is_measured_by_the_askers_clock_and_smoothed() -> None:
    here, there = Liveness(0.0), Liveness(1e6)  # clocks that have nothing in common
    beat = here.tick(0.0)
    assert beat is not None
    answer = there.received(beat, 1e6)
    assert answer == Heartbeat(sequence=0, echo=1)
    assert here.received(answer, 0.080) is None  # an answer is not answered
    assert here.rtt == 0.080
    beat = here.tick(2.0)
    assert beat is not None
    here.received(Heartbeat(sequence=0, echo=beat.sequence), 2.160)
    assert here.rtt is not None
    assert abs(here.rtt - 0.090) < 1e-9  # 7/8 old, 1/8 new


def test_an_echo_counts_once_and_an_invented_one_not_at_all() -> None:
    live = Liveness(0.0)
    live.tick(0.0)
    live.received(Heartbeat(sequence=0, echo=77), 0.5)
    assert live.rtt is None
    live.received(Heartbeat(sequence=0, echo=1), 0.1)
    live.received(Heartbeat(sequence=0, echo=1), 5.0)
    assert live.rtt == 0.1


def test_unanswered_heartbeats_are_forgotten() -> None:
    live = Liveness(0.0, interval=1, dead_after=1000)
    for second in range(100):
        live.tick(float(second))
    live.received(Heartbeat(sequence=0, echo=1), 100.0)
    assert live.rtt is None


def test_our_own_pause_is_not_the_peers_silence() -> None:
    live = Liveness(0.0, interval=2, dead_after=8)
    live.tick(0.0)
    live.tick(2.0)
    live.tick(62.0)  # the process was stopped for a minute
    assert not live.dead(62.0)
    assert live.dead(70.1)
