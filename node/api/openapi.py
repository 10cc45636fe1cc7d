"""The API's own description: an OpenAPI 3.1 document made from the routes and the views, and a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from functools import cache
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final

import msgspec
import orjson

from node.api.call_examples import examples
from node.api.problems import CODES, CONTENT_TYPE
from node.api.routes import ROUTES
from node.operations.operation import Access, Operation, Param
from node.views.field_types import DECIMAL_PATTERN, MOMENT, POSITIVE_PATTERN, SIGNED_PATTERN
from node.views.limits import CURSOR_HEADER
from node.views.problem_view import Problem

OPERATIONS: Final = tuple(route.operation for route in ROUTES)
_ACCESS: Final = {operation.name: operation.access for operation in OPERATIONS}
_REF: Final = "#/components/schemas/{name}"
_EVERYWHERE: Final = (400, 401, 403, 421, 429, 500)  # any operation can answer these

INTRODUCTION: Final = """\
The API of one exchange-node, on loopback unless configured otherwise. Programs of its accounts send \
`Authorization: Bearer KEY:SECRET`. On loopback a request without a key is the operator's, who trades \
for the house and manages accounts; unless `API_AUTH=required`, and then only public market data is \
shown without one.

Prices and quantities are exact decimals written as strings ("0.5"); a JSON number is refused. \
Times are ISO 8601 in UTC. Errors are problem details (RFC 9457) with a stable `code`. \
A client that sends the header `X-Exchange-Node` with a node id is answered by that node alone \
(421 otherwise).

The WebSocket at /v1/stream has books, trades and an account's orders as they change, and takes orders; \
/asyncapi.json (AsyncAPI 3.0) describes it. Programs written for Bitfinex v2 find that under /v2 and its \
WebSocket at /ws/2.

A request that does not fit this document is answered with 400. One that fits it, and cannot be carried out as \
things are (a price that is no multiple of the market's tick, too little balance), with 422.
"""

STREAM: Final = """\
A WebSocket (RFC 6455) of JSON text messages: books by level and by order with checksums, trades, tickers, \
candles, and an account's orders, fills and balances; with snapshots, then changes, and resuming. It takes \
orders too. Send e.g. `{"op":"subscribe","channel":"book","market":"BTC-USD"}`. Its messages are described by \
/asyncapi.json (AsyncAPI 3.0) and docs/api.md.
"""


# Of an operation, by the access that it needs.
_KEY: Final[dict[str, list[str]]] = {"key": []}
_OPERATOR: Final[dict[str, list[str]]] = {"operator": []}
_Security = list[dict[str, list[str]]]
_SECURITY: Final[dict[Access, _Security]] = {
    "public": [{}, _KEY, _OPERATOR],
    "read": [_KEY, _OPERATOR],
    "trade": [_KEY, _OPERATOR],
    "node": [_KEY, _OPERATOR],
    "operator": [_OPERATOR],
}
_WHO: Final[dict[Access, str]] = {
    "public": "everybody",
    "read": "the operator or an API key",
    "trade": "the operator or an API key",
    "node": "the operator or an API key",
    "operator": "the operator",
}
_SCHEMES: Final = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "KEY:SECRET",
        "description": "An API key of an account, with the permission read or trade. On loopback "
        "without API_AUTH=required a request without it is the operator's.",
    },
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "operator:TOKEN",
        "description": "The operator, by the token in the node's DATA_DIR/node.json; on loopback "
        "without API_AUTH=required it is not needed.",
    },
}


def version() -> str:
    """The version of this installation."""
    try:
        return metadata.version("exchange-node")
    except metadata.PackageNotFoundError:
        return "0"


def _parameter(param: Param) -> dict[str, Any]:
    described = {
        "name": param.name,
        "in": param.place,
        "required": param.place == "path",
        "description": param.description,
        "schema": dict(param.schema),
    }
    if param.schema.get("type") == "object":  # its properties are parameters of the query
        described |= {"required": True, "style": "form", "explode": True}
    return described


def _security(access: Access, *, keys_required: bool) -> _Security:
    """The alternatives of an operation. Where keys are optional, a request without one is the operator's."""
    found = _SECURITY[access]
    return found if keys_required or {} in found else [{}, *found]


def _operation(
    operation: Operation[Any, Any, Any], schemas: dict[Any, dict[str, Any]], *, keys_required: bool
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": HTTPStatus(operation.status).phrase,
            "content": {"application/json": {"schema": schemas[operation.answer]}},
        }
    }
    if operation.status == 201:
        responses["201"]["headers"] = {
            "Location": {"description": "Path of the order.", "schema": {"type": "string"}}
        }
    if cursor := next((each for each in operation.documented if each.name == "cursor"), None):
        responses["200"]["headers"] = {
            CURSOR_HEADER: {
                "description": "Of a full page: `cursor` of the request for the next one.",
                "schema": cursor.schema,
            }
        }
    for status in sorted({*_EVERYWHERE, *operation.problems}):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(param) for param in operation.documented],
        "responses": responses,
    }
    described["security"] = _security(operation.access, keys_required=keys_required)
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[operation.body]}},
        }
    return described


def _stream_operation() -> dict[str, Any]:
    """The stream as the page shows it. OpenAPI has no words for a WebSocket, so the document for programs
    leaves it to /asyncapi.json."""
    return {
        "operationId": "openStream",
        "tags": ["market data"],
        "summary": "Books, trades and own orders as they change, and orders (WebSocket)",
        "security": _SECURITY["public"],
        "description": STREAM,
        "parameters": [],
        "responses": {
            "101": {"description": "The connection is now a WebSocket."},
            **{
                str(status): {"$ref": f"#/components/responses/Problem{status}"}
                for status in sorted({*_EVERYWHERE, 426, 503})
            },
        },
    }


@cache
def document(*, keys_required: bool = True) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a node that takes requests without a key from the operator, or not."""
    types: list[Any] = [Problem]
    for operation in OPERATIONS:
        types += [kind for kind in (operation.answer, operation.body) if kind not in (None, *types)]
    described, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(types, described, strict=True))
    components["Problem"]["additionalProperties"] = True
    for kind in types:
        if least := getattr(kind, "MIN_PROPERTIES", 0):
            components[kind.__name__]["minProperties"] = least
    _open_tuples([*components.values(), *described])

    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas, keys_required=keys_required
        )
    statuses = {
        *_EVERYWHERE,
        *(status for operation in OPERATIONS for status in operation.problems),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "exchange-node",
            "version": version(),
            "description": INTRODUCTION,
            "license": {"name": "ISC", "identifier": "ISC"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name} for name in dict.fromkeys(operation.tag for operation in OPERATIONS)
        ],
        "paths": paths,
        "components": {
            "securitySchemes": _SCHEMES,
            "schemas": components,
            "responses": {
                f"Problem{status}": {
                    "description": HTTPStatus(status).phrase,
                    "content": {CONTENT_TYPE: {"schema": schemas[Problem]}},
                }
                for status in sorted(statuses)
            },
        },
    }


def _open_tuples(schemas: Iterable[Any]) -> None:
    """Leave out `"items": false` beside `prefixItems`, which generators of clients refuse; `maxItems` says
    the same."""
    for schema in schemas:
        if isinstance(schema, dict):
            if "prefixItems" in schema and schema.get("items") is False:
                del schema["items"]
            _open_tuples(schema.values())
        elif isinstance(schema, list):
            _open_tuples(schema)


# The page -------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Escapes, and turns `code` into code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _type_name(schema: dict[str, Any]) -> str:
    """A short readable name of a schema, linked where it has a table of its own."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if schema.get("anyOf") == MOMENT["anyOf"]:
        return "time"
    if (options := schema.get("anyOf")) and "type" not in schema:
        return " or ".join(_type_name(option) for option in options)
    if "enum" in schema:
        return " | ".join(f"<code>{html.escape(str(value))}</code>" for value in schema["enum"])
    if parts := schema.get("prefixItems"):
        return f"list of {' and '.join(map(_type_name, parts))}"
    if schema.get("type") == "array":
        return f"list of {_type_name(schema['items'])}"
    if schema.get("pattern") in (DECIMAL_PATTERN, SIGNED_PATTERN, POSITIVE_PATTERN):
        return "decimal string"
    return html.escape(str(schema.get("format") or schema.get("type") or "any value"))


def _rows(cells: Sequence[tuple[str, ...]], *heads: str) -> str:
    if not cells:
        return ""
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _operation_html(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<h3 id="{operation["operationId"]}"><span class="method">{method.upper()}</span> '
        f"<code>{html.escape(path)}</code></h3>",
        f"<p>{_text(operation['summary'])}.</p>",
    ]
    if "description" in operation:
        parts.append(f"<p>{_text(operation['description'])}</p>")
    parts.append(
        _rows(
            [
                (
                    f"<code>{param['name']}</code>",
                    f"{_type_name(param['schema'])}, in the {param['in']}",
                    _text(param["description"]) + _bounds(param["schema"]),
                )
                for param in operation["parameters"]
            ],
            "Parameter",
            "Type",
            "Meaning",
        )
    )
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        parts.append(f"<p>Body: {_type_name(schema)}</p>")
    parts.append(f"<p>For {_WHO[_ACCESS.get(operation['operationId'], 'public')]}.</p>")
    answers = []
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        if content:
            answers.append(f"{status} {_type_name(content['schema'])}")
    problems = [s for s, r in operation["responses"].items() if "Problem" in r.get("$ref", "")]
    answer = ", ".join(answers) or "101 and then the stream"
    parts.append(f"<p>Answers: {answer}; problems {', '.join(problems)}.</p>")
    lines = examples(method.upper(), path, operation, document()["components"]["schemas"])
    parts.append(
        "".join(
            f'<div class="example"><b>{name}</b><pre tabindex="0">{html.escape(line)}</pre></div>'
            for name, line in lines.items()
        )
    )
    return f'<section class="operation">{"".join(parts)}</section>'


def _bounds(schema: dict[str, Any]) -> str:
    notes = []
    if "maximum" in schema:
        notes.append(f"{schema['minimum']} to {schema['maximum']}")
    if "default" in schema:
        notes.append(f"default {orjson.dumps(schema['default']).decode()}")
    return f" ({', '.join(notes)})" if notes else ""


def _schema_html(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (f"<code>{field}</code>", _type_name(member), "" if field in required else "optional")
        for field, member in schema.get("properties", {}).items()
    ]
    summary = f"<p>{_text(schema['description'])}</p>" if "description" in schema else ""
    inside = f'<h3 id="{name}">{name}</h3>{summary}{_rows(rows, "Field", "Type", "")}'
    return f'<section class="shape">{inside}</section>'


_EXAMPLES: Final = """\
curl --json '{"market":"BTC-USD","side":"buy","quantity":"0.5","price":"30000"}' \\
     http://HOST/v1/orders
curl http://HOST/v1/book/BTC-USD?depth=10
curl -X DELETE http://HOST/v1/orders/1"""


@cache
def page() -> str:
    """The document as one readable page. Its script adds a search and buttons that copy; without
    it everything is there as well."""
    described = document()
    paths = described["paths"] | {"/v1/stream": {"get": _stream_operation()}}
    operations = [
        _operation_html(method, path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    schemas = [_schema_html(*item) for item in described["components"]["schemas"].items()]
    codes = "".join(
        f'<section class="problem"><h3 id="problem-{code}"><code>{code}</code></h3>'
        f"<p>{_text(title)}. {_text(meaning)}</p></section>"
        for code, (title, meaning) in sorted(CODES.items())
    )
    introduction = "".join(f"<p>{_text(part)}</p>" for part in INTRODUCTION.split("\n\n"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<title>exchange-node API</title>"
        '<link rel="icon" type="image/svg+xml" href="/web/icon.svg">'
        '<link rel="stylesheet" href="/web/style/docs.css">'
        '<script type="module" src="/web/docs.js"></script></head><body>'
        '<main><p><a href="/">The page of this node</a></p>'
        f"<h1>exchange-node API {html.escape(described['info']['version'])}</h1>{introduction}"
        '<p>For programs: <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1), and '
        '<a href="/asyncapi.json">asyncapi.json</a> (AsyncAPI 3.0) for the stream.</p>'
        f"<pre>{html.escape(_EXAMPLES)}</pre>"
        f'<div id="search"></div><h2>Operations</h2>{"".join(operations)}'
        f"<h2>Shapes</h2>{''.join(schemas)}"
        "<h2>Problems</h2><p>The node's refusals of orders carry further codes; their "
        f"<code>detail</code> says what was wrong and what to do.</p>{codes}"
        "</main></body></html>"
    )
