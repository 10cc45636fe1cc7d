"""A bounded POST to a Grape over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Protocol, Self

import aiohttp
from yarl import URL

from p2p.base.connect_causes import cause
from p2p.grenache.errors import GrapeUnreachable

CONNECTIONS: Final = 32  # to one Grape; more requests at once wait their turn
KEEPALIVE: Final = 4.0  # seconds; the Node.js Grape closes idle connections after five
MAX_URLS: Final = 256
_HEADERS: Final = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_BROKEN: Final = (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)


class Post(Protocol):
    """Transport of a Link to a Grape."""

    async def __call__(
        self, url: str, body: bytes, *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        """Status and body of the reply, of at most `limit` bytes. Redirects are not followed.

        Raises:
            GrapeUnreachable: no HTTP reply came, or a larger one.
            TimeoutError: none in `timeout` seconds.
        """
        ...

    async def close(self) -> None: ...


class HttpPost:
    """`Post` by aiohttp. Make it inside the event loop."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=CONNECTIONS, keepalive_timeout=KEEPALIVE, ssl=tls or True
            ),
            timeout=aiohttp.ClientTimeout(),  # the caller's timeout covers everything
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # the size of a decompressed body is not bounded
            skip_auto_headers=("User-Agent",),
        )
        self._urls: dict[str, URL] = {}

    async def __call__(
        self, url: str, body: bytes, *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        target = self._urls.get(url)
        if target is None:
            if len(self._urls) >= MAX_URLS:
                self._urls.clear()
            target = self._urls[url] = URL(url)
        try:
            async with asyncio.timeout(timeout):
                try:
                    return await self._send(target, body, limit)
                except _BROKEN:
                    # A kept connection that the Grape was closing. All requests are idempotent.
                    return await self._send(target, body, limit)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GrapeUnreachable(cause(error)) from error

    async def _send(self, url: URL, body: bytes, limit: int) -> tuple[int, bytes]:
        async with self._session.post(
            url, data=body, headers=_HEADERS, allow_redirects=False
        ) as reply:
            if (reply.content_length or 0) > limit:
                raise GrapeUnreachable(f"its answer has {reply.content_length} bytes, over {limit}")
            parts, size = [], 0
            async for part in reply.content.iter_any():
                size += len(part)
                if size > limit:
                    raise GrapeUnreachable(f"its answer has more than {limit} bytes")
                parts.append(part)
            return reply.status, b"".join(parts)

    async def close(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
