"""A connection to NATS for a thread that blocks: an event loop in a thread of its own answers the server meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from node.annexes.export.sink import SinkError

CONNECT_TIMEOUT: Final = 5  # s
PING: Final = 10  # s; two without an answer end the connection
T = TypeVar("T")


class NatsConnection:
    """An open connection. It does not reconnect: what the stream has must be known before more is sent."""

    def __init__(self, url: str, name: str) -> None:
        """Connect.

        Raises:
            SinkError: no server answers, or it refuses.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        self._error: Exception | None = None
        try:
            self.client: Client = self.run(self._connect(url, name), CONNECT_TIMEOUT + 5)
        except BaseException:
            self._end()
            raise

    async def _connect(self, url: str, name: str) -> Client:
        async def note(error: Exception) -> None:
            self._error = error

        try:
            return await nats.connect(
                [part.strip() for part in url.split(",")],
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT,
                ping_interval=PING,
                error_cb=note,
            )
        except nats.errors.NoServersError:
            raise SinkError(f"NATS: {_words(self._error or 'no server answers')}") from None

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine on the connection's loop.

        Raises:
            SinkError: it failed, or took too long.
        """
        with explained():
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            try:
                return future.result(timeout)
            except TimeoutError:
                future.cancel()
                raise

    def close(self) -> None:
        """End the connection."""
        with suppress(SinkError):
            self.run(self.client.close(), 2)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


@contextmanager
def explained() -> Iterator[None]:
    """Turn the library's errors into a `SinkError` of one line."""
    try:
        yield
    except nats.js.errors.APIError as error:
        text = error.description or type(error).__name__
        raise SinkError(f"NATS: {_words(text)}") from error
    except TimeoutError:
        raise SinkError("NATS: the server does not answer") from None
    except (nats.errors.Error, OSError, ValueError) as error:
        raise SinkError(f"NATS: {_words(error)}") from error


def _words(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.removeprefix("nats: ").split())
