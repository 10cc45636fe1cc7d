"""Causes of failed connections, in the same words for all libraries."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final

import aiohttp

LONGEST: Final = 120  # characters of a library's or peer's text
_CUT: Final = (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)


def cause(error: BaseException) -> str:
    """Return the cause in a few words, without the address, which the caller adds once."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message or _short(error)})"
    if isinstance(error, ssl.CertificateError):
        return f"its certificate is not trusted ({_short(error)})"
    if isinstance(error, ssl.SSLError):
        reason = error.reason.replace("_", " ").lower() if error.reason else _short(error)
        return f"the TLS handshake failed ({reason})"
    if isinstance(error, socket.gaierror):
        return f"its name does not resolve ({error.strerror or _short(error)})"
    if isinstance(error, _CUT):
        return "it closed the connection without an answer"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"it did not accept the WebSocket (HTTP status {error.status})"
    if isinstance(error, aiohttp.ClientResponseError):
        line = error.message.strip().partition("\n")[0].rstrip(":")
        return f"its answer is not HTTP ({line:.80})"
    if isinstance(error, (aiohttp.InvalidURL, UnicodeError, OverflowError)):
        return "it is not an address"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return _short(error)


def _short(error: BaseException) -> str:
    return str(error)[:LONGEST] or type(error).__name__
