"""Bencoding: everything that can be encoded comes back; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.dht.bencode import MAX_BYTES, MAX_DEPTH, BencodeError, decode, encode

VALUES = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_encoded_values_come_back(value):
    assert decode(encode(value)) == value


@given(VALUES)
def test_the_encoded_form_is_canonical(value):
    assert encode(decode(encode(value))) == encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"i1",
        b"ie",
        b"i-e",
        b"i-0e",
        b"i01e",
        b"i1_0e",
        b"i+1e",
        b"i 1e",
        b"i1.5e",
        b"i" + b"9" * 21 + b"e",
        b"3:ab",
        b"03:abc",
        b"-1:a",
        b"1_0:aaaaaaaaaa",
        b"99999999999999999999:a",
        b"3abc",
        b"l",
        b"li1e",
        b"d1:ae",
        b"di1ei2ee",
        b"d1:ai1e",
        b"d1:ai1e1:ai2ee",  # the key twice
        b"i1ei2e",  # two values
        b"lei0e",
        b"e",
        b"le" * 2,
        b"i1e" + b" ",
    ],
)
def test_malformed_data_is_refused(data):
    with pytest.raises(BencodeError):
        decode(data)


def test_nesting_is_bounded_both_ways():
    assert decode(b"l" * MAX_DEPTH + b"e" * MAX_DEPTH) is not None
    with pytest.raises(BencodeError, match="deep"):
        decode(b"l" * (MAX_DEPTH + 1) + b"e" * (MAX_DEPTH + 1))
    with pytest.raises(BencodeError, match="deep"):
        decode(b"l" * 60_000)
    nested: list = []
    for _ in range(MAX_DEPTH):
        nested = [nested]
    with pytest.raises(BencodeError, match="deep"):
        encode(nested)


def test_size_is_bounded():
    with pytest.raises(BencodeError, match="at most"):
        decode(b"%d:" % MAX_BYTES + b"a" * MAX_BYTES)


@pytest.mark.parametrize(
    "value", ["text", None, 1.5, True, {"text": 1}, {1: 2}, [b"a", None], {b"a": 1, "b": 2}]
)
def test_values_without_a_bencoded_form_are_refused(value):
    with pytest.raises(BencodeError):
        encode(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(data):
    try:
        value = decode(data)
    except BencodeError:
        return
    assert decode(encode(value)) == value


@given(VALUES, st.data())
def test_damaged_bytes_are_decoded_or_refused(value, data):
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(encoded))
    except BencodeError:
        return


@given(VALUES, st.data())
def test_a_cut_value_is_refused(value, data):
    encoded = encode(value)
    with pytest.raises(BencodeError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
