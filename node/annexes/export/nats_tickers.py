"""Tickers on the bus: the latest figures of every market, as the node has them.

The node writes a line for each ticker that changed to the standard input of the process that exports market data. The
stream keeps one message of each subject, so a reader gets the latest at once. A bus that is away costs one line for
each market: the next one replaces it.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Final

import msgspec
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import NotFoundError

from node.annexes.export.nats_connection import NatsConnection
from node.annexes.export.nats_messages import token
from node.annexes.export.sink import SinkError

log = logging.getLogger(__name__)

RETRY: Final = 5.0  # s
LONGEST: Final = 4096  # characters of a line
ANSWER: Final = 10.0  # s


class _Ticker(msgspec.Struct):
    market: str
    time: str


class TickerPublisher:
    """Publishes tickers from a thread of its own."""

    def __init__(self, url: str, network: str, node: str) -> None:
        self._url = url
        self._stream = f"EXCHANGE_TICKERS_{network}_{token(node)}"
        self._root = f"exchange.tickers.{network}.{token(node)}"
        self._node = node
        self._latest: dict[str, tuple[str, bytes]] = {}  # time and line by market
        self._partial = b""
        self._changed = threading.Event()
        threading.Thread(target=self._run, name="tickers", daemon=True).start()

    def feed(self, data: bytes) -> None:
        """Take a part of the node's lines."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-LONGEST:]
        for line in lines:
            with suppress(msgspec.DecodeError):
                ticker = msgspec.json.decode(line, type=_Ticker)
                self._latest[ticker.market] = ticker.time, line
        self._changed.set()

    def _run(self) -> None:
        while True:
            try:
                connection = NatsConnection(self._url, "exchange-node tickers")
                try:
                    connection.run(self._ensure(connection), ANSWER)
                    self._publish(connection)
                finally:
                    connection.close()
            except SinkError as error:
                log.info("tickers: %s", error)
                time.sleep(RETRY)
                self._changed.set()  # for those that wait

    def _publish(self, connection: NatsConnection) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            while self._latest:
                market = next(iter(self._latest))
                moment, line = self._latest[market]
                connection.run(self._send(connection, market, moment, line), ANSWER)
                if self._latest[market][1] is line:
                    del self._latest[market]

    async def _send(
        self, connection: NatsConnection, market: str, moment: str, line: bytes
    ) -> None:
        id_ = f"tickers:{self._node}:{market}:{moment}"
        await connection.client.jetstream(timeout=ANSWER).publish(
            f"{self._root}.{token(market)}", line, stream=self._stream, headers={"Nats-Msg-Id": id_}
        )

    async def _ensure(self, connection: NatsConnection) -> None:
        js = connection.client.jetstream(timeout=ANSWER)
        try:
            await js.stream_info(self._stream)
        except NotFoundError:
            await js.add_stream(
                StreamConfig(
                    name=self._stream,
                    description=f"exchange-node tickers of {self._node}",
                    subjects=[f"{self._root}.>"],
                    storage=StorageType.MEMORY,
                    max_msgs_per_subject=1,
                    allow_direct=True,
                )
            )
