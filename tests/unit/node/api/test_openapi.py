"""The API's description of itself."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from openapi_spec_validator import validate
from trading_kit import Api, running_api

from node.api.call_examples import examples
from node.api.openapi import document, page
from node.api.problems import CODES


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


@pytest.mark.process
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
