"""The node's own page: the files of `node/web`, served at `/` with a strict content security policy. The API's documents
and their page are beside it, each made when it is first requested.

The page is HTML, CSS and ES modules as they lie in the package: there is no build step, nothing is
fetched from elsewhere, and no code or style stands inside the HTML. It is a client of the public API
like any other; signing in happens in the browser, so these files are the same for all users.

Files are checked for a change at every load (`no-cache` with an ETag), because modules of two versions
of the page do not fit each other.
"""

from __future__ import annotations

import hashlib
import html
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import orjson

from node.api.problems import no_route
from node.http.http_messages import Response
from node.http.http_server import Application
from node.http.server_connection import Request

PREFIX: Final = "/web/"
_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
# WebSockets are named beside 'self', which older browsers take for http and https alone.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')  # of If-None-Match


class PageFile(NamedTuple):
    """A file of the page as it is served."""

    body: bytes
    content_type: str
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by their path below `node/web`. Other paths do not exist."""
    found: dict[str, PageFile] = {}
    _collect(resources.files("node").joinpath("web"), "", found)
    return found


def _collect(folder: Traversable, path: str, found: dict[str, PageFile]) -> None:
    for entry in folder.iterdir():
        name = f"{path}{entry.name}"
        if entry.is_dir():
            _collect(entry, f"{name}/", found)
            continue
        kind = _TYPES.get(name.rpartition(".")[2])
        if kind is not None:
            body = entry.read_bytes()
            found[name] = PageFile(body, kind, hashlib.sha256(body).hexdigest()[:32])


def _file(request: Request, name: str) -> Response:
    file = page_files().get(name)
    if file is None:
        return no_route(request)
    headers = dict(_HEADERS)
    headers["Content-Security-Policy"] = _POLICY.format(host=request.head.headers["host"])
    headers["ETag"] = f'"{file.etag}"'
    known = request.head.headers.get("if-none-match", "")
    if known.strip() == "*" or file.etag in _TAG.findall(known):
        return Response(304, headers=headers)
    return Response(200, file.body, f"{file.content_type}; charset=utf-8", headers)


def _get_file(request: Request) -> Response:
    if request.head.method not in ("GET", "HEAD"):
        return no_route(request, ("GET", "HEAD"))
    return _file(request, request.head.target.path.removeprefix(PREFIX))


def add_page(application: Application) -> None:
    """Serve the page at `/` and its files below `/web/`."""
    application.router.add("GET", "/", lambda request: _file(request, "index.html"))
    application.router.missing(PREFIX, _get_file)


def add_documents(application: Application, *, keys_required: bool) -> None:
    """Put /openapi.json, /docs and /asyncapi.json on an application."""

    def get_openapi(request: Request) -> Response:
        from node.api.openapi import document

        return _json(document(keys_required=keys_required))

    application.router.add("GET", "/openapi.json", get_openapi)
    application.router.add("GET", "/docs", _get_page)
    application.router.add("GET", "/asyncapi.json", _get_asyncapi)


def _get_asyncapi(_request: Request) -> Response:
    from node.api.asyncapi import document

    return _json(document())


def _json(document: object) -> Response:
    return Response(body=orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _get_page(request: Request) -> Response:
    from node.api.openapi import page

    text, host = page(), request.head.headers["host"]
    for scheme, own in (("http", request.scheme), ("ws", request.scheme.replace("http", "ws"))):
        text = text.replace(f"{scheme}://HOST", html.escape(f"{own}://{host}"))
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy}
    return Response(200, text.encode(), "text/html; charset=utf-8", headers)
