"""Flow control around a program's own client, without changing the client: `python -m node.annexes.learn.drop_in`.

`ChatClient` stands for code that you have: it sends one message over TCP and waits for the answer. `throttled`
is all that is added. The program starts a small server on loopback that can do 100 messages a second and
closes connections beyond 20, restarts the client with 100 messages waiting, and prints what happened, first
without and then with the gate.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable

from p2p.flow import Gate

MESSAGES = 100


class ChatClient:
    """The existing client. Not changed by adopting flow control."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def send(self, message: str) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(message.encode() + b"\n")
            await writer.drain()
            answer = await reader.readline()
            if not answer:
                raise ConnectionResetError("the server closed the connection")
            return answer.decode().strip()
        finally:
            writer.close()


def throttled(client: ChatClient, gate: Gate) -> Callable[[str], Awaitable[str]]:
    """The drop-in: the same call, through the gate. `gate.shadow = True` measures without delaying."""

    async def send(message: str) -> str:
        return await gate.call(lambda: client.send(message), ttl_s=30.0)

    return send


class SmallServer:
    """Serves two messages at a time, 20 ms each, and closes connections while more than 20 wait."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(2)
        self._inside = 0
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = await reader.readline()
            if self._inside >= 20:
                self.refused += 1
                return
            self._inside += 1
            try:
                async with self._places:
                    await asyncio.sleep(0.02)
            finally:
                self._inside -= 1
            writer.write(b"got " + message)
            await writer.drain()
        except ConnectionError:
            pass  # the client has gone: nothing to answer
        finally:
            writer.close()


async def deliver(send: Callable[[str], Awaitable[str]]) -> int:
    """Send all messages at once, as after a restart. Returns how many were answered."""
    results = await asyncio.gather(
        *(send(f"message {n}") for n in range(MESSAGES)), return_exceptions=True
    )
    return sum(isinstance(result, str) for result in results)


async def compare() -> dict[str, dict[str, float]]:
    """Run the same restart without and with the gate."""
    found: dict[str, dict[str, float]] = {}
    for name in ("as it was", "through the gate"):
        small = SmallServer()
        server = await asyncio.start_server(small.serve, "127.0.0.1", 0)
        client = ChatClient("127.0.0.1", server.sockets[0].getsockname()[1])
        began = time.monotonic()
        if name == "as it was":
            delivered = await deliver(client.send)
        else:
            async with Gate(name="chat", rng=random.Random(1)) as gate:  # noqa: S311 - jitter
                delivered = await deliver(throttled(client, gate))
        seconds = time.monotonic() - began
        server.close()
        await server.wait_closed()
        found[name] = {
            "delivered": delivered,
            "refused": small.refused,
            "seconds": round(seconds, 2),
        }
    return found


def main() -> int:
    """Print the comparison; 0 if the gate delivered everything."""
    found = asyncio.run(compare())
    for name, row in found.items():
        print(
            f"{name:<17} {row['delivered']:.0f} of {MESSAGES} delivered, "
            f"{row['refused']:.0f} connections refused, {row['seconds']:.2f} s"
        )
    return 0 if found["through the gate"]["delivered"] == MESSAGES else 1


if __name__ == "__main__":
    sys.exit(main())
