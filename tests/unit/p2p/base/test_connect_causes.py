"""Causes of failed connections: short, without addresses and without another library's words."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from p2p.base.connect_causes import cause

KEY = ConnectionKey("127.0.0.1", 1, False, True, None, None, None)


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def refused() -> OSError:
    return ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")


REQUEST = aiohttp.RequestInfo(URL("http://a/"), "GET", {}, URL("http://a/"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refused(), "connection refused"),
        (aiohttp.ClientConnectorError(KEY, refused()), "connection refused"),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")),
            "its name does not resolve (Name or service not known)",
        ),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to host"),
        (
            aiohttp.ClientConnectorSSLError(KEY, of_tls("WRONG_VERSION_NUMBER")),
            "the TLS handshake failed (wrong version number)",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, untrusted()),
            "its certificate is not trusted (self-signed certificate)",
        ),
        (
            aiohttp.ClientConnectorError(KEY, ConnectionResetError()),
            "it closed the connection without an answer",
        ),
        (aiohttp.ServerDisconnectedError(), "it closed the connection without an answer"),
        (
            aiohttp.WSServerHandshakeError(REQUEST, (), status=404, message="Invalid"),
            "it did not accept the WebSocket (HTTP status 404)",
        ),
        (
            aiohttp.ClientResponseError(REQUEST, (), message="Bad status line:\n  b'x'"),
            "its answer is not HTTP (Bad status line)",
        ),
        (aiohttp.InvalidURL("http://127.0.0.1:99999/ws"), "it is not an address"),
        (OverflowError("connect(): port must be 0-65535."), "it is not an address"),
        (aiohttp.ClientError("it answered with a redirect"), "it answered with a redirect"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 500), "x" * 120),
    ],
)
def test_the_cause_is_a_few_words(error, words):
    assert cause(error) == words
