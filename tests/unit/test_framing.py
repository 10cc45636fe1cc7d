from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FrameTooLarge, MalformedMessage, RemoteProtocolError
from p2p.framing import HEADER, FrameDecoder, encode_frame
from p2p.limits import MAX_FRAME

LIMIT, ROOM = 300, 64  # smaller buffer than limit, so that growing is exercised


def decode(pieces: Iterable[bytes], limit: int = LIMIT) -> tuple[list[bytes], str | None]:
    """Frames, and the code of the error that ended them."""
    decoder = FrameDecoder(limit, ROOM)
    frames: list[bytes] = []
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                frames.append(frame)  # noqa: PERF402 - those before an error count
            assert decoder.capacity <= max(ROOM, limit + HEADER)
    except RemoteProtocolError as error:
        return frames, error.code
    return frames, None


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=12))
def test_frames_come_out_as_they_went_in_whole_and_byte_by_byte(payloads: list[bytes]) -> None:
    data = b"".join(map(encode_frame, payloads))
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
    data = b"".join(map(encode_frame, payloads)) + length.to_bytes(4, "big") + b"rest"
    code = "oversized" if length else "malformed"
    assert decode([data]) == (payloads, code)
    assert decode(bytewise(data)) == (payloads, code)


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    with pytest.raises(FrameTooLarge, match="301 bytes, the limit is 300"):
        list(decoder.feed((LIMIT + 1).to_bytes(4, "big")))
    assert decoder.capacity == ROOM


def test_a_frame_of_exactly_the_limit_passes() -> None:
    assert decode([encode_frame(bytes(LIMIT))]) == ([bytes(LIMIT)], None)


def test_an_empty_frame_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        list(FrameDecoder().feed(bytes(4)))


def test_after_an_error_the_decoder_stays_in_error() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    for _ in range(2):
        with pytest.raises(FrameTooLarge):
            list(decoder.feed(b"\xff\xff\xff\xff" + encode_frame(b"x")))


def test_the_limit_can_be_raised_between_two_frames() -> None:
    decoder = FrameDecoder(8, 12)
    data = encode_frame(b"hello") + encode_frame(bytes(100))
    space = decoder.writable()
    space[:] = data[: len(space)]
    decoder.wrote(len(space))
    assert decoder.take(1) == [b"hello"]
    decoder.set_limit(100, 200)
    assert list(decoder.feed(data[len(space) :])) == [bytes(100)]


def test_memory_grows_for_a_long_frame_only_and_shrinks_again() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    long = encode_frame(bytes(LIMIT))
    assert list(decoder.feed(long[:-1])) == []
    assert decoder.capacity == LIMIT + HEADER
    assert list(decoder.feed(long[-1:])) == [bytes(LIMIT)]
    assert list(decoder.feed(encode_frame(b"short"))) == [b"short"]
    assert decoder.capacity == ROOM


def test_a_frame_taken_does_not_change_with_the_next_read() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    first = encode_frame(b"a" * 20)
    decoder.writable()[: len(first)] = first
    decoder.wrote(len(first))
    (frame,) = decoder.take(10)
    list(decoder.feed(encode_frame(b"b" * 20)))
    assert frame == b"a" * 20


def test_take_gives_no_more_than_asked() -> None:
    decoder = FrameDecoder(LIMIT, ROOM)
    data = b"".join(encode_frame(bytes([n])) for n in range(1, 6))
    decoder.writable()[: len(data)] = data
    decoder.wrote(len(data))
    assert decoder.take(2) == [b"\x01", b"\x02"]
    assert decoder.take(9) == [b"\x03", b"\x04", b"\x05"]
    assert decoder.take(9) == []


def test_a_buffer_full_of_frames_not_taken_takes_no_more() -> None:
    decoder = FrameDecoder(LIMIT, 10)
    decoder.writable()[:] = encode_frame(b"x") * 2
    decoder.wrote(10)
    with pytest.raises(BufferError):
        decoder.writable()


@pytest.mark.parametrize(
    ("head", "hint"),
    [(b"\x16\x03\x01\x02", "TLS"), (b"\x15\x03\x03\x00", "TLS"), (b"GET / HTTP/1.1", "HTTP")],
)
def test_bytes_of_another_protocol_are_named(head: bytes, hint: str) -> None:
    with pytest.raises(FrameTooLarge, match=hint):
        list(FrameDecoder().feed(head))


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1])
def test_a_frame_that_every_peer_would_refuse_is_not_made(size: int) -> None:
    with pytest.raises(ValueError):
        encode_frame(bytes(size))
