"""Answers of a Grape over HTTP: announcements, lookups, values, errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_grape import NODE_ID
from grape_http_kit import Api, running
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache import bep44
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable, GrenacheError
from p2p.grenache.grape_requests import announcement, key_to_get, octets, value_to_put

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

PUBLIC = KEY.public_key().public_bytes_raw()

HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"  # of "hello world", from a Node.js Grape


@pytest.fixture(params=["callbacks", "tasks", "aiohttp"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """In all ways: what is plain is answered directly, with or without a task, or all of it by aiohttp."""
    way = request.param
    async with running(direct=way != "aiohttp", callbacks=way == "callbacks") as found:
        yield found


# Announce and look up


async def test_an_announced_service_is_looked_up_as_text_of_addresses(api: Api) -> None:
    assert await api.ask("announce", ["rpc_test", 1337]) == (200, 1)
    assert await api.ask("lookup", "rpc_test") == (200, ["127.0.0.1:1337"])
    assert await api.ask("lookup", "nothing_here") == (200, [])


async def test_an_announcement_may_name_the_address_it_is_for(api: Api) -> None:
    assert await api.ask("announce", ["s", 1, "192.0.2.7"]) == (200, 1)
    assert await api.ask("announce", ["s", 2, None]) == (200, 1)
    assert api.grape.calls == [("announce", "s", 1, "192.0.2.7"), ("announce", "s", 2, None)]
    assert await api.ask("lookup", "s") == (200, ["192.0.2.7:1", "127.0.0.1:2"])


@pytest.mark.parametrize("host", ["worker.example", "::1", "192.0.2", 5, ["192.0.2.7"], True, ""])
async def test_a_given_address_that_is_not_ipv4_is_refused_with_the_reason(
    api: Api, host: object
) -> None:
    status, text = await api.ask("announce", ["s", 1, host])
    assert status == 200
    assert text.startswith("ERR_GRAPE_SERVICE_HOST: ")
    assert "is not an IPv4 address such as 192.0.2.7" in text
    assert not api.grape.calls


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255"])
async def test_a_given_address_that_is_no_machines_is_refused(api: Api, host: str) -> None:
    _, text = await api.ask("announce", ["s", 1, host])
    assert "is no machine's address" in text
    assert not api.grape.calls


async def test_an_announcement_is_taken_back(api: Api) -> None:
    await api.ask("announce", ["s", 1])
    assert await api.ask("unannounce", ["s", 1]) == (200, 1)
    assert await api.ask("unannounce", ["s", 1]) == (200, 0)
    assert await api.ask("lookup", "s") == (200, [])


async def test_javascripts_integers_are_integers(api: Api) -> None:
    assert (await api.raw("announce", b'{"data":["s",1.337e3]}')) == (200, b"1")
    assert api.grape.calls == [("announce", "s", 1337, None)]


# What the Node.js Grape answers to what is wrong


@pytest.mark.parametrize(
    ("kind", "argument", "text"),
    [
        ("announce", None, "ERR_GRAPE_ANNOUNCE"),
        ("announce", "service", "ERR_GRAPE_ANNOUNCE"),
        ("announce", {"0": "s", "1": 1}, "ERR_GRAPE_ANNOUNCE"),
        ("announce", [], "ERR_GRAPE_ANNOUNCE"),
        ("announce", [5, 1], "ERR_GRAPE_ANNOUNCE"),
        ("announce", ["s"], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", "1337"], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", 1.5], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", True], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", None], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", -1], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", 65536], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["s", 1e300], "ERR_GRAPE_SERVICE_PORT"),
        ("announce", ["", 1], "ERR_GRAPE_SERVICE_NAME: a service name is a text, not ''"),
        ("lookup", None, "ERR_GRAPE_LOOKUP"),
        ("lookup", "", "ERR_GRAPE_LOOKUP"),
        ("lookup", 5, "ERR_GRAPE_LOOKUP"),
        ("lookup", ["s"], "ERR_GRAPE_LOOKUP"),
        ("put", None, "opts.v not given"),
        ("put", "text", "opts.v not given"),
        ("put", [], "opts.v not given"),
        ("put", {}, "opts.v not given"),
        ("put", {"v": None}, "opts.v not given"),
        ("put", {"v": 5}, "opts.v not a string: encode it, as JSON for example"),
        ("put", {"v": "x" * 1000}, "v must be less than 1000 bytes in put()"),
        ("get", None, "ERR_GRAPE_GENERIC"),
        ("get", 5, "ERR_GRAPE_GENERIC"),
        ("get", [], "ERR_GRAPE_GENERIC"),
        ("get", {}, "ERR_GRAPE_GENERIC"),
        ("get", {"hash": 5}, "ERR_GRAPE_GENERIC"),
        ("get", "", "ERR_GRAPE_HASH_FORMAT"),
        ("get", "zz", "ERR_GRAPE_HASH_FORMAT"),
        ("get", HELLO[:-1], "ERR_GRAPE_HASH_FORMAT"),
        ("get", HELLO + "\n", "ERR_GRAPE_HASH_FORMAT"),
        ("get", {"hash": "zz"}, "ERR_GRAPE_HASH_FORMAT"),
        ("get", {"hash": HELLO, "salt": 5}, "ERR_GRAPE_GENERIC"),
        ("nonsense", "s", "ERR_REQ_NOTFOUND"),
        ("", "s", "ERR_REQ_NOTFOUND"),
        ("lookup?x=1", "s", "ERR_REQ_NOTFOUND"),
        ("lookup/", "s", "ERR_REQ_NOTFOUND"),
        ("status", "s", "ERR_REQ_NOTFOUND"),
        ("LOOKUP", "s", "ERR_REQ_NOTFOUND"),
    ],
)
async def test_wrong_requests_get_the_texts_that_clients_know(
    api: Api, kind: str, argument: object, text: str
) -> None:
    assert await api.ask(kind, argument) == (200, text)
    assert not api.grape.calls


@pytest.mark.parametrize("body", [b"5", b'"text"', b"[]", b"null", b"true", b"{}"])
async def test_a_body_without_data_is_a_request_without_argument(api: Api, body: bytes) -> None:
    assert await api.raw("lookup", body) == (200, b'"ERR_GRAPE_LOOKUP"')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'data':1}",
        b"\xff",
        b'{"data":NaN}',
        b"[" * 5000,
        gzip.compress(b'{"data":"s"}', mtime=0),
    ],
)
async def test_bodies_that_are_not_json_get_500_and_an_error_name(api: Api, body: bytes) -> None:
    assert await api.raw("lookup", body) == (500, b"ERR_GRAPE_PAYLOAD_INVALID")
    compressed = {"Content-Encoding": "gzip"}
    assert await api.raw("lookup", body, headers=compressed) == (500, b"ERR_GRAPE_PAYLOAD_INVALID")


async def test_methods_and_the_case_of_the_first_letter_do_not_matter(api: Api) -> None:
    body = b'{"data":"s"}'
    assert await api.raw("Lookup", body) == (200, b"[]")
    assert await api.raw("lookup", body, method="PUT") == (200, b"[]")
    assert await api.raw("lookup", body, method="GET") == (200, b"[]")
    assert await api.raw("lookup", b"", method="GET") == (500, b"ERR_GRAPE_PAYLOAD_INVALID")


# Values


async def test_a_value_is_put_and_got(api: Api) -> None:
    assert await api.ask("put", {"v": "hello world"}) == (200, HELLO)
    found = {"id": NODE_ID.hex(), "token": None, "v": "hello world"}
    assert await api.ask("get", HELLO) == (200, found)
    assert await api.ask("get", HELLO.upper()) == (200, found)
    assert await api.ask("get", {"hash": HELLO, "cache": False}) == (200, found)


def signed(seq: int = 7, value: str = "green", salt: str = "") -> dict[str, Any]:
    """Request body of a client that puts this."""
    item = bep44.sign(KEY, seq, value.encode(), salt=salt.encode())
    more = {"salt": salt} if salt else {}
    return {"k": PUBLIC.hex(), "seq": seq, "v": value, "sig": item.signature.hex(), **more}


@pytest.mark.parametrize("salt", ["", "colours"])
async def test_a_signed_value_is_put_and_got(api: Api, salt: str) -> None:
    sent = signed(value="grün", salt=salt)
    status, key = await api.ask("put", sent)
    assert (status, key) == (200, bep44.mutable_key(PUBLIC, salt.encode()).hex())
    found = {"id": NODE_ID.hex(), "token": None, **sent}
    assert await api.ask("get", {"hash": key, "salt": salt}) == (200, found)
    assert api.grape.calls[-1] == ("get", key, salt.encode())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"v": None}, "opts.v not given"),
        ({"v": "x" * 1000}, "v must be less than 1000 bytes in put()"),
        ({"k": "00"}, "opts.k ed25519 public key must be 32 bytes"),
        ({"k": "no hex"}, "opts.k ed25519 public key must be 32 bytes"),
        ({"k": 5}, "ERR_GRAPE_GENERIC"),
        (
            {"sig": None},
            "opts.sign function or options.sig signature is required for mutable put",
        ),
        (
            {"sig": "00"},
            "opts.sign function or options.sig signature is required for mutable put",
        ),
        ({"salt": "x" * 65}, "opts.salt is > 64 bytes long"),
        ({"seq": None}, "opts.seq not provided for a mutable update"),
        ({"seq": "7"}, "opts.seq not an integer"),
        ({"seq": 1.5}, "opts.seq not an integer"),
        ({"seq": True}, "opts.seq not an integer"),
        ({"seq": -1}, "opts.seq not an integer"),
        ({"seq": 2**64}, "opts.seq not an integer"),
        ({"cas": "1"}, "opts.cas must be an integer if provided"),
    ],
)
async def test_a_wrong_signed_value_is_refused_before_it_is_sent(
    api: Api, change: dict[str, Any], text: str
) -> None:
    assert await api.ask("put", signed() | change) == (200, text)
    assert not api.grape.calls


async def test_a_version_to_replace_is_handed_on(api: Api) -> None:
    await api.ask("put", signed() | {"cas": 6})
    assert api.grape.calls[0][1].cas == 6


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (GrapeRefused("No nodes to query", "3 were asked"), 200, "No nodes to query"),
        (GrapeRefused("All queries failed"), 200, "All queries failed"),
        (
            GrapeRefused("301 CAS mismatch, re-read and try again"),
            301,
            "301 CAS mismatch, re-read and try again",
        ),
        (
            GrapeRefused("302 sequence number less than current", "it is 9"),
            302,
            "302 sequence number less than current",
        ),
        (BadInput("ERR_NEW", "told in full"), 200, "ERR_NEW: told in full"),
        (GrapeRefused("ERR_GRAPE_BUSY", "9 searches"), 503, "ERR_GRAPE_BUSY: 9 searches"),
        (GrapeUnreachable("stopped"), 503, "ERR_GRAPE_UNREACHABLE: stopped"),
    ],
)
async def test_dht_errors_reach_the_client_in_the_form_of_the_real_grape(
    api: Api, error: GrenacheError, status: int, text: str
) -> None:
    api.grape.fail = error
    assert await api.ask("put", signed()) == (status, text)


def test_bytes_are_decoded_as_by_the_node_js_grape() -> None:
    as_buffer = {"type": "Buffer", "data": [1, 2, 255]}
    assert octets(as_buffer) == octets(json.dumps(as_buffer), from_hex=True) == b"\x01\x02\xff"
    assert octets([1, 258, -1, "x"]) == octets("[1, 258, -1, 0]") == b"\x01\x02\xff\x00"
    assert octets('"quoted"') == b"quoted"
    assert octets("12", from_hex=True) == b"\x12"
    assert octets("12") == b"12"
    assert octets("abcdxy12", from_hex=True) == b"\xab\xcd"
    assert octets("grün") == "grün".encode()
    assert octets("null") == b"null"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)

PUTS = st.fixed_dictionaries(
    {},
    optional={
        "v": JSON_VALUES | st.text(),
        "k": JSON_VALUES | st.just(PUBLIC.hex()),
        "sig": JSON_VALUES | st.just("00" * 64),
        "seq": JSON_VALUES,
        "salt": JSON_VALUES,
        "cas": JSON_VALUES,
    },
)


@given(JSON_VALUES | PUTS)
def test_any_argument_is_taken_or_refused(argument: Any) -> None:
    for read in (announcement, key_to_get, value_to_put):
        with suppress(BadInput):  # anything else fails the test
            read(argument)
