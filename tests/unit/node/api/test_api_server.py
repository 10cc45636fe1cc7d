"""The REST API against a working service in memory. Every answer is checked against OpenAPI."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from api_kit import Answer
from trading_kit import PEER, Api, running_api, server_of

from node.api import limits
from node.http import limits as http_limits
from node.http.request_guard import host_of

BUY = {"market": "BTC-USD", "side": "buy", "quantity": "0.5", "price": "30000"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


def assert_problem(answer: Answer, status: int, code: str, *words: str) -> None:
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"/docs#problem-{code}"
    for word in words:
        assert word in problem["detail"]


# Orders


async def test_orders_are_listed_by_market_state_and_limit(api: Api) -> None:
    for market in ("BTC-USD", "ETH-USD", "BTC-USD"):
        await api.post("/v1/orders", BUY | {"market": market})
    await api.delete("/v1/orders/1")

    async def numbers(query: str) -> list[int]:
        return [order["number"] for order in (await api.get(f"/v1/orders{query}")).json]

    assert await numbers("") == [3, 2]
    assert await numbers("?open=true") == [3, 2]
    assert await numbers("?open=false") == [3, 2, 1]
    assert await numbers("?open=false&limit=1") == [3]
    assert await numbers("?market=ETH-USD") == [2]


async def test_peers_are_listed_dialled_and_pinged(api: Api) -> None:
    assert (await api.get("/v1/peers")).json[0]["node_id"] == PEER
    assert (await api.post("/v1/peers", {"address": "10.0.0.1:3000"})).json["port"] == 3000
    assert_problem(await api.post("/v1/peers", {"address": "10.0.0.1:1"}), 502, "connect_failed")
    assert (await api.post(f"/v1/peers/{PEER[:4]}/ping")).json["node_id"] == PEER
    assert_problem(await api.post("/v1/peers/nobody/ping"), 404, "unknown_node")


# Wrong input


@pytest.mark.parametrize("field", ["price", "quantity"])
@pytest.mark.parametrize("number", [1, 0.1, 1e30])
async def test_a_json_number_is_refused_with_the_form_to_send(
    api: Api, field: str, number: float
) -> None:
    answer = await api.post("/v1/orders", BUY | {field: number})
    assert_problem(answer, 400, "number_not_string", field, "as strings", '"0.5"', "lose digits")
    assert answer.json["pointer"] == f"/{field}"
    assert (await api.get("/v1/orders?open=false")).json == []


@pytest.mark.parametrize(
    ("body", "words", "pointer"),
    [
        ({"side": "buy", "quantity": "1"}, ["missing required field `market`"], ""),
        (BUY | {"side": "hold"}, ["'hold' at /side; it is one of buy, sell"], "/side"),
        (BUY | {"tif": "GTC"}, ["'GTC' at /tif; it is one of", "gtc", "ioc"], "/tif"),
        (BUY | {"self_trade": "no"}, ["'no' at /self_trade; it is", "decrement"], "/self_trade"),
        (BUY | {"market": 1}, ["expected `str`, got `int`", "/market"], "/market"),
        (BUY | {"price": True}, ["expected", "got `bool`"], "/price"),
        (BUY | {"prcie": "1"}, ["unknown field `prcie`"], "/prcie"),
        ([], ["expected `object`, got `array`"], ""),
        ("buy", ["expected `object`"], ""),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_with_a_pointer(
    api: Api, body: object, words: list[str], pointer: str
) -> None:
    answer = await api.call("POST", "/v1/orders", json=body)
    assert_problem(answer, 400, "invalid_body", *words)
    assert answer.json["pointer"] == pointer


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"nonsense", b'{"market":"\xff"}', b"\x00" * 10, b"[" * 30_000),
        b'{"market":"BTC-USD","side":"buy","quantity":0.1"}',  # not JSON after a type that does not fit
        b'{"market":"BTC-USD","side":"buy","quantity":0.1,"price":"\xff"}',
    ],
)
async def test_a_body_that_is_no_json_is_refused(api: Api, raw: bytes) -> None:
    answer = await api.call(
        "POST", "/v1/orders", data=raw, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert answer.json["code"] in ("invalid_json", "invalid_body")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
async def test_a_body_of_another_type_is_refused(api: Api, kind: str) -> None:
    """A page of another site can send these without asking; JSON it cannot."""
    answer = await api.call("POST", "/v1/orders", data=b"{}", headers={"Content-Type": kind})
    assert_problem(answer, 415, "unsupported_media_type", kind, "application/json")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/orders?limit=0", ["limit", "from 1 to 1000", "'0'"]),
        ("/v1/orders?limit=1001", ["1001"]),
        ("/v1/orders?limit=-1", ["-1"]),
        ("/v1/orders?limit=1.5", ["1.5"]),
        ("/v1/orders?limit=%D9%A1", ["whole number"]),
        ("/v1/orders?limit=99999999999999999999", ["from 1 to 1000"]),
        ("/v1/orders?limit=", ["whole number"]),
        ("/v1/orders?open=yes", ["true or false", "'yes'"]),
        ("/v1/orders?markt=BTC-USD", ["unknown parameter 'markt'", "market, open, start"]),
        ("/v1/orders?limit=1&limit=2", ["given twice"]),
        ("/v1/book/BTC-USD?depth=x", ["depth", "'x'"]),
        ("/v1/fills?limit=x", ["limit"]),
        ("/v1/trades?limit=x", ["limit"]),
        ("/v1/markets?x=1", ["unknown parameter"]),
        ("/v1/status?verbose", ["unknown parameter"]),
    ],
)
async def test_a_wrong_query_parameter_is_named(api: Api, path: str, words: list[str]) -> None:
    answer = await api.get(path)
    assert_problem(answer, 400, "invalid_parameter", *words)
    assert answer.json["parameter"]


async def test_unknown_market_and_order_are_not_found(api: Api) -> None:
    assert_problem(await api.get("/v1/book/XX"), 404, "unknown_market", "XX", "BTC-USD")
    assert_problem(await api.get("/v1/orders/7"), 404, "unknown_order", "no order 7")
    assert_problem(await api.delete("/v1/orders/7"), 404, "unknown_order")
    assert_problem(await api.get("/v1/book/%2e%2e%2fetc"), 404, "unknown_market")


async def test_an_unknown_path_is_a_problem(api: Api) -> None:
    answer = await api.get("/v1/nonsense")
    assert_problem(answer, 404, "not_found", "/v1/nonsense", "/docs")
    assert answer.json["instance"] == "/v1/nonsense"


async def test_a_wrong_method_is_a_problem_that_lists_the_right_ones(api: Api) -> None:
    answer = await api.call("PUT", "/v1/orders")
    assert_problem(answer, 405, "method_not_allowed", "PUT", "DELETE, GET, HEAD, POST")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, POST"


async def test_a_body_over_the_limit_is_refused(api: Api) -> None:
    fits = b'{"market":"' + b"x" * (http_limits.MAX_BODY - 100) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert (await api.call("POST", "/v1/orders", data=fits, headers=headers)).status == 400
    answer = await api.call(
        "POST", "/v1/orders", data=b"x" * (http_limits.MAX_BODY + 1), headers=headers
    )
    assert_problem(answer, 413, "body_too_large", "64 KiB")


async def test_a_body_that_does_not_arrive_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "READ_TIMEOUT", 0.05)
    answer = await raw_request(
        api,
        b"POST /v1/orders HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10\r\n\r\n{",
    )
    assert b"408 Request Timeout" in answer
    assert b'"code":"request_timeout"' in answer


async def raw_request(api: Api, *parts: bytes, method: bytes = b"GET ") -> bytes:
    """Sends bytes, a moment between the parts, and returns the first that come back."""
    site = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(site.hostname, site.port)
    try:
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(0.01)
            writer.write(part.replace(b"HOST", site.netloc.encode()))
            await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return answer + await reader.readexactly(0 if method == b"HEAD " else length)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost HOST\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\n" + b"X-Long: " + b"y" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_malformed_http_is_answered_by_a_problem(api: Api, data: bytes) -> None:
    answer = await raw_request(api, data)
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert b"Content-Type: application/problem+json" in answer
    assert b'"code":"bad_request"' in answer
    assert (await api.get("/v1/health")).status == 200


class Endless:
    """A call that waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def __call__(self, *_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def test_stopping_the_server_cancels_work_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HANDLER_TIMEOUT", 0.02)
    async with running_api() as api:
        call = Endless()
        monkeypatch.setattr(api.node.network, "connect", call)
        answer = await api.post("/v1/peers", {"address": "10.0.0.1:3000"})
        assert_problem(answer, 504, "no_answer", "dialling the peer")
        assert not call.cancelled.is_set()
    assert call.cancelled.is_set()


# Who may ask


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9", "127.0.0.1", "LOCALHOST:80", "[::1]:8300", "localhost."]
)
async def test_loopback_names_are_served_on_any_port(api: Api, host: str) -> None:
    """Any port: a tunnel on this machine may have another one."""
    assert (await api.get("/v1/health", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8300",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "user@localhost",
        "localhost/x",
        "localhost:port",
        "[::1",
        "127.1",
    ],
)
async def test_a_foreign_host_header_is_refused(api: Api, host: str) -> None:
    """DNS rebinding: the page's own name resolves to 127.0.0.1, but the browser says the name."""
    assert_problem(await api.get("/v1/status", headers={"Host": host}), 403, "forbidden_host")
    answer = await api.post("/v1/orders", BUY, headers={"Host": host})
    assert_problem(answer, 403, "forbidden_host")
    assert (await api.get("/v1/orders?open=false")).json == []


PATHS = ("/v1/status", "/v1/session", "/v1/orders", "/metrics", "/", "/docs", "/v2/platform/status")


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_without_host_is_refused(api: Api, path: str) -> None:
    request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
    assert b" 403 Forbidden" in await raw_request(api, request)


@pytest.mark.parametrize("path", ["/v1/health", "/v1/ready", "/v1/health?cache=1", "/v1/ready?"])
@pytest.mark.parametrize(
    "headers",
    [
        b" HTTP/1.0\r\n",
        b" HTTP/1.0\r\nConnection: keep-alive\r\n",
        b" HTTP/1.0\r\nHost:\r\n",
        b" HTTP/1.0\r\nHost: 10.1.2.3\r\n",
        b" HTTP/1.1\r\nHost: 10.1.2.3:8300\r\n",
        b" HTTP/1.1\r\nHost: 10.1.2.3.\r\n",
        b" HTTP/1.1\r\nHost: [2001:db8::1]:8300\r\nUser-Agent: check\r\n",
        b" HTTP/1.1\r\nHost: [2001:db8::1]\r\n",
    ],
)
async def test_load_balancers_are_answered(api: Api, path: str, headers: bytes) -> None:
    for method in (b"GET ", b"HEAD "):
        answer = await raw_request(api, method + path.encode() + headers + b"\r\n", method=method)
        assert answer.split(b" ", 2)[1] == b"200", answer


@pytest.mark.parametrize("path", ["/v1/health", "/v1/ready"])
@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1.evil.example", "0x7f.1", "a@10.0.0.1"])
async def test_pages_under_a_name_of_theirs_get_no_health(api: Api, path: str, host: str) -> None:
    assert_problem(await api.get(path, headers={"Host": host}), 403, "forbidden_host")
    origin = {"Origin": f"http://{host}", "Host": "10.0.0.1"}
    assert_problem(await api.get(path, headers=origin), 403, "forbidden_origin")


async def test_the_api_s_own_pages_may_ask(api: Api) -> None:
    assert (await api.get("/v1/health", headers={"Origin": api.url})).status == 200


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("a.b:1", "a.b"),
        ("[fe80::1]:1", "fe80::1"),
        ("A", "a"),
        ("a:b", None),
        ("a/b", None),
        ("", None),
        ("a?b", None),
        ("[a", None),
    ],
)
def test_the_name_in_a_host_header(header: str, host: str | None) -> None:
    assert host_of(header) == host


# The server


async def test_requests_are_logged_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="node.api"):
        async with running_api() as api:
            await api.get("/v1/health")
    assert "GET '/v1/health' -> 200 in" in caplog.text


async def test_a_port_in_use_is_an_error_that_leaves_nothing_open() -> None:
    async with running_api() as api:
        second = server_of(api.node)
        with pytest.raises(OSError, match="Address already in use"):
            await second.start("127.0.0.1", urlsplit(api.url).port or 0)
        assert await second.start("127.0.0.1", 0) != api.url
        await second.stop()
        await second.stop()


async def test_the_url_of_a_wildcard_address_leads_to_this_machine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_api(host="0.0.0.0") as api:
        assert api.url.startswith("http://127.0.0.1:")
        assert "keys from other machines are refused" in caplog.text
        assert (await api.get("/v1/health")).status == 200


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost"])
async def test_the_server_listens_on_ipv6_and_by_name(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    async with running_api(host=host) as api:
        assert (await api.get("/v1/health")).status == 200


# Services


async def test_services_are_listed_and_called(api: Api) -> None:
    listed = await api.get("/v1/services")
    assert [service["name"] for service in listed.json] == ["book", "job_service"]
    answer = await api.post(
        "/v1/services/job_service/call", {"payload": {"a": [1, None]}, "timeout_ms": 100}
    )
    assert answer.status == 200
    assert answer.json["result"] == {"echo": {"a": [1, None]}}
    refused = await api.post("/v1/services/job_service/call", {"payload": {"refuse": "why"}})
    assert (refused.status, refused.json["code"]) == (422, "service_refused")
    assert refused.json["service_code"] == "no_job"
    assert (await api.post("/v1/services/nix/call", {})).json["code"] == "no_provider"
    assert (await api.post("/v1/services/book/call", {"timeout": 1})).json["code"] == "invalid_body"


async def test_a_call_is_cancelled_when_its_client_has_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Endless()
    monkeypatch.setattr(api.node.network, "call_service", call)
    with pytest.raises(TimeoutError):
        await api.post("/v1/services/book/call", {}, timeout=aiohttp.ClientTimeout(total=0.2))
    await asyncio.wait_for(call.cancelled.wait(), 5)


async def test_the_router_is_shown_with_the_requested_number_of_events(api: Api) -> None:
    everything = (await api.get("/v1/router")).json
    assert [event["kind"] for event in everything["events"]] == ["pick", "breaker"]
    assert [e["kind"] for e in (await api.get("/v1/router?events=1")).json["events"]] == ["breaker"]
    only = (await api.get("/v1/router?kind=pick")).json["events"]
    assert [event["kind"] for event in only] == ["pick"]
    for wrong in ("kind=nix", "events=0", "events=1001", "more=1"):
        assert (await api.get(f"/v1/router?{wrong}")).json["code"] == "invalid_parameter"


async def test_ready_gives_the_reasons_against(api: Api) -> None:
    answer = await api.get("/v1/ready")
    assert (answer.status, answer.json["ready"]) == (200, True)
    api.node.network.unready = "the disk is full"
    answer = await api.get("/v1/ready")
    assert answer.status == 503
    assert answer.json["code"] == "not_ready"
    assert answer.json["detail"] == "the disk is full"
    assert answer.json["checks"] == [{"name": "disk", "ok": False, "reason": "the disk is full"}]
    assert (await api.get("/v1/health")).status == 200, "it is alive all the same"


async def test_requests_are_counted_by_operation_and_code(api: Api) -> None:
    figures = api.server.figures
    await api.get("/v1/health")
    await api.get("/v1/orders/unknown-1")
    await api.get("/nowhere")
    await api.get("/v1/ready")
    async with api.session.ws_connect(f"{api.url}/v1/stream") as stream:
        await stream.send_str('{"op":"ping"}')
        await stream.send_str('{"op":"unsubscribe","stream":"none"}')
        await stream.receive()
        await stream.receive()
    assert figures.requests == {
        ("getHealth", "200"): 1,
        ("getOrder", "404"): 1,
        ("unmatched", "404"): 1,
        ("getReady", "200"): 1,
    }
    assert figures.problems == {"unknown_order": 1, "not_found": 1}
    assert figures.socket_requests == {
        ("stream ping", "ok"): 1,
        ("stream unsubscribe", "not_subscribed"): 1,
    }
    assert sum(figures.bins["getHealth"]) == 1


async def test_metrics_are_plain_text_for_prometheus(api: Api) -> None:
    answer = await api.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"exchange_node_peers 1.0" in answer.body
