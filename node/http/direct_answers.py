"""Responses of the API to requests that are answered directly (`p2p.base.direct_requests`)."""

from __future__ import annotations

from typing import Final

from p2p.base import direct_requests

# Of every response of the API.
COMMON_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "exchange-node",
}
_COMMON: Final = "".join(f"{name}: {value}\r\n" for name, value in COMMON_HEADERS.items())


def response(status: int, content_type: str, body: bytes, headers: str = "") -> bytes:
    """The bytes of a response. Each line of `headers` ends with CRLF."""
    return direct_requests.response(status, content_type, body, headers + _COMMON)
