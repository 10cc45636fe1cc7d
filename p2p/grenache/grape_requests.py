"""Parsing of requests to a Grape's HTTP API into arguments of `Directory`. No I/O.

The Node.js Grape reads some fields with JavaScript's `Buffer.from`, and clients and their
signatures depend on that: see `octets`.
"""

from __future__ import annotations

import json
import re
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from p2p.grenache import bep44
from p2p.grenache.directory import MutableItem, StoredValue
from p2p.grenache.errors import BadInput, GrenacheError
from p2p.grenache.input_checks import check_key, check_port, check_service

NO_SIGNATURE: Final = "opts.sign function or options.sig signature is required for mutable put"

# Complete answers of the Node.js Grape, which clients compare literally: never extended.
SENTENCES: Final = frozenset(
    {
        "ERR_GRAPE_ANNOUNCE",
        "ERR_GRAPE_GENERIC",
        "ERR_GRAPE_HASH_FORMAT",
        "ERR_GRAPE_LOOKUP",
        "ERR_GRAPE_SERVICE_PORT",
        "ERR_REQ_NOTFOUND",
        "No nodes to query",
        "All queries failed",
        "301 CAS mismatch, re-read and try again",
        "302 sequence number less than current",
        "v must be less than 1000 bytes in put()",
        "opts.v not given",
        "opts.cas must be an integer if provided",
        "opts.k ed25519 public key must be 32 bytes",
        NO_SIGNATURE,
        "opts.salt is > 64 bytes long",
        "opts.seq not provided for a mutable update",
        "opts.seq not an integer",
    }
)

_HEX_PAIRS = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_CONFLICT = re.compile(r"(30[12]) ")
_NOT_NOW = re.compile(r"ERR_GRAPE_(BUSY|UNREACHABLE)\b")


def error_text(error: GrenacheError) -> str:
    """Return the body of an error answer: the Node.js Grape's text, or this project's with its
    detail."""
    return error.code if error.code in SENTENCES else str(error)


def error_status(text: str) -> int:
    """Return the HTTP status of an error's text: 200, except for puts in conflict, and for
    temporary errors, which the Node.js Link retries."""
    match = _CONFLICT.match(text)
    if match:
        return int(match[1])
    return 503 if _NOT_NOW.match(text) else 200


def announcement(argument: Any) -> tuple[str, int, str | None]:
    """Parse service, port and given address of `["service", port]` or `["service", port,
    "192.0.2.7"]`.

    Raises:
        BadInput: it is something else.
    """
    if not isinstance(argument, list) or not argument or not isinstance(argument[0], str):
        raise BadInput("ERR_GRAPE_ANNOUNCE")
    service = check_service(argument[0])
    port = whole(argument[1]) if len(argument) > 1 else None
    if port is None:
        raise BadInput("ERR_GRAPE_SERVICE_PORT")
    given = argument[2] if len(argument) > 2 else None
    return service, check_port(port, least=0), None if given is None else _given_host(given)


def looked_up(argument: Any) -> str:
    """Parse the name of the service to look up.

    Raises:
        BadInput: not a service name.
    """
    if not isinstance(argument, str) or not argument:
        raise BadInput("ERR_GRAPE_LOOKUP")
    return check_service(argument)


def _given_host(given: Any) -> str:
    try:
        if not isinstance(given, str):
            raise AddressValueError
        address = IPv4Address(given)
    except AddressValueError:
        shown = json.dumps(given)[:60]
        raise BadInput(
            "ERR_GRAPE_SERVICE_HOST", f"{shown} is not an IPv4 address such as 192.0.2.7"
        ) from None
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise BadInput("ERR_GRAPE_SERVICE_HOST", f"{address} is no machine's address")
    return str(address)


def whole(number: Any) -> int | None:
    """Return the integer in a JSON number, `1337.0` included, or None."""
    if type(number) is int:
        return number
    if type(number) is float and number.is_integer():
        return int(number)
    return None


def value_to_put(argument: Any) -> bytes | MutableItem:
    """Parse the value of `/put`: text, or a signed item when `k` has a key.

    Raises:
        BadInput: with the sentence of the Node.js Grape where it has one.
    """
    if not isinstance(argument, dict) or argument.get("v") is None:
        raise BadInput("opts.v not given")
    text = argument["v"]
    if not isinstance(text, str):
        # The Node.js Grape stores it, and gives back what toString() makes of it.
        raise BadInput("opts.v not a string", "encode it, as JSON for example")
    value = text.encode()
    bep44.check_value(value)
    if not argument.get("k"):
        return value
    if not argument.get("sig"):
        raise BadInput(NO_SIGNATURE)
    if argument.get("seq") is None:
        raise BadInput("opts.seq not provided for a mutable update")
    salt, cas = argument.get("salt"), argument.get("cas")
    item = MutableItem(
        public_key=octets(argument["k"], from_hex=True),
        seq=_version(argument["seq"], "opts.seq not an integer"),
        value=value,
        signature=octets(argument["sig"], from_hex=True),
        salt=octets(salt) if salt else b"",
        cas=None if cas is None else _version(cas, "opts.cas must be an integer if provided"),
    )
    bep44.check(item)
    return item


def _version(number: Any, otherwise: str) -> int:
    found = whole(number)
    if found is None:
        raise BadInput(otherwise)
    return found


def key_to_get(argument: Any) -> tuple[str, bytes]:
    """Key (40 lower-case hex digits) and salt of `"<key>"` or `{"hash": "<key>", "salt": ...}`.

    Raises:
        BadInput: it is something else. (The Node.js Grape can be killed with such a key.)
    """
    key, salt = argument, None
    if isinstance(argument, dict):
        key, salt = argument.get("hash"), argument.get("salt")
    if not isinstance(key, str):
        raise BadInput("ERR_GRAPE_GENERIC")
    return check_key(key), octets(salt) if salt else b""


def found_value(found: StoredValue, node_id: bytes) -> dict[str, Any]:
    """Return the answer to `/get`. The value is read as UTF-8; `id` is this Grape's."""
    answer: dict[str, Any] = {
        "id": node_id.hex(),
        "token": None,
        "v": found.value.decode("utf-8", "replace"),
    }
    if found.public_key is not None and found.signature is not None:
        answer |= {"sig": found.signature.hex(), "k": found.public_key.hex(), "seq": found.seq}
        if found.salt:
            answer["salt"] = found.salt.decode("utf-8", "replace")
    return answer


def octets(value: Any, *, from_hex: bool = False) -> bytes:
    """Decode a key, a signature or a salt as the Node.js Grape does.

    A `Buffer` of a client arrives as `{"type": "Buffer", "data": [...]}`. Text is tried as JSON first: a
    list of numbers, such an object, or a quoted text; else it is hex digits (as far as they go) or UTF-8.

    Raises:
        BadInput: none of these.
    """
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            inner = None
        found = inner.encode("utf-8", "replace") if isinstance(inner, str) else _listed(inner)
        if found is not None:
            return found
        if from_hex:
            digits = _HEX_PAIRS.match(value)
            return bytes.fromhex(digits[0] if digits else "")
        return value.encode()
    found = _listed(value)
    if found is None:
        raise BadInput("ERR_GRAPE_GENERIC", "k, sig and salt are text, or a Buffer as JSON")
    return found


def _listed(value: Any) -> bytes | None:
    """A list of numbers, or a `Buffer` as JSON; numbers count modulo 256."""
    if isinstance(value, dict) and value.get("type") == "Buffer":
        value = value.get("data")
    if not isinstance(value, list):
        return None
    return bytes((whole(number) or 0) % 256 for number in value)
