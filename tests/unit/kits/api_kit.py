"""Answers of the API, which tests check against the OpenAPI document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator

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
