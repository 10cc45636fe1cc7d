"""Validation of names, ports, keys, texts and URLs before anything is sent to a Grape.

A Node.js Grape misreads some inputs and crashes on others: an empty name or a key that is not hex
becomes the empty DHT key, and two requests for that end the process.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Final
from urllib.parse import urlsplit

from p2p.base.host_port import format_host_port, parse_host_port
from p2p.base.reach import Reach, reach
from p2p.grenache.bep44 import check_salt
from p2p.grenache.directory import MAX_NAME
from p2p.grenache.errors import BadInput

MAX_JSON_INTEGER: Final = 2**53 - 1  # JavaScript counts exactly up to here
_KEY: Final = re.compile(r"[0-9a-fA-F]{40}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL_EXAMPLE: Final = "expected the URL of a Grape, for example http://127.0.0.1:30001"


def check_service(name: str) -> str:
    """A service name, as given.

    Raises:
        BadInput: empty, longer than `MAX_NAME` bytes as UTF-8, or no text.
    """
    if not isinstance(name, str) or not name:
        raise BadInput("ERR_GRAPE_SERVICE_NAME", f"a service name is a text, not {name!r}")
    size = len(_utf8(name, "ERR_GRAPE_SERVICE_NAME", "a service name"))
    if size > MAX_NAME:
        raise BadInput(
            "ERR_GRAPE_SERVICE_NAME", f"a service name has at most {MAX_NAME} bytes, not {size}"
        )
    return name


def check_port(port: int, *, least: int = 1) -> int:
    """A port to announce, as given. `least`: 0 where a Grape itself reads it, which takes 0 for its own UDP
    port; for a worker that would be a mistake.

    Raises:
        BadInput: not a whole number from `least` to 65535. A Node.js Grape loses others silently.
    """
    if type(port) is not int or not least <= port <= 65535:
        raise BadInput(
            "ERR_GRAPE_SERVICE_PORT", f"expected a port from {least} to 65535, not {port!r}"
        )
    return port


def check_host(host: str) -> str:
    """An address to announce, in its one spelling.

    Raises:
        BadInput: not an IPv4 address, which is all that the DHT records, or none that can be dialled.
    """
    try:
        text = str(IPv4Address(host))
    except ValueError:
        text = ""
    if not text or reach(text) is Reach.NONE:
        raise BadInput("ERR_GRAPE_SERVICE_HOST", f"expected an IPv4 address, not {host!r}")
    return text


def check_key(key: str) -> str:
    """The key of a stored value, in lower case.

    Raises:
        BadInput: not 40 hex digits.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadInput("ERR_GRAPE_HASH_FORMAT", f"a key is 40 hex digits, not {key!r:.80}")
    return key.lower()


def value_text(value: bytes) -> str:
    """A value as the text that JSON can carry to a Grape. Its size is for `bep44.check_value`.

    Raises:
        BadInput: not UTF-8.
    """
    return _text(value, "ERR_GRAPE_VALUE", "a value")


def salt_text(salt: bytes) -> str:
    """A salt as the text that JSON can carry to a Grape.

    Raises:
        BadInput: too long, not UTF-8, or one that a Node.js Grape may take for JSON: it would use the bytes of
            what that means.
    """
    check_salt(salt)
    text = _text(salt, "ERR_GRAPE_SALT", "a salt")
    if text.lstrip(" \t\r\n")[:1] in ("[", "{", '"'):
        raise BadInput(
            "ERR_GRAPE_SALT", f"{text!r} looks like JSON, which a Grape decodes; use words"
        )
    return text


def check_json_integer(number: int, what: str) -> int:
    """
    Raises:
        BadInput: beyond what a Node.js Grape counts exactly.
    """
    if not -MAX_JSON_INTEGER <= number <= MAX_JSON_INTEGER:
        raise BadInput("ERR_GRAPE_NUMBER", f"{what} {number} is beyond 2^53, where JSON rounds")
    return number


def check_url(url: str) -> str:
    """The URL of a Grape's API in one spelling, without a slash at its end.

    Raises:
        BadInput: with a sentence that quotes `url` and says what was expected.
    """
    text = url.strip()
    if "://" not in text:
        raise BadInput("ERR_GRAPE_URL", f"{url!r} has no http:// in front; {_URL_EXAMPLE}")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise BadInput("ERR_GRAPE_URL", f"{url!r}: {error}; {_URL_EXAMPLE}") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise BadInput(
            "ERR_GRAPE_URL", f"{url!r}: a Grape speaks http or https, not {scheme}; {_URL_EXAMPLE}"
        )
    if "@" in parts.netloc:  # before anything quotes a password
        raise BadInput("ERR_GRAPE_URL", f"a Grape asks for no user name; {_URL_EXAMPLE}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadInput("ERR_GRAPE_URL", f"{url!r} has more than a host and a port; {_URL_EXAMPLE}")
    try:
        host, port = parse_host_port(parts.netloc, default_port=_DEFAULT_PORTS[scheme])
    except ValueError as error:
        raise BadInput("ERR_GRAPE_URL", f"{url!r}: {error}") from None
    return f"{scheme}://{format_host_port(host, port)}"


def _text(data: bytes, code: str, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            code,
            f"{what} goes to a Grape as JSON text, so it must be UTF-8, which it is not at byte "
            f"{error.start}; encode it first, for example as base64",
        ) from None


def _utf8(text: str, code: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            code, f"{what} must be encodable as UTF-8; character {error.start} is not"
        ) from None
