"""A server of the fake service in a thread, for tests of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_service import ME, FakeService

from node.api import ApiServer


class RunningNode:
    """A server in a thread of its own, with the node.json that a node writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.service = FakeService()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._server = ApiServer(self.service)
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(5)
        self.write()

    def write(self, **changes: object) -> None:
        content = {"api_url": self.url, "node_id": ME, "pid": os.getpid()} | changes
        (self.directory / "node.json").write_text(json.dumps(content))

    def do(self, action: Callable[[], Any]) -> Any:
        """Runs `action` where the service lives."""

        async def run() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def stop_server(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(5)

    def stop(self) -> None:
        self.stop_server()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
