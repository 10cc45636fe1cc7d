"""The other process of `bench_grenache`: our worker, echoing. Prints its port when it is announced, and
ends with its standard input: python -m tests.benchmarks.grenache_worker GRAPE_URL SERVICE"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_worker import Request, Worker


async def echo(request: Request) -> Any:
    return request.payload


async def main(grape: str, service: str) -> None:
    async with Link([grape]) as link:
        worker = Worker(directory=link)
        worker.serve(service, echo)
        _, port = await worker.start("127.0.0.1", 0)
        await worker.announced()
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await worker.stop(grace=0.0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
