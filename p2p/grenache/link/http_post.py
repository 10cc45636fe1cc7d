"""A bounded POST to a Grape over HTTP."""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import Final, Protocol, Self

from p2p.base.http1 import Failure, HttpFailed, Url, request
from p2p.base.http_pool import HttpPool, SystemTrust, Tls
from p2p.grenache.errors import GrapeUnreachable

CONNECTIONS: Final = 32  # to one Grape; more requests at once wait their turn
_LATE: Final = (Failure.BUSY, Failure.NOT_IN_TIME, Failure.NO_REPLY)
_WHY: Final = {
    Failure.LOST: "it closed the connection without an answer",
    Failure.CUT_SHORT: "its answer was cut short",
}


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
    """`Post` over a pool of connections. Make it inside the event loop.

    `tls` is for Grapes at https URLs.
    """

    def __init__(self, *, tls: Tls = None) -> None:
        self._pools = {
            False: HttpPool(connect_timeout=inf, connections=CONNECTIONS),
            True: HttpPool(tls or SystemTrust(), connect_timeout=inf, connections=CONNECTIONS),
        }

    async def __call__(
        self, url: str, body: bytes, *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        try:
            parts = Url.parse(url)
            headers = {
                "Host": parts.netloc,
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",  # the size of a decompressed body is not bounded
            }
            data = request("POST", parts.target, headers, body)
        except ValueError:
            raise GrapeUnreachable("it is not an address") from None
        exchange = partial(
            self._pools[parts.secure].exchange, parts.address, data, max_body=limit, idempotent=True
        )
        try:
            async with asyncio.timeout(timeout):
                try:
                    reply = await exchange(timeout=timeout)
                except HttpFailed as error:
                    if error.kind is not Failure.LOST:
                        raise
                    # A connection that the Grape was closing. All requests are idempotent.
                    reply = await exchange(timeout=timeout)
        except HttpFailed as error:
            if error.kind in _LATE:
                raise TimeoutError from None
            why = str(error)
            if error.kind is Failure.MALFORMED:
                why = f"its answer is not HTTP ({why:.80})"
            elif error.kind is Failure.TOO_LARGE:
                why = f"its answer has more than {limit} bytes"
            raise GrapeUnreachable(_WHY.get(error.kind, why)) from error
        return reply.status, reply.body

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
