"""A node's API server in a thread, for tests of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

from trading_kit import ME, running_api


class RunningNode:
    """A node in a thread of its own, with the node.json that a node writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self._ready = threading.Event()
        self._end = asyncio.Event()

    async def _run(self) -> None:
        async with running_api() as self.api:
            self._ready.set()
            await self._end.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(5)
        self.url, self.node = self.api.url, self.api.node
        self.write()

    def write(self, **changes: object) -> None:
        content = {"api_url": self.url, "node_id": ME, "pid": os.getpid()} | changes
        (self.directory / "node.json").write_text(json.dumps(content))

    def do(self, action: Callable[[], Any]) -> Any:
        """Runs `action` where the node lives."""

        async def run() -> Any:
            found = action()
            return await found if isawaitable(found) else found

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def orders(self) -> list[Any]:
        found: list[Any] = self.do(lambda: self.node.orders.find(account=0, open_only=False))
        return found

    def stop_server(self) -> None:
        self.do(self.api.server.stop)

    def stop(self) -> None:
        self.do(self._end.set)
        self._thread.join(5)
        self._loop.close()
