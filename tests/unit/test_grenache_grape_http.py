"""The HTTP API of a Grape over real sockets, in front of a Grape that is a dictionary."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_grape import NODE_ID, FakeGrape
from grenache_kit import silence
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache import bep44
from p2p.grenache.errors import BadInput, GrapeRefused, GrapeUnreachable, GrenacheError
from p2p.grenache.grape_data import announcement, key_to_get, octets, value_to_put
from p2p.grenache.grape_http import TIME_LIMIT, GrapeApi, LocalGrape
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.web_guard import HostGuard, is_local_host

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"  # of "hello world", from a Node.js Grape


class Api:
    """The API with its Grape and a client."""

    def __init__(
        self, api: GrapeApi, grape: FakeGrape, client: aiohttp.ClientSession, host: str
    ) -> None:
        self.api, self.grape, self.client = api, grape, client
        self.url = api.url
        self.address = (host, api.address[1])

    async def raw(
        self, kind: str, body: bytes, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        async with self.client.request(
            method, f"{self.url}/{kind}", data=body, headers=headers, allow_redirects=False
        ) as reply:
            return reply.status, await reply.read()

    async def ask(self, kind: str, argument: Any) -> tuple[int, Any]:
        status, body = await self.raw(kind, json.dumps({"rid": "r", "data": argument}).encode())
        return status, json.loads(body) if body else None

    async def left(self, connections: int) -> None:
        """Wait until there are no more than these."""
        async with asyncio.timeout(5):
            while self.api._server.connections > connections:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)

    async def send(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """What comes back for these bytes: up to `until`, or to the end of the connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            async with asyncio.timeout(5):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def running(
    host: str = "127.0.0.1", *, time_limit: float = TIME_LIMIT, **limits: Any
) -> AsyncIterator[Api]:
    grape = FakeGrape()
    api = GrapeApi(grape, limits=Limits(**limits), time_limit=time_limit)
    await api.start(host, 0)
    async with aiohttp.ClientSession() as client:
        try:
            yield Api(api, grape, client, "127.0.0.1" if host == "0.0.0.0" else host)
        finally:
            grape.gate.set()
            await api.stop()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as found:
        yield found


def test_the_fake_is_what_the_api_asks_for() -> None:
    grape: LocalGrape = FakeGrape()
    assert grape.node_id == NODE_ID


# Announce and look up


async def test_an_announced_service_is_looked_up_as_text_of_addresses(api: Api) -> None:
    assert await api.ask("announce", ["rpc_test", 1337]) == (200, 1)
    assert await api.ask("lookup", "rpc_test") == (200, ["127.0.0.1:1337"])
    assert await api.ask("lookup", "nothing_here") == (200, [])


async def test_the_body_is_bare_json_with_its_length(api: Api) -> None:
    body = b'{"data":["x",1]}'
    head = b"POST /announce HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await api.send(head + body, until=b"\r\n\r\n1")
    assert b"Content-Length: 1\r\n" in answer


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


async def test_the_grape_learns_by_which_address_it_was_reached(api: Api) -> None:
    await api.ask("lookup", "s")
    assert api.grape.calls == [("lookup", "s", "127.0.0.1")]


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
        ("announce", ["s", 0], "ERR_GRAPE_SERVICE_PORT"),
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
async def test_what_is_no_json_gets_500_and_a_name(api: Api, body: bytes) -> None:
    assert await api.raw("lookup", body) == (500, b"ERR_GRAPE_PAYLOAD_INVALID")
    compressed = {"Content-Encoding": "gzip"}
    assert await api.raw("lookup", body, headers=compressed) == (500, b"ERR_GRAPE_PAYLOAD_INVALID")


async def test_a_long_name_is_refused_with_the_limit(api: Api) -> None:
    status, text = await api.ask("lookup", "é" * 129)
    assert (status, text[:22]) == (200, "ERR_GRAPE_SERVICE_NAME")
    assert "at most 256 bytes, not 258" in text


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


async def test_an_unknown_value_is_an_empty_body(api: Api) -> None:
    assert await api.raw("get", json.dumps({"data": "0" * 40}).encode()) == (200, b"")


def signed(seq: int = 7, value: str = "green", salt: str = "") -> dict[str, Any]:
    """What a client sends to put this."""
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
async def test_what_the_dht_says_reaches_the_client_as_the_real_grape_says_it(
    api: Api, error: GrenacheError, status: int, text: str
) -> None:
    api.grape.fail = error
    assert await api.ask("put", signed()) == (status, text)


def test_bytes_are_what_the_node_js_grape_makes_of_them() -> None:
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


# Who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:30001"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Host": "evil.example"},
        {"Host": "evil.example:30001"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "user@127.0.0.1"},
        {"Host": "127.0.0.1:port"},
    ],
)
async def test_pages_in_browsers_are_refused(api: Api, headers: dict[str, str]) -> None:
    body = b'{"data":["s",1]}'
    for method in ("POST", "GET", "OPTIONS"):
        status, text = await api.raw("announce", body, method=method, headers=headers)
        assert (status, text[:10]) == (403, b"ERR_GRAPE_")
        status, _ = await api.raw("status", b"", method=method, headers=headers)
        assert status == 403
    assert not api.grape.calls


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:30001"},
        {"Host": "LOCALHOST"},
        {"Host": "[::1]:30001"},
        {"Host": "192.0.2.7"},
        {"Host": "grape1:30001"},
        {"Host": "a.localhost"},
        {"Sec-Fetch-Mode": "cors"},  # of fetch() in Node.js
        {"Sec-Fetch-Site": "none"},  # an address typed into a browser
        {"Content-Type": "text/plain"},
    ],
)
async def test_programs_pass(api: Api, headers: dict[str, str]) -> None:
    for _ in range(2):
        assert await api.raw("lookup", b'{"data":"s"}', headers=headers) == (200, b"[]")


@pytest.mark.parametrize(
    ("own_host", "passes"),
    [("192.0.2.7", True), ("2001:db8::1", True), ("127.0.0.9", False), ("::ffff:127.0.0.1", False)],
)
def test_where_other_machines_come_in_the_api_may_have_any_name(
    own_host: str, passes: bool
) -> None:
    guard = HostGuard()
    for _ in range(2):
        assert (guard.refusal({"host": "grape.example:30001"}, own_host) is None) is passes
    assert guard.refusal({"host": "127.0.0.1", "origin": "http://x"}, own_host) is not None


async def test_an_old_client_without_host_passes(api: Api) -> None:
    body = b'{"data":"s"}'
    head = b"POST /lookup HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert (await api.send(head + body)).endswith(b"\r\n\r\n[]")


@pytest.mark.parametrize("header", ["", "10.0.0.1", "[fe80::1]", "x_y-1", "localhost."])
def test_hosts_that_no_public_name_server_is_asked_for(header: str) -> None:
    assert is_local_host(header)


@pytest.mark.parametrize("header", [":", "a.b", "a b", "[::1", "x/y", "x?y", "\n", "local:host:1"])
def test_other_hosts(header: str) -> None:
    assert not is_local_host(header)


# No request kills it or hangs


async def test_a_bug_is_told_as_an_incident_and_the_api_goes_on(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.grape.fail = ZeroDivisionError("the secret of the house")
    status, text = await api.raw("lookup", b'{"data":"s"}')
    assert (status, text[:19]) == (500, b"ERR_GRAPE_INTERNAL:")
    assert b"secret" not in text
    incident = text.rsplit(maxsplit=1)[-1].decode()
    assert incident in caplog.text
    api.grape.fail = None
    assert await api.ask("lookup", "s") == (200, [])


async def test_bytes_that_are_no_http_get_400_and_nothing_in_the_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for junk in (
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"POST /lookup FTP/1\r\n\r\n",
        b"HELO x\r\n\r\n",
    ):
        assert b" 400 " in (await api.send(junk)).partition(b"\r\n")[0]
    assert not caplog.records
    assert await api.ask("lookup", "s") == (200, [])


async def test_a_payload_up_to_the_limit_is_taken(api: Api) -> None:
    empty = json.dumps({"data": "s", "rid": ""}).encode()
    body = json.dumps({"data": "s", "rid": "x" * (8192 - len(empty))}).encode()
    assert await api.raw("lookup", body) == (200, b"[]")
    assert await api.raw("lookup", body + b" ") == (413, b"ERR_GRAPE_PAYLOAD_SIZE")
    assert await api.ask("lookup", "s") == (200, [])


async def test_a_payload_without_a_length_has_the_same_limit(api: Api) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield b'{"data":"s"}'
        for _ in range(count):
            yield b" " * 1000

    async with api.client.post(f"{api.url}/lookup", data=chunks(8)) as reply:
        assert (reply.status, await reply.read()) == (200, b"[]")
    async with api.client.post(f"{api.url}/lookup", data=chunks(9)) as reply:
        assert (reply.status, await reply.read()) == (413, b"ERR_GRAPE_PAYLOAD_SIZE")


async def test_the_sender_of_a_huge_body_is_told_before_it_has_sent_it(api: Api) -> None:
    head = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n"
    answer = await api.send(head, until=b"ERR_GRAPE_PAYLOAD_SIZE")
    assert b" 413 " in answer.partition(b"\r\n")[0]


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with running(body_timeout=0.05) as api:
        head = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{"
        answer = await api.send(head, until=b"0.05 s")
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert await api.ask("lookup", "s") == (200, [])


async def test_a_search_without_end_is_given_up() -> None:
    async with running(time_limit=0.05) as api:
        api.grape.gate.clear()
        status, text = await api.raw("lookup", b'{"data":"s"}')
        assert (status, text) == (504, b"ERR_GRAPE_TIMEOUT: no answer in 0.05 s")
        api.grape.gate.set()
        assert await api.ask("lookup", "s") == (200, [])


async def test_a_client_that_leaves_does_no_harm(api: Api) -> None:
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s"))
    await api.grape.entered.wait()
    writer.transport.abort()
    api.grape.gate.set()
    assert await api.ask("lookup", "s") == (200, [])
    assert await reader.read() == b""


async def test_a_connection_too_many_is_closed_in_silence_and_the_others_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(max_connections=2) as api:
        api.grape.gate.clear()
        asked = [asyncio.create_task(api.ask("lookup", "s")) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(api.grape.calls) < 2:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)
        with silence(caplog):
            for _ in range(20):
                with suppress(ConnectionError):
                    assert await api.send(b"") == b""
        api.grape.gate.set()
        assert await asyncio.gather(*asked) == [(200, [])] * 2
        assert await api.ask("lookup", "s") == (200, [])


async def test_who_asks_nothing_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    async with running(max_connections=4, max_per_host=2) as api:
        with silence(caplog):
            crowd = [await asyncio.open_connection(*api.address) for _ in range(12)]
            assert await api.ask("lookup", "s") == (200, [])
            for _, writer in crowd:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()


def lookup(service: str, *headers: str, version: str = "1.1") -> bytes:
    """The bytes of a request."""
    body = json.dumps({"data": service}).encode()
    lines = [f"POST /lookup HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_requests_of_one_connection_are_answered_in_their_order(api: Api) -> None:
    api.grape.entries = {"a": [("127.0.0.1", 1)], "b": [("127.0.0.1", 2)]}
    answer = await api.send(lookup("a") + lookup("b"), until=b'"127.0.0.1:2"]')
    assert answer.index(b'"127.0.0.1:1"]') < answer.index(b'"127.0.0.1:2"]')


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
async def test_the_connection_is_kept_as_the_client_wants_it(
    version: str, header: str, kept: bool
) -> None:
    async with running(idle=0.1 if kept else 60.0) as api:
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(lookup("s", header, version=version))
        assert (await reader.readuntil(b"[]")).startswith(b"HTTP/1.")
        if kept:
            writer.write(lookup("t", header, version=version))
            await reader.readuntil(b"[]")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_flood_of_requests_waits_at_its_sender(api: Api) -> None:
    """While one request is at work only a bounded part of those behind it is read."""
    api.grape.gate.clear()
    request = lookup("s", f"X: {'x' * 4000}")
    flood = 4000
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(request * flood)
    writing = asyncio.create_task(writer.drain())
    await api.grape.entered.wait()
    await asyncio.sleep(0.1)
    assert not writing.done()
    api.grape.gate.set()
    for _ in range(flood):
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n[]")
    await writing
    assert len(api.grape.calls) == flood
    writer.close()
    await writer.wait_closed()


async def test_who_has_too_much_wait_behind_its_request_is_cut(api: Api) -> None:
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s"))
    await api.grape.entered.wait()
    large = lookup("t", *(f"X: {'x' * 8000}" for _ in range(50)))
    with suppress(ConnectionError):
        for _ in range(32):
            writer.write(large)
            await writer.drain()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    api.grape.gate.set()
    await api.left(0)
    assert await api.ask("lookup", "u") == (200, [])
    assert [call[1] for call in api.grape.calls] == ["s", "u"]
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


# Life


async def test_status_says_how_the_grape_and_the_api_are(api: Api) -> None:
    await api.ask("lookup", "s")
    await api.ask("lookup", "")
    await api.raw("lookup", b"no json")
    async with api.client.get(f"{api.url}/status") as reply:
        status = await reply.json()
    async with api.client.get(api.url) as reply:
        assert (await reply.json()).keys() == status.keys()
    assert await api.raw("status", b"{}", method="GET") == (200, b'"ERR_REQ_NOTFOUND"')
    assert status["grape"] == {
        "node_id": NODE_ID.hex(),
        "nodes": 3,
        "address": ["127.0.0.1", 20001],
    }
    counted = {name: status["api"][name] for name in ("requests", "errors", "refused", "failed")}
    assert counted == {"requests": 4, "errors": 1, "refused": 1, "failed": 0}
    assert status["api"]["url"] == api.url
    assert status["api"]["connections"] == 1


async def test_stopping_ends_connections_and_can_be_repeated() -> None:
    api = GrapeApi(FakeGrape())
    host, port = await api.start("localhost", 0)
    assert (host, api.url) == ("127.0.0.1", f"http://127.0.0.1:{port}")
    reader, writer = await asyncio.open_connection(host, port)
    await api.stop()
    await api.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    with pytest.raises(RuntimeError):
        _ = api.address


async def test_stopping_lets_requests_under_way_end_and_takes_no_others(api: Api) -> None:
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s") + lookup("t"))
    await api.grape.entered.wait()
    stopping = asyncio.create_task(api.api.stop())
    await asyncio.sleep(0.05)
    api.grape.gate.set()
    async with asyncio.timeout(5):
        answer = await reader.read()
        await stopping
    assert answer.endswith(b"\r\n\r\n[]")
    assert b"\r\nConnection: close\r\n" in answer
    assert [call[1] for call in api.grape.calls] == ["s"]
    writer.close()
    await writer.wait_closed()


async def test_stopping_does_not_wait_for_a_search_without_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.grenache.rpc.server.CLOSE_TIMEOUT", 0.05)
    api.grape.gate.clear()
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(lookup("s"))
    await api.grape.entered.wait()
    async with asyncio.timeout(5):
        await api.api.stop()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_it_starts_again_after_a_stop_and_after_a_taken_port() -> None:
    async with running() as first:
        api = GrapeApi(FakeGrape())
        with pytest.raises(OSError, match="in use"):
            await api.start("127.0.0.1", first.address[1])
        await api.start("127.0.0.1", 0)
        with pytest.raises(RuntimeError):
            await api.start("127.0.0.1", 0)
        await api.stop()


async def test_every_interface_has_a_url_for_this_machine() -> None:
    async with running("0.0.0.0") as api:
        assert api.url == f"http://127.0.0.1:{api.address[1]}"
        assert await api.ask("lookup", "s") == (200, [])
