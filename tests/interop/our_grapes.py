"""Grapes of ours in one process, started and stopped by lines of JSON: `node/our_grape.js` is the other end.

In: {"id", "start": {settings of grenache-grape}} and {"id", "stop": n}. Out: {"id", "error", "grape": n} when done, and
{"grape": n, "event": name} for what the original emits: "listening", "ready", "announce".
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop

from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_http import GrapeApi
from p2p.grenache.grape.grape_settings import GrapeSettings

HOST = "127.0.0.1"
LOOK_EVERY = 0.005  # seconds


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Hosted:
    """A Grape with its API."""

    def __init__(self, number: int, conf: dict[str, Any]) -> None:
        self.number = number
        bootstrap = [text.rsplit(":", 1) for text in conf.get("dht_bootstrap", ())]
        self.grape = Grape(
            GrapeSettings(
                host=HOST,
                port=conf.get("dht_port", 20001),
                bootstrap=tuple((host, int(port)) for host, port in bootstrap),
                peer_max_age=conf.get("dht_peer_maxAge", 120_000) / 1000,
            )
        )
        self.api = GrapeApi(self.grape, max_payload=conf.get("check_maxPayloadSize", 8192))
        self.api_port = conf.get("api_port")
        self._listening = False
        self._ready = False
        self._held: frozenset[object] = frozenset()

    async def start(self) -> None:
        await self.grape.start()
        if not self.api_port:
            raise ValueError("ERR_NO_PORT")
        await self.api.start(HOST, self.api_port)
        self._listening = True
        say(grape=self.number, event="listening")

    def look(self) -> None:
        """Publish the events since the last look."""
        node = self.grape._node
        if node is None or not self._listening:
            return
        if not self._ready and (node.good_nodes or not self.grape.settings.bootstrap):
            self._ready = True
            say(grape=self.number, event="ready")
        entries = node._core.peers._entries
        if len(entries) or self._held:
            now = frozenset(entries)
            if now - self._held:
                say(grape=self.number, event="announce")
            self._held = now

    async def stop(self) -> None:
        await self.api.stop()
        await self.grape.stop()


async def watch(hosted: dict[int, Hosted]) -> None:
    while True:
        for one in list(hosted.values()):
            one.look()
        await asyncio.sleep(LOOK_EVERY)


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    hosted: dict[int, Hosted] = {}
    tasks: set[asyncio.Task[None]] = set()
    stopping: set[asyncio.Task[None]] = set()
    watching = asyncio.create_task(watch(hosted))

    async def do(command: dict[str, Any]) -> None:
        error = None
        number = command.get("stop", command["id"])
        try:
            if "start" in command:
                # A socket of Node.js is closed at once, and tests do not wait before they use its port again.
                await asyncio.gather(*stopping)
                made = hosted[number] = Hosted(number, command["start"])
                await made.start()
            elif number in hosted:
                stop = asyncio.create_task(hosted.pop(number).stop())
                stopping.add(stop)
                stop.add_done_callback(stopping.discard)
                await stop
        except (OSError, ValueError) as wrong:
            error = str(wrong)
        say(id=command["id"], error=error, grape=number)

    while line := await reader.readline():
        task = asyncio.create_task(do(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    watching.cancel()
    for one in hosted.values():
        await one.stop()


if __name__ == "__main__":
    uvloop.run(main())  # as `exchange-node grape`
