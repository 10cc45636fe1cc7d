"""The bytes of Grenache RPC: as the Node.js programs write and read them, and nothing that breaks on others."""

from __future__ import annotations

import contextlib
import gzip
import json
import uuid
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.rpc import rpc_wire

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.text(), st.text(min_size=1), JSON)
def test_a_request_comes_out_as_it_went_in(rid: str, key: str, payload: Any) -> None:
    assert rpc_wire.decode_request(rpc_wire.encode_request(rid, key, payload)) == (
        rid,
        key,
        payload,
    )


@given(st.text(), st.none() | st.text(min_size=1), JSON)
def test_a_reply_comes_out_as_it_went_in(rid: str, error: str | None, result: Any) -> None:
    assert rpc_wire.decode_reply(rpc_wire.encode_reply(rid, error, result)) == (rid, error, result)


@given(st.binary() | st.text() | JSON.map(lambda value: json.dumps(value)))
def test_whatever_comes_is_decoded_or_refused(data: bytes | str) -> None:
    for decode in (rpc_wire.decode_request, rpc_wire.decode_reply):
        with contextlib.suppress(rpc_wire.Malformed):
            decode(data)


def test_rids_are_random_uuids() -> None:
    rids = {rpc_wire.new_rid() for _ in range(100)}
    assert len(rids) == 100
    assert {uuid.UUID(rid).version for rid in rids} == {4}


@pytest.mark.parametrize(
    ("data", "code", "rid"),
    [
        ("", "ERR_REQUEST_NOT_JSON", None),
        (b"", "ERR_REQUEST_NOT_JSON", None),
        ("hello", "ERR_REQUEST_NOT_JSON", None),
        (b'["r","k",', "ERR_REQUEST_NOT_JSON", None),
        ('["r","k",NaN]', "ERR_REQUEST_NOT_JSON", None),
        ('["\\ud800","k",NaN]', "ERR_REQUEST_NOT_JSON", None),
        (b'["r","k","\xff"]', "ERR_REQUEST_NOT_JSON", None),
        ("[" * 100_000, "ERR_REQUEST_NOT_JSON", None),
        ("[" * 100_000 + '"\\ud800"', "ERR_REQUEST_NOT_JSON", None),
        ('"str"', "ERR_REQUEST_SHAPE", None),
        ("null", "ERR_REQUEST_SHAPE", None),
        ('{"rid":1}', "ERR_REQUEST_SHAPE", None),
        ("[]", "ERR_REQUEST_SHAPE", None),
        ('["r"]', "ERR_REQUEST_SHAPE", "r"),
        ('["r","",1]', "ERR_REQUEST_SHAPE", "r"),
        ('["r",5,1]', "ERR_REQUEST_SHAPE", "r"),
        ('[{"a":1},"k",1]', "ERR_REQUEST_SHAPE", None),
    ],
)
def test_malformed_requests_are_refused_with_their_rid_if_there_is_one(
    data: str | bytes, code: str, rid: Any
) -> None:
    with pytest.raises(rpc_wire.Malformed) as caught:
        rpc_wire.decode_request(data)
    assert (caught.value.code, caught.value.rid) == (code, rid)


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ('["h","hk"]', '["b","bk",1]', ("h", "hk", 1)),
        ('["h"]', '["b","bk",1]', ("h", "bk", 1)),
        ('["","hk"]', '["b","bk",1]', ("b", "hk", 1)),
        ('["h","hk"]', "[null,null,1]", ("h", "hk", 1)),
        ('["h","hk"]', "[]", ("h", "hk", None)),
        ("5", '["b","bk",1]', ("b", "bk", 1)),
        ("null", '["b","bk",1]', ("b", "bk", 1)),
    ],
)
def test_the_header_wins_over_the_body(header: str, body: str, expected: Any) -> None:
    assert rpc_wire.decode_request(body, header) == expected


def test_a_header_that_is_not_json_is_refused() -> None:
    with pytest.raises(rpc_wire.Malformed) as caught:
        rpc_wire.decode_request('["r","k",1]', "not json")
    assert caught.value.code == "ERR_HEADER_PARSE_GR"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('["r",null,1]', rpc_wire.RpcReply("r", None, 1)),
        ('["r","ERR_MY_APP",{"partial":1}]', rpc_wire.RpcReply("r", "ERR_MY_APP", {"partial": 1})),
        ('["r"]', rpc_wire.RpcReply("r", None, None)),
        ('["r","",1]', rpc_wire.RpcReply("r", None, 1)),
        ('["r",0,1]', rpc_wire.RpcReply("r", None, 1)),
        ('["r",false,1]', rpc_wire.RpcReply("r", None, 1)),
        ('["r",{"code":7},null]', rpc_wire.RpcReply("r", '{"code":7}', None)),
        ('["r",[],null]', rpc_wire.RpcReply("r", "[]", None)),
        ('["r",true,null]', rpc_wire.RpcReply("r", "true", None)),
    ],
)
def test_errors_of_a_reply_are_taken_as_the_node_client_takes_them(
    data: str, expected: rpc_wire.RpcReply
) -> None:
    assert rpc_wire.decode_reply(data) == expected


@pytest.mark.parametrize("data", ["", b"", "hello", "null", "{}", "[]", '"abc"', "[[1],null,1]"])
def test_malformed_replies_are_refused(data: str | bytes) -> None:
    with pytest.raises(rpc_wire.Malformed) as caught:
        rpc_wire.decode_reply(data)
    assert caught.value.code == "ERR_REPLY_EMPTY"


def test_half_surrogate_pairs_of_javascript_survive() -> None:
    # JSON.stringify("\ud800") is "\\ud800": no UTF-8 can hold it, yet Node.js sends it and takes it back.
    rid, _key, payload = rpc_wire.decode_request('["r","k","a\\ud800b"]')
    assert payload == "a\ud800b"
    assert rpc_wire.encode_reply(rid, None, payload) == b'["r",null,"a\\ud800b"]'


@pytest.mark.parametrize("number", [2**64, -(2**70), 10**30])
def test_long_integers_are_written_whole(number: int) -> None:
    assert json.loads(rpc_wire.encode_request("r", "k", number))[2] == number


@given(st.binary(max_size=2000))
def test_gzip_is_undone(data: bytes) -> None:
    assert rpc_wire.gunzip(rpc_wire.gzip(data)) == data
    assert gzip.decompress(rpc_wire.gzip(data)) == data
    assert rpc_wire.gunzip(gzip.compress(data)) == data


def test_exactly_the_limit_is_unpacked_and_one_more_is_not() -> None:
    assert rpc_wire.gunzip(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    with pytest.raises(rpc_wire.TooLarge):
        rpc_wire.gunzip(gzip.compress(b"x" * 1001), 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        gzip.compress(b"hello", mtime=0)[:-1],
        gzip.compress(b"hello", mtime=0) + b"x",
        gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0),
        zlib.compress(b"hello"),
    ],
    ids=["empty", "plain", "cut", "trailing", "two members", "zlib"],
)
def test_bodies_other_than_one_gzip_member_are_refused(data: bytes) -> None:
    with pytest.raises(rpc_wire.Malformed) as caught:
        rpc_wire.gunzip(data)
    assert caught.value.code == "ERR_ENCODING_COMPRESSION"


@given(st.binary(max_size=200))
def test_no_bytes_break_gunzip(data: bytes) -> None:
    for candidate in (data, b"\x1f\x8b\x08" + data):
        with contextlib.suppress(rpc_wire.Malformed):
            rpc_wire.gunzip(candidate)


@given(st.floats(0, 3599))
def test_a_busy_answer_has_a_retry_time(seconds: float) -> None:
    assert rpc_wire.retry_after(rpc_wire.busy(seconds)) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    "error",
    [
        "",
        "ERR_BUSY",
        "ERR_BUSY: soon",
        "ERR_MY_APP: 1 s",
        "ERR_BUSY: in nan s",
        "ERR_BUSY: in -1 s",
    ],
)
def test_other_errors_have_no_retry_time(error: str) -> None:
    assert rpc_wire.retry_after(error) is None


def test_a_new_rid_is_a_uuid_of_version_4():
    found = {rpc_wire.new_rid() for _ in range(500)}
    assert len(found) == 500
    for text in found:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)
