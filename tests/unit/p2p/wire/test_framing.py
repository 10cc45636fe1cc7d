from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_kit import fed, framed

from p2p.base.errors import FrameTooLarge, MalformedMessage, RemoteProtocolError
from p2p.wire.framing import HEADER, FrameDecoder

LIMIT, ROOM = 300, 64  # smaller buffer than limit, so that growing is exercised


def decode(pieces: Iterable[bytes], limit: int = LIMIT) -> tuple[list[bytes], str | None]:
    """Frames, and the code of the error that ended them."""
    decoder = FrameDecoder(limit, ROOM)
    frames: list[bytes] = []
    try:
        for piece in pieces:
            for frame in fed(decoder, piece):
                frames.append(frame)  # noqa: PERF402 - those before an error count
            assert decoder.capacity <= max(ROOM, limit + HEADER)
    except RemoteProtocolError as error:
        return frames, error.code
    return frames, None


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=12))
def test_frames_come_out_as_they_went_in_whole_and_byte_by_byte(payloads: list[bytes]) -> None:
    data = b"".join(map(framed, payloads))
    assert decode([data]) == (payloads, None)
    assert decode(bytewise(data)) == (payloads, None)


@given(st.binary(max_size=600), st.integers(1, 97))
def test_any_bytes_give_the_same_frames_or_the_same_error_however_they_are_cut(
    data: bytes, step: int
) -> None:
    whole = decode([data], limit=40)
    assert decode(bytewise(data), limit=40) == whole
    assert decode((data[i : i + step] for i in range(0, len(data), step)), limit=40) == whole


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.sampled_from([0, LIMIT + 1]))
def test_frames_before_a_fault_are_delivered_before_it_is_raised(
    payloads: list[bytes], length: int
) -> None:
    data = b"".join(map(framed, payloads)) + length.to_bytes(4, "big") + b"rest"
    code = "oversized" if length else "malformed"
    assert decode([data]) == (payloads, code)
    assert decode(bytewise(data)) == (payloads, code)


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    with pytest.raises(FrameTooLarge, match="301 bytes, the limit is 300"):
        list(fed(decoder, (LIMIT + 1).to_bytes(4, "big")))
    assert decoder.capacity == ROOM


def test_a_frame_of_exactly_the_limit_passes() -> None:
    assert decode([framed(bytes(LIMIT))]) == ([bytes(LIMIT)], None)


def test_an_empty_frame_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        list(fed(FrameDecoder(), bytes(4)))


def test_after_an_error_the_decoder_stays_in_error() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    for _ in range(2):
        with pytest.raises(FrameTooLarge):
            list(fed(decoder, b"\xff\xff\xff\xff" + framed(b"x")))


def test_the_limit_can_be_raised_between_two_frames() -> None:
    decoder = FrameDecoder(8, 12)
    data = framed(b"hello") + framed(bytes(100))
    space = decoder.writable()
    space[:] = data[: len(space)]
    decoder.wrote(len(space))
    assert decoder.take(1) == [b"hello"]
    decoder.set_limit(100, 200)
    assert list(fed(decoder, data[len(space) :])) == [bytes(100)]


def test_memory_grows_for_a_long_frame_only_and_shrinks_again() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    long = framed(bytes(LIMIT))
    assert list(fed(decoder, long[:-1])) == []
    assert decoder.capacity == LIMIT + HEADER
    assert list(fed(decoder, long[-1:])) == [bytes(LIMIT)]
    assert list(fed(decoder, framed(b"short"))) == [b"short"]
    assert decoder.capacity == ROOM


def test_a_frame_taken_does_not_change_with_the_next_read() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    first = framed(b"a" * 20)
    decoder.writable()[: len(first)] = first
    decoder.wrote(len(first))
    (frame,) = decoder.take(10)
    list(fed(decoder, framed(b"b" * 20)))
    assert frame == b"a" * 20


def test_take_gives_at_most_the_requested_number() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    data = b"".join(framed(bytes([n])) for n in range(1, 6))
    decoder.writable()[: len(data)] = data
    decoder.wrote(len(data))
    assert decoder.take(2) == [b"\x01", b"\x02"]
    assert decoder.take(9) == [b"\x03", b"\x04", b"\x05"]
    assert decoder.take(9) == []


def test_a_buffer_full_of_frames_not_taken_takes_no_more() -> None:
    decoder = FrameDecoder(LIMIT, 10)
    decoder.writable()[:] = framed(b"x") * 2
    decoder.wrote(10)
    with pytest.raises(BufferError):
        decoder.writable()


@pytest.mark.parametrize(
    ("head", "hint"),
    [(b"\x16\x03\x01\x02", "TLS"), (b"\x15\x03\x03\x00", "TLS"), (b"GET / HTTP/1.1", "HTTP")],
)
def test_bytes_of_another_protocol_are_named(head: bytes, hint: str) -> None:
    with pytest.raises(FrameTooLarge, match=hint):
        list(fed(FrameDecoder(), head))
