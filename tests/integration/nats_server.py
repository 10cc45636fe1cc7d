"""A NATS server with JetStream of a test's own: the system's program, its data in a temporary directory."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tests.ports import free_port

T = TypeVar("T")


class Received(NamedTuple):
    """A message of a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes


def program() -> str | None:
    """Return the server's program; None where it is not installed."""
    return shutil.which("nats-server") or next(
        (path for path in ("/usr/sbin/nats-server",) if Path(path).exists()), None
    )


class NatsServer:
    """Listens on 127.0.0.1."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="exchange-node-nats-")
        directory = Path(self._directory.name)
        self._log = directory / "nats.log"
        self.port = free_port()
        self._config = directory / "nats.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream: {{ store_dir: "{directory}/store", max_file_store: 4GB, max_memory_store: 64MB }}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        found = program()
        assert found is not None, "nats-server is not installed"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [found, "-c", str(self._config)], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, self._log.read_text("utf-8", "replace")[-4000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """As by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop it in order."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def close(self) -> None:
        """Stop it and delete its data."""
        self.kill()
        self._directory.cleanup()

    def ask(self, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Connect, run a coroutine with JetStream, and return what it returns."""

        async def run() -> T:
            client = await nats.connect(self.url)
            try:
                return await question(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())

    def streams(self) -> dict[str, int]:
        """Return the streams with the numbers of their messages."""

        async def question(js: JetStreamContext) -> dict[str, int]:
            return {info.config.name or "": info.state.messages for info in await js.streams_info()}

        return self.ask(question)

    def messages(self, stream: str, subject: str) -> list[Received]:
        """Return everything that a stream has, as a reader gets it."""

        async def question(js: JetStreamContext) -> list[Received]:
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE)
            found: list[Received] = []
            subscription = await js.pull_subscribe(subject, stream=stream, config=config)
            left = (await subscription.consumer_info()).num_pending or 0
            while len(found) < left:
                page = await subscription.fetch(min(500, left - len(found)), timeout=5)
                found += [
                    Received(
                        message.metadata.sequence.stream,
                        message.subject,
                        dict(message.headers or {}),
                        message.data,
                    )
                    for message in page
                ]
            return found

        return self.ask(question)
