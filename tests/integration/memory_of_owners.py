"""`PYTHONPATH=. python tests/integration/memory_of_owners.py`: resident memory of a node whose neighbours open very many
orders and leave, one after the other. `--orders N` sets how many each."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp
from processes import NodeProcess, Nodes, eventually
from test_strangers import memory

LAUNCHER = (str(Path(__file__).with_name("brief_absence_node.py")),)
AT_ONCE = 100
LEVELS = 20_000
LEASE = {"PRESENCE_LEASE_MS": "2000", "API_RATE_LIMIT": "0"}


async def open_orders(node: NodeProcess, count: int) -> None:
    """Open orders through the stream, as fast as they are acknowledged."""
    url = node.api_url.replace("http", "ws") + "/v1/stream"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as line:
        for start in range(0, count, AT_ONCE):
            requests = [
                {
                    "op": "submit",
                    "id": str(number),
                    "order": {
                        "market": "TEST-USD",
                        "side": "sell",
                        "quantity": "1",
                        "price": f"{200 + number % LEVELS / 100:.2f}",
                    },
                }
                for number in range(start, start + AT_ONCE)
            ]
            await line.send_json({"op": "many", "id": "many", "requests": requests})
            while (told := await line.receive_json(timeout=30)).get("id") != "many":
                pass
            assert all("problem" not in each for each in told["results"]), told["results"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--owners", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="owners-") as directory:
        nodes = Nodes(Path(directory))
        try:
            a = nodes.make("a", **LEASE)
            a.program = LAUNCHER
            a.start()
            print(f"{memory(a) / 1e6:.0f} MB at the start")
            for number in range(args.owners):
                owner = nodes.start(f"owner{number}", bootstrap=a.p2p_address, **LEASE)
                eventually(lambda: a.status().nodes_present == 2)
                asyncio.run(open_orders(owner, args.orders))
                time.sleep(8.0)
                held = memory(a)
                owner.stop()
                given_up = number + 1
                eventually(lambda n=given_up: a.log.count("gave up the feed") >= n, 60.0)
                eventually(lambda: a.asks() == {}, 60.0)
                time.sleep(8.0)
                print(
                    f"{held / 1e6:.0f} MB with {args.orders:,} orders of owner {given_up}, "
                    f"{memory(a) / 1e6:.0f} MB after it left",
                    flush=True,
                )
        finally:
            nodes.cleanup()


if __name__ == "__main__":
    main()
