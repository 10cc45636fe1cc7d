"""Streams over relayed messages: every byte once and in order, whatever the way between loses, doubles and reorders."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.virtual.server_model import VirtualTime
from p2p.mesh.relay_stream import (
    BUFFER,
    FIRST_WINDOW,
    GIVE_UP,
    SEGMENT,
    WINDOW,
    RelayStream,
)
from p2p.wire.byte_stream import ByteStreamError
from p2p.wire.messages import RelaySegment


class Path(VirtualTime):
    """Two ends, and segments under way between them in virtual time."""

    def __init__(
        self, seed: int = 0, *, loss: float = 0.0, copies: float = 0.0, spread: float = 0.05
    ) -> None:
        super().__init__(10.0)
        self.rng = random.Random(seed)
        self.loss, self.copies, self.spread = loss, copies, spread
        self.ends = [
            RelayStream(b"opening."),
            RelayStream(b"answered", peer=b"opening."),
        ]
        self.read = [bytearray(), bytearray()]
        self.segments = 0

    def pump(self, end: int) -> None:
        for segment in self.ends[end].segments(self.now):
            self.segments += 1
            for _ in range(1 + (self.rng.random() < self.copies)):
                if self.rng.random() >= self.loss:
                    at = self.now + 0.02 + self.rng.uniform(0.0, self.spread)
                    self.at(at, self._arrive, 1 - end, segment)

    def run(self, seconds: float) -> None:
        stop = self.now + seconds
        while True:
            due = [end.next_deadline() for end in self.ends]
            at = min(t for t in (*due, self.next_due) if t is not None)
            if at > stop:
                self.now = stop
                return
            if self.next_due <= at:
                self.step()
                continue
            self.now = max(self.now, at)
            for end in (0, 1):
                self.pump(end)

    def _arrive(self, end: int, segment: RelaySegment) -> None:
        self.read[end] += self.ends[end].receive(self.now, segment)
        self.pump(end)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    copies=st.sampled_from([0.0, 0.3]),
    spread=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_all_bytes_arrive_once_and_in_order(
    seed: int, loss: float, copies: float, spread: float
) -> None:
    path = Path(seed, loss=loss, copies=copies, spread=spread)
    said = [path.rng.randbytes(path.rng.randrange(400_000)) for _ in (0, 1)]
    for end in (0, 1):
        rest = said[end]
        while rest:
            size = min(len(rest), path.rng.randrange(1, 100_000))
            path.ends[end].write(rest[:size])
            rest = rest[size:]
            path.pump(end)
            path.run(path.rng.uniform(0.0, 0.1))
    path.run(120.0)
    assert [bytes(read) for read in path.read] == [said[1], said[0]]
    assert all(end.acknowledged == end.written for end in path.ends)
    assert all(end.next_deadline() is None for end in path.ends)


def test_without_faults_nothing_is_sent_twice_and_acknowledgements_are_few() -> None:
    path = Path(spread=0.0)
    path.ends[0].write(bytes(20 * SEGMENT))
    path.pump(0)
    path.run(5.0)
    assert len(path.read[1]) == 20 * SEGMENT
    assert path.ends[0].resent == 0
    assert path.segments <= 32
    assert path.ends[0].rtt == pytest.approx(0.06, abs=0.05)


def test_one_lost_segment_is_sent_again_before_its_time_is_over() -> None:
    path = Path(spread=0.0)
    sender, receiver = path.ends
    sender.write(bytes(8 * SEGMENT))
    path.pump(0)
    path.run(2.0)
    sender.write(bytes(6 * SEGMENT))
    lost, *others = sender.segments(path.now)
    assert (lost.seq, len(others)) == (8 * SEGMENT, 5)
    for segment in others:
        assert receiver.receive(path.now, segment) == b""
        path.pump(1)
    path.run(0.1)  # a round trip and the acknowledgement's delay, below any timeout
    assert len(path.read[1]) == 14 * SEGMENT
    assert sender.resent == 1


def test_at_most_a_window_is_sent_before_anything_is_acknowledged() -> None:
    path = Path()
    sender = path.ends[0]
    sender.write(bytes(4 * WINDOW))
    [opening] = sender.segments(path.now)  # the other end is not known yet
    assert len(opening.data) == SEGMENT
    sender.receive(path.now, RelaySegment(b"answered", b"opening.", ack=0))
    assert sum(len(s.data) for s in sender.segments(path.now)) == FIRST_WINDOW - SEGMENT
    assert sender.room == 0
    assert path.ends[1].room == BUFFER


@pytest.mark.parametrize(
    "segment",
    [
        RelaySegment(b"opening.", b"answered", seq=WINDOW + SEGMENT, data=b"x"),
        RelaySegment(b"opening.", b"answered", seq=-1, data=b"x"),
        RelaySegment(b"opening.", b"answered", data=bytes(SEGMENT + 1)),
        RelaySegment(b"opening.", b"answered", ack=1),
        RelaySegment(b"opening.", b"answered", ack=-1),
    ],
)
def test_data_beyond_the_window_breaks_the_stream(segment: RelaySegment) -> None:
    with pytest.raises(ByteStreamError):
        Path().ends[1].receive(10.0, segment)


def test_a_stream_without_an_answer_is_given_up() -> None:
    path = Path(loss=1.0)
    path.ends[0].write(b"nobody there")
    path.pump(0)
    with pytest.raises(ByteStreamError, match="no answer"):
        path.run(GIVE_UP + 1.0)
    assert path.now == pytest.approx(10.0 + GIVE_UP)
