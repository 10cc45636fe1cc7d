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
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from node.api.access import DOORKEEPER

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


def _serve(request: web.Request, name: str) -> web.StreamResponse:
    file = page_files().get(name)
    if file is None:
        raise web.HTTPNotFound
    headers = dict(_HEADERS)
    headers["Content-Security-Policy"] = _POLICY.format(host=request.host)
    headers["ETag"] = f'"{file.etag}"'
    if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(
        body=file.body, content_type=file.content_type, charset="utf-8", headers=headers
    )


async def _get_index(request: web.Request) -> web.StreamResponse:
    return _serve(request, "index.html")


async def _get_file(request: web.Request) -> web.StreamResponse:
    return _serve(request, request.match_info["path"])


def add_page(app: web.Application) -> None:
    """Serve the page at `/` and its files below `/web/`."""
    app.router.add_get("/", _get_index)
    app.router.add_get(PREFIX + "{path:.+}", _get_file)


def add_documents(app: web.Application) -> None:
    """Puts /openapi.json, /docs and /asyncapi.json on `app`."""
    app.router.add_get("/openapi.json", _get_openapi)
    app.router.add_get("/docs", _get_page)
    app.router.add_get("/asyncapi.json", _get_asyncapi)


async def _get_openapi(request: web.Request) -> web.Response:
    from node.api.openapi import document

    return _json(document(keys_required=request.app[DOORKEEPER].rules.keys_required))


async def _get_asyncapi(_request: web.Request) -> web.Response:
    from node.api.asyncapi import document

    return _json(document())


def _json(document: object) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    return web.Response(body=body, content_type="application/json")


async def _get_page(request: web.Request) -> web.Response:
    from node.api.openapi import page

    text = page()
    for scheme, own in (("http", request.scheme), ("ws", request.scheme.replace("http", "ws"))):
        text = text.replace(f"{scheme}://HOST", html.escape(f"{own}://{request.host}"))
    return web.Response(
        text=text,
        content_type="text/html",
        headers={
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        },
    )
