"""Routes of the OpenAPI and AsyncAPI documents and their page, all made when they are first requested."""

from __future__ import annotations

import html

import orjson
from aiohttp import web

from node.api.access import DOORKEEPER


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
