"""Every row of the tables of the real Grape's answers, and answers that no Grape gives."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache import bep44
from p2p.grenache.directory import StoredValue
from p2p.grenache.errors import GrapeRefused
from p2p.grenache.link.grape_answers import (
    MAX_ADDRESSES,
    NotAGrape,
    VersionRefused,
    addresses,
    announced,
    stored_key,
    stored_value,
    value_of,
    withdrawn,
)

KEY = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"  # of "hello world"
OWNER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def signed(seq=1, value=b"v", salt=b""):
    item = bep44.sign(OWNER, seq, value, salt=salt)
    key = bep44.mutable_key(item.public_key, salt).hex()
    found = {
        "id": "00" * 20,
        "token": "ab",
        "k": item.public_key.hex(),
        "seq": seq,
        "sig": item.signature.hex(),
        "v": value.decode(),
    }
    return key, found


@pytest.mark.parametrize(
    ("body", "value"),
    [(b"1", 1), (b"[]", []), (b'"x"', "x"), (b"", None), (b"null", None), (b'{"v":""}', {"v": ""})],
)
def test_a_body_with_status_200_is_its_json_value(body, value):
    assert value_of(200, body) == value


def test_refused_versions_have_a_status_of_their_own():
    with pytest.raises(VersionRefused, match="301 CAS mismatch") as raised:
        value_of(301, b'"301 CAS mismatch, re-read and try again"')
    assert "cas" in raised.value.detail
    with pytest.raises(VersionRefused, match="302 sequence number less than current"):
        value_of(302, b'"302 sequence number less than current"')


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, b"ERR_GRAPE_PAYLOAD_INVALID", "ERR_GRAPE_PAYLOAD_INVALID"),
        (500, b"Cannot read properties of null", "Cannot read properties of null"),
        (500, b"", "HTTP status 500"),
        (413, b"ERR_GRAPE_PAYLOAD_SIZE", "ERR_GRAPE_PAYLOAD_SIZE"),
        (503, b"ERR_GRAPE_BUSY", "ERR_GRAPE_BUSY"),
    ],
)
def test_a_grape_that_reports_an_error_by_status_is_still_a_grape(status, body, code):
    with pytest.raises(GrapeRefused) as raised:
        value_of(status, body)
    assert raised.value.code == code
    assert not isinstance(raised.value, NotAGrape)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>"),
        (200, b"<html>"),
        (502, b"bad gateway"),
        (204, b""),
        (200, b"\xff\xfe"),
        (307, b""),
    ],
)
def test_answers_of_other_programs_are_distinguished(status, body):
    with pytest.raises(NotAGrape):
        value_of(status, body)


def test_a_withdrawal_succeeded_when_the_answer_is_a_number():
    assert withdrawn(0) == 0
    with pytest.raises(GrapeRefused, match="ERR_REQ_NOTFOUND"):
        withdrawn("ERR_REQ_NOTFOUND")


def test_a_lookup_is_a_list_of_addresses():
    assert addresses(["127.0.0.1:1337", "192.0.2.7:1"]) == [("127.0.0.1", 1337), ("192.0.2.7", 1)]
    assert addresses([]) == []
    for refused in ("ERR_GRAPE_LOOKUP", None, {}, 1):
        with pytest.raises(GrapeRefused):
            addresses(refused)


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:01",
            "256.0.0.1:1",
        ),
        *(
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "01.2.3.4:1",
            "1.2.3:4",
            "name:1",
            "::1:1",
        ),
        *(
            "127.0.0.1:1 ",
            " 127.0.0.1:1",
            "127.0.0.1:1\n",
            "127.0.0.1:-1",
            "127.0.0.1:1.0",
            "127.0.0.1:١",
        ),
        *(1, None, ["127.0.0.1:1"], {}, ""),
    ],
)
def test_addresses_that_cannot_be_dialled_are_left_out_of_a_lookup(entry):
    assert addresses([entry, "192.0.2.7:1"]) == [("192.0.2.7", 1)]


def test_a_lookup_has_no_repeats_and_an_end():
    many = [f"10.0.{n // 250}.{n % 250}:1" for n in range(400)]
    assert len(addresses(many + many)) == MAX_ADDRESSES
    assert addresses(["1.2.3.4:5"] * 200) == [("1.2.3.4", 5)]


def test_a_put_is_answered_with_the_key_that_was_meant():
    assert stored_key(KEY, KEY) == KEY
    for refused in (
        KEY.upper(),
        KEY[:-1],
        "ff" * 20,
        1,
        None,
        "v must be less than 1000 bytes in put()",
    ):
        with pytest.raises(GrapeRefused):
            stored_key(refused, KEY)


def test_a_get_finds_the_text_that_its_key_stands_for():
    found = {"id": "f5" * 20, "token": None, "v": "hello world"}
    assert stored_value(found, KEY, b"") == StoredValue(b"hello world")
    assert stored_value(None, KEY, b"") is None
    with pytest.raises(GrapeRefused, match="ERR_GRAPE_GENERIC"):
        stored_value("ERR_GRAPE_GENERIC", KEY, b"")
    with pytest.raises(GrapeRefused, match="ERR_GRAPE_VALUE"):
        stored_value({**found, "v": "hello worlD"}, KEY, b"")


def test_a_signed_value_that_does_not_match_its_key_is_refused():
    key, found = signed(salt=b"s")
    wrong = [
        {**found, "v": "other"},
        {**found, "seq": 2},
        {**found, "seq": 1.0},
        {**found, "seq": True},
        {**found, "sig": "00" * 64},
        {**found, "k": "00" * 32},
        {name: value for name, value in found.items() if name != "sig"},
        {name: value for name, value in found.items() if name not in ("k", "sig")},
        {**found, "v": 1},
        {**found, "v": "\ud800"},
        {**found, "k": "zz"},
        {**found, "sig": None},
        {},
    ]
    assert stored_value(found, key, b"s") is not None
    for refused in wrong:
        with pytest.raises(GrapeRefused):
            stored_value(refused, key, b"s")
    with pytest.raises(GrapeRefused, match="salt"):
        stored_value(found, key, b"")


def refusal(work):
    """The text of the refusal that `work` ends in, empty when it succeeds."""
    try:
        work()
    except GrapeRefused as error:
        return str(error)
    return ""


def is_for_people(text):
    return not text or (text.isprintable() and len(text) < 400)


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_reply_is_a_value_or_a_refusal(status, body):
    assert is_for_people(refusal(lambda: value_of(status, body)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_an_answer_or_a_refusal(value):
    decoders = (announced, withdrawn, addresses, lambda v: stored_key(v, KEY))
    for decode in (*decoders, lambda v: stored_value(v, KEY, b"")):
        assert is_for_people(refusal(lambda decode=decode: decode(value)))


def test_deep_json_is_refused_like_any_other():
    deep = b"[" * 900 + b"]" * 900
    with pytest.raises(GrapeRefused):
        announced(value_of(200, deep))
    with pytest.raises(NotAGrape):
        value_of(200, b"[" * 60000)
    assert addresses(json.loads(b"[" * 50 + b"]" * 50)) == []
