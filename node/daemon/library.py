"""A node inside another program.

import asyncio
from config import load
from node.daemon.library import HandlerError, open_node

async def execute(payload):
    if "action" not in payload:
        raise HandlerError("no_action", "say what to do")
    return {"done": payload["action"]}

async def main():
    settings = load({"data_dir": "/tmp/mine", "p2p_port": 0, "api_port": 0}).settings
    async with open_node(settings) as node:
        node.serve("job_service", execute)
        print(await node.call("job_service", {"action": "execute"}, timeout=2.0))

asyncio.run(main())
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from config import Settings
from node.daemon.node import Node
from node.daemon.process import StartError
from node.daemon.run_node import start_node
from p2p.base.errors import CallError, HandlerError, NoProvider, ServiceBusy
from p2p.services.service_server import current_request

__all__ = [
    "CallError",
    "HandlerError",
    "NoProvider",
    "Node",
    "ServiceBusy",
    "StartError",
    "current_request",
    "open_node",
]


@asynccontextmanager
async def open_node(settings: Settings) -> AsyncIterator[Node]:
    """A running node on the settings' data directory and ports (0: any free one), stopped at the end.

    It lives in the running loop, on which the program must not block. Its API is served too, so that
    client commands find it by its data directory.

    Raises:
        StartError: it cannot start; the text says what is wrong.
        ExceptionGroup: at the end, when a part of the node failed meanwhile (a full disk).
    """
    with ExitStack() as stack:
        node = await start_node(
            settings, stack, p2p_ports=[settings.p2p_port], api_ports=[settings.api_port]
        )
        stop = asyncio.Event()
        running = asyncio.create_task(node.run(stop), name="node")
        try:
            yield node
        finally:
            stop.set()
            try:
                await running
            except BaseException:
                await node.abort()
                raise
