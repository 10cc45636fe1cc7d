"""Checks of what callers of a Grape pass in: names of services, addresses, keys of values."""

from __future__ import annotations

from p2p.base.reach import Reach
from p2p.grenache.dht.compact_addresses import ipv4_reach
from p2p.grenache.directory import MAX_NAME
from p2p.grenache.errors import BadInput


def service_name(service: str) -> bytes:
    try:
        name = service.encode()
    except (UnicodeEncodeError, AttributeError):
        raise BadInput("ERR_GRAPE_LOOKUP", "a service name is text") from None
    if not 0 < len(name) <= MAX_NAME:
        raise BadInput(
            "ERR_GRAPE_LOOKUP", f"a service name has 1 to {MAX_NAME} bytes, not {len(name)}"
        )
    return name


def check_address(port: int, host: str | None) -> None:
    if type(port) is not int or not 0 <= port < 65536:
        raise BadInput("ERR_GRAPE_SERVICE_PORT", f"expected a port from 0 to 65535, not {port!r}")
    if host is not None and ipv4_reach(host) is Reach.NONE:
        raise BadInput("ERR_GRAPE_HOST", f"{host!r} is not an IPv4 address that can be reached")


def value_key(key: str) -> bytes:
    try:
        target = bytes.fromhex(key)
    except (ValueError, TypeError):
        target = b""
    if len(target) != 20 or len(key) != 40:
        raise BadInput("ERR_GRAPE_HASH_FORMAT", f"a key is 40 hex digits, not {key[:60]!r}")
    return target
