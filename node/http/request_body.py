"""Bodies of requests, read within a limit of time and of size."""

from __future__ import annotations

import asyncio

from aiohttp import web


async def read_body(request: web.Request, timeout: float) -> bytes:
    """The whole body, byte for byte.

    Raises:
        TimeoutError: it did not come within `timeout` seconds.
        web.HTTPRequestEntityTooLarge: it is longer than the application takes.
    """
    content = request.content
    if not content.is_eof():
        async with asyncio.timeout(timeout):
            return await request.read()
    raw = content.read_nowait()  # it came with the head, as short ones do: nothing to wait for
    if len(raw) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, len(raw))
    return raw
