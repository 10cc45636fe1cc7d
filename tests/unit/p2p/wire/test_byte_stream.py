"""A byte stream's numbers, window, order, end and bounds. Whole transfers: `test_relay_stream.py`, `test_tunnel.py`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.wire.byte_stream import UNLIMITED, ByteStream, Chunk, StreamError, StreamRules

RULES = StreamRules(
    chunk=4, first_window=8, window=16, least_window=2, buffer=20, unread=12, early=3
)


def sender(data: bytes = bytes(20), allowed: int = UNLIMITED) -> ByteStream:
    stream = ByteStream(RULES, allowed)
    stream.write(data)
    return stream


def sent(stream: ByteStream) -> list[Chunk]:
    found = []
    while (chunk := stream.next_chunk()) is not None:
        found.append(chunk)
    return found


def test_chunks_stay_within_window_and_allowance() -> None:
    stream = sender(allowed=6)
    assert [(chunk.seq, len(chunk.data)) for chunk in sent(stream)] == [(0, 4), (4, 2)]
    assert stream.acknowledge(0, 50), "a larger allowance is news"
    assert [(chunk.seq, len(chunk.data)) for chunk in sent(stream)] == [(6, 2)]
    assert stream.acknowledge(8), "the window has grown to 16 bytes"
    assert sum(len(chunk.data) for chunk in sent(stream)) == 12


def test_a_loss_halves_the_window_down_to_the_least() -> None:
    stream = sender()
    sent(stream)
    for left in (4, 2, 2):
        stream.lost()
        stream.rewind()
        assert [chunk.again for chunk in sent(stream)] == [True]
        assert stream._next == left
    assert stream.first_chunk() == Chunk(0, bytes(4), False, True)


def test_the_end_is_one_more_number_and_is_repeated_until_it_is_acknowledged() -> None:
    stream = sender(b"abc")
    stream.finish()
    assert stream.room == 0
    assert sent(stream) == [Chunk(0, b"abc", True, False)]
    assert stream.acknowledge(3)
    stream.rewind()
    assert sent(stream) == [Chunk(3, b"", True, True)]
    assert (stream.acknowledge(4), stream.delivered, stream.acknowledged) == (True, True, 3)
    stream.rewind()
    assert (stream.acknowledge(4), sent(stream)) == (False, [])


@pytest.mark.parametrize("ack", [-1, 9])
def test_an_acknowledgement_of_what_was_never_sent_breaks_the_stream(ack: int) -> None:
    stream = sender()
    sent(stream)
    with pytest.raises(StreamError, match=f"byte {ack} is acknowledged, 8 were sent"):
        stream.acknowledge(ack)


def test_a_late_acknowledgement_moves_nothing_back() -> None:
    stream = sender(allowed=8)
    sent(stream)
    stream.acknowledge(8, 30)
    assert not stream.acknowledge(4, 10)
    assert (stream.acknowledged, stream.allowed) == (8, 30)


def test_only_what_fits_is_taken_and_an_end_behind_it_is_none() -> None:
    stream = ByteStream(RULES, 0)
    assert stream.take(0, bytes(10))
    assert stream.take(8, bytes(8), True)
    assert (len(stream.unread), stream.ack, stream.peer_ended) == (12, 12, False)
    assert not stream.take(8, bytes(8), True)
    stream.consumed(12)
    assert stream.take(8, bytes(8), True)
    assert (stream.ack, stream.peer_ended) == (17, True)
    assert not stream.take(16, b"after the end")


def test_early_bytes_are_kept_within_bounds_and_not_behind_an_end() -> None:
    stream = ByteStream(RULES, 0)
    for seq in range(1, 10):
        assert not stream.take(seq, b"ab")
    assert len(stream._early) == 3
    assert stream.take(0, b"x", True)
    assert (bytes(stream.unread), stream.ack) == (b"x", 2)


def test_without_a_reader_all_is_taken_and_thrown_away() -> None:
    stream = ByteStream(RULES, 0)
    stream.take(0, bytes(5))
    stream.drop_incoming()
    for seq in range(5, 105, 10):
        assert stream.take(seq, bytes(10))
    assert (stream.ack, stream.unread, stream.allows) == (105, b"", 117)


@given(st.integers(0, 10_000))
def test_bytes_arrive_once_in_order_whatever_the_order_of_chunks(seed: int) -> None:
    rng, text = random.Random(seed), bytes(range(12))
    stream = ByteStream(RULES, 0)
    while len(stream.unread) < len(text):
        seq = rng.randrange(12)
        stream.take(seq, text[seq : seq + rng.randint(1, 4)])
    assert stream.unread == text
