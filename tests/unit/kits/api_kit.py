"""A real API server around the fake service, for tests; every answer is checked against OpenAPI."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import orjson
from fake_service import FakeService
from jsonschema import Draft202012Validator

from node.api import ApiServer
from node.api.openapi import document


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@cache
def validator(schema_text: str) -> Draft202012Validator:
    schema = orjson.loads(schema_text) | {"components": document()["components"]}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def check(value: Any, schema: dict[str, Any]) -> None:
    """Raises when `value` does not have the shape of `schema`, a part of the document."""
    validator(orjson.dumps(schema).decode()).validate(value)


def documented(method: str, path: str) -> dict[str, Any] | None:
    """The operation that the document has for a request."""
    bare = path.partition("?")[0]
    for template, operations in document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), bare):
            found: dict[str, Any] | None = operations.get(method.lower())
            return found
    return None


def check_answer(method: str, path: str, answer: Answer) -> None:
    """Raises when the answer is not what the document promises."""
    kind = answer.headers["Content-Type"].partition(";")[0]
    operation = documented(method, path)
    if operation is None:
        assert kind == "application/problem+json"
        check(answer.json, {"$ref": "#/components/schemas/Problem"})
        return
    response = operation["responses"].get(str(answer.status))
    assert response is not None, f"{method} {path} does not document {answer.status}"
    if reference := response.get("$ref"):
        response = document()["components"]["responses"][reference.rpartition("/")[2]]
    check(answer.json, response["content"][kind]["schema"])


class Api:
    """A client that checks every answer."""

    def __init__(self, url: str, service: FakeService, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.service = service
        self.session = session

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(
            method, self.url + path, allow_redirects=False, **options
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if path.startswith("/v1"):
            check_answer(method, path, answer)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, json=body, **options)

    async def delete(self, path: str) -> Answer:
        return await self.call("DELETE", path)


@asynccontextmanager
async def running_api() -> AsyncIterator[Api]:
    """A server on a free loopback port, and a client of it."""
    service = FakeService()
    server = ApiServer(service)
    url = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Api(url, service, session)
    finally:
        await server.stop()
