"""Lines that call an operation of the API: for curl, Python and JavaScript, ready to be copied and run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

import orjson

HOST: Final = "http://HOST"  # replaced by the address at which the page is served
# Values of fields and parameters by name, where a type alone gives no sensible one.
_VALUES: Final[Mapping[str, Any]] = {
    "market": "BTC-USD",
    "side": "buy",
    "quantity": "0.5",
    "price": "29000",
    "client_id": "my-order-1",
    "id": "1",
    "account": "alice",
    "name": "alice",
    "asset": "USD",
    "amount": "100",
    "reason": "prices in doubt",
    "timeout_ms": 60000,
    "address": "192.0.2.10:3000",
    "peer": "a2b3c4d5",
    "node": "a2b3c4d5",
    "service": "status",
    "key": "KEY",
    "limit": "10000",
    "direction": "paid",
    "action": "ban",
    "subject": "203.0.113.0/24",
    "payload": {},
}
# Optional fields without which an example would do nothing or something surprising.
_WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "OrderRequest": ("price",),
    "AmendRequest": ("price",),
    "CreditRequest": ("limit",),
    "AccountChange": ("frozen",),
    "CallRequest": ("payload",),
}
_QUERIES: Final[Mapping[str, str]] = {"cancelOrders": "?all=true"}


def examples(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> dict[str, str]:
    """The lines by the name of their language."""
    for name, value in _VALUES.items():
        path = path.replace(f"{{{name}}}", str(value))
    url = HOST + path + _QUERIES.get(operation["operationId"], "")
    if operation["operationId"] == "openStream":
        return {"JavaScript": _stream_example(url.replace("http", "ws", 1))}
    body = _body(operation, schemas)
    text = None if body is None else orjson.dumps(body).decode()
    return {
        "curl": _curl(method, url, text),
        "Python": _python(method, url, text),
        "JavaScript": _javascript(method, url, text),
    }


def _body(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    if "requestBody" not in operation:
        return None
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    name = reference.rpartition("/")[2]
    schema = schemas[name]
    fields = [*schema.get("required", []), *_WANTED.get(name, ())]
    return {field: _VALUES.get(field, True) for field in fields}


def _curl(method: str, url: str, body: str | None) -> str:
    words = ["curl"]
    if method != "GET":
        words += ["-X", method]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", body]
    return shlex.join([*words, url])


def _python(method: str, url: str, body: str | None) -> str:
    parts = [repr(url)]
    if body is not None:
        parts += [f"data={body.encode()!r}", "headers={'Content-Type': 'application/json'}"]
    if method != "GET":
        parts.append(f"method={method!r}")
    request = f"Request({', '.join(parts)})"
    return f"from urllib.request import Request, urlopen; print(urlopen({request}).read().decode())"


def _javascript(method: str, url: str, body: str | None) -> str:
    options: list[str] = []
    if method != "GET":
        options.append(f'method: "{method}"')
    if body is not None:
        options.append('headers: {"Content-Type": "application/json"}')
        options.append(f"body: JSON.stringify({body})")
    more = f", {{{', '.join(options)}}}" if options else ""
    return f'console.log(await (await fetch("{url}"{more})).json())'


def _stream_example(url: str) -> str:
    subscription = '{op: "subscribe", channel: "book", market: "BTC-USD"}'
    return (
        f'const s = new WebSocket("{url}"); s.onmessage = (m) => console.log(m.data); '
        f"s.onopen = () => s.send(JSON.stringify({subscription}))"
    )
