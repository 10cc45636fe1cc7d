"""The API's description of itself."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from api_kit import Api, check, running_api
from fake_service import FakeService
from jsonschema import ValidationError
from openapi_spec_validator import validate

from node.api import make_app
from node.api.call_examples import examples
from node.api.openapi import document, page
from node.api.problems import CODES
from node.views.worker_messages import WORKER_PATH


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


async def test_the_document_that_is_served_is_valid_openapi(api: Api) -> None:
    answer = await api.get("/openapi.json")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == document(keys_required=False)
    assert answer.json["openapi"] == "3.1.0"
    validate(answer.json)


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    served = {
        (route.method, route.resource.canonical)
        for route in make_app(FakeService()).router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/v1")
    }
    described = {
        (method.upper(), path)
        for path, operations in document()["paths"].items()
        for method in operations
    }
    served.discard(("GET", WORKER_PATH))  # between programs of this package, not for clients
    served.discard(("GET", "/v1/stream"))  # a WebSocket, in the AsyncAPI document
    assert {pair for pair in served if pair[0] not in ("HEAD", "*")} == described
    assert len(described) == 57


def test_every_parameter_in_a_path_is_described() -> None:
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert all(p["description"] for p in operation["parameters"])


def test_operation_ids_are_unique_and_every_operation_lists_its_problems() -> None:
    operations = [op for ops in document()["paths"].values() for op in ops.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)
    for operation in operations:
        assert {"400", "403", "421", "500"} <= operation["responses"].keys()


@pytest.mark.parametrize("value", ["1e5", "-1", "NaN", "", "1.", ".5", 5, None])
def test_the_schema_of_an_order_accepts_plain_decimals_only(value: object) -> None:
    order = {"market": "BTC-USD", "side": "buy", "quantity": "0.5"}
    reference = {"$ref": "#/components/schemas/OrderRequest"}
    check(order, reference)
    with pytest.raises(ValidationError):
        check(order | {"quantity": value}, reference)


@pytest.mark.parametrize("value", ["0", "0.0", "00.000", "9" * 41, "-5"])
def test_the_schema_of_an_order_refuses_quantities_of_nothing(value: str) -> None:
    order = {"market": "BTC-USD", "side": "buy", "quantity": value}
    with pytest.raises(ValidationError):
        check(order, {"$ref": "#/components/schemas/OrderRequest"})
    for more in ("0.5", "5", "0.05", "10.0", "010"):
        check(order | {"quantity": more}, {"$ref": "#/components/schemas/OrderRequest"})


def test_keys_are_alternatives_where_the_node_takes_requests_without() -> None:
    for keys_required in (True, False):
        paths = document(keys_required=keys_required)["paths"]
        free = {
            operation["operationId"]
            for operations in paths.values()
            for operation in operations.values()
            if {} in operation["security"]
        }
        everything = {op["operationId"] for ops in paths.values() for op in ops.values()}
        assert ("submitOrder" in free) == ("createAccount" in free) == (not keys_required)
        assert free == everything or keys_required
        assert "getBook" in free


def test_nothing_that_generators_of_clients_refuse() -> None:
    def parts(value: object) -> list[dict[str, object]]:
        if isinstance(value, dict):
            return [value, *(part for each in value.values() for part in parts(each))]
        return [part for each in value for part in parts(each)] if isinstance(value, list) else []

    tuples = [part for part in parts(document()) if "prefixItems" in part]
    assert tuples
    assert all(part.get("items") is not False and "maxItems" in part for part in tuples)


def test_the_document_and_the_page_say_where_the_stream_is_described() -> None:
    assert "/v1/stream" in document()["info"]["description"]
    assert "/asyncapi.json" in document()["info"]["description"]
    assert 'id="openStream"' in page()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "link", "!doctype"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "action"):
                self.links.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_is_well_formed_loads_nothing_and_explains_everything(api: Api) -> None:
    answer = await api.get("/docs")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    html = _Page()
    html.feed(answer.body.decode())
    assert html.open == []
    assert html.tags.isdisjoint({"style", "img", "iframe", "form"})
    assert {link for link in html.links if not link.startswith("#")} == {
        "/",
        "/openapi.json",
        "/asyncapi.json",
        "/web/docs.js",
        "/web/icon.svg",
        "/web/style/docs.css",
    }
    assert {link[1:] for link in html.links if link.startswith("#")} <= set(html.ids)
    assert len(html.ids) == len(set(html.ids))
    assert {f"problem-{code}" for code in CODES} <= set(html.ids)
    for path in document()["paths"]:
        assert path in page()
    assert f"{api.url}/v1/orders".encode() in answer.body


def lines(language: str) -> dict[str, str]:
    """The examples of every operation, by its name."""
    described = document()
    return {
        operation["operationId"]: line
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        for name, line in examples(
            method.upper(), path, operation, described["components"]["schemas"]
        ).items()
        if name == language
    }


@pytest.mark.parametrize("language", ["curl", "Python"])
async def test_every_example_is_a_request_that_the_node_understands(
    api: Api, language: str
) -> None:
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    sent = {}
    for name, line in lines(language).items():
        line = line.replace("http://HOST", api.url)
        if language == "curl":
            words = ["curl", "--silent", "--max-time", "10", *shlex.split(line)[1:]]
        else:
            quiet = "import sys; sys.tracebacklimit = 0\n"
            words = [sys.executable, "-S", "-c", quiet + line]
        running = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, problem = await running.communicate()
        sent[name] = (out + problem).decode()
    assert len(sent) > 40
    refused = ("invalid_body", "invalid_json", "invalid_parameter", "not_found", "Bad Request")
    refused += ("method_not_allowed", "unsupported_media", "Not Allowed", "Unsupported", "Syntax")
    assert {name: text for name, text in sent.items() if any(w in text for w in refused)} == {}
