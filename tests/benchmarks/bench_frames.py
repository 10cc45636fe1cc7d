"""Frames through a real connection, next to a bare blocking socket that does the same work.

One process sends, one receives, over loopback TCP. A message is an envelope of 202 bytes; the sender
encodes each one and writes 64 at a time, the receiver cuts frames and decodes typed envelopes. The bare
row has nothing else in it: no loop, no links, no limits. Run: python -m tests.benchmarks.bench_frames
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from struct import Struct
from typing import Any

import msgspec
import uvloop

from p2p.base.errors import Code
from p2p.base.identity import Identity
from p2p.base.limits import MAX_FRAME, READ_BUFFER
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.link import LinkOwner, PeerLink
from p2p.wire.messages import Codec, Envelope, RpcRequest, pack
from tests.benchmarks.report import Row

SIZE = 202  # bytes of one encoded envelope
BATCH = 64  # messages per write
ROUNDS = 3
WAYS = (
    ("bare", False),
    ("asyncio", False),
    ("asyncio", True),
    ("uvloop", False),
    ("uvloop", True),
)
ROUND_TRIPS_PER_SECOND_OF_RUN = 2000

SENDER, RECEIVER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
_LENGTH = Struct(">I")


def message(body: bytes = b"", kind: str = "request") -> Envelope:
    request = RpcRequest(id=1, method="order.take", deadline=5000, body=body)
    return Envelope(kind, SENDER.node_id, "", 1_700_000_000_000, msgspec.Raw(pack(request)))


def sized(kind: str = "request") -> Envelope:
    envelope = message(bytes(60), kind)
    missing = SIZE - len(pack(envelope))
    envelope = message(bytes(60 + missing), kind)
    assert len(pack(envelope)) == SIZE
    return envelope


# Bare sockets


def bare_receiver(pipe: Pipe) -> None:
    """Counts until the sender hangs up; answers `cancel` messages (the round trips) at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname())
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    decode = msgspec.msgpack.Decoder(Envelope).decode
    unpack = _LENGTH.unpack_from
    buffer = bytearray(READ_BUFFER)
    view = memoryview(buffer)
    count, end, first = 0, 0, 0.0
    with connection:
        while received := connection.recv_into(view[end:]):
            first = first or time.perf_counter()
            end += received
            start = 0
            while end - start >= 4:
                (length,) = unpack(buffer, start)
                if not 0 < length <= MAX_FRAME:
                    raise ValueError(length)
                if start + 4 + length > end:
                    break
                frame = buffer[start + 4 : start + 4 + length]
                envelope = decode(frame)
                start += 4 + length
                if envelope.type == "request":
                    count += 1
                else:
                    connection.sendall(_LENGTH.pack(length) + frame)
                    first = 0.0
            view[: end - start] = view[start:end]
            end -= start
    pipe.send((count, time.perf_counter() - first))


def bare_sender(address: tuple[str, int], seconds: float) -> list[float]:
    """Returns round trip times, seconds."""
    encode = msgspec.msgpack.Encoder().encode
    envelope, probe = sized(), sized("cancel")
    trips: list[float] = []
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(int(seconds * ROUND_TRIPS_PER_SECOND_OF_RUN)):
            begin = time.perf_counter()
            payload = encode(probe)
            connection.sendall(_LENGTH.pack(len(payload)) + payload)
            got = b""
            while len(got) < SIZE + 4:
                got += connection.recv(4096)
            msgspec.msgpack.decode(got[4:], type=Envelope)
            trips.append(time.perf_counter() - begin)
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            parts = []
            for _ in range(BATCH):
                payload = encode(envelope)
                parts.append(_LENGTH.pack(len(payload)))
                parts.append(payload)
            connection.sendall(b"".join(parts))
    return trips


# Real connections


class Counter(LinkOwner):
    """A link handler for either end."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0.0
        self.down = asyncio.Event()
        self.answer: asyncio.Future[None] | None = None

    def link_up(self, link: PeerLink) -> None:
        pass

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        self.last = time.perf_counter()
        self.down.set()

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        if envelope.type == "request":
            if not self.count:
                self.first = time.perf_counter()
            self.count += 1
        elif self.answer is not None:
            self.answer.set_result(None)
        else:
            link.send(Envelope("cancel", RECEIVER.node_id, "", 0, envelope.payload))


def service(identity: Identity, handler: Counter, secure: bool) -> DirectConnectionService:
    return DirectConnectionService(
        identity,
        handler,
        Codec(),
        LinkSettings("bench", secure, "bench"),
    )


async def link_receiver(pipe: Pipe, secure: bool) -> None:
    handler = Counter()
    node = service(RECEIVER, handler, secure)
    pipe.send(await node.start("127.0.0.1", 0))
    await handler.down.wait()
    pipe.send((handler.count, handler.last - handler.first))
    await node.stop()


async def link_sender(address: tuple[str, int], seconds: float, secure: bool) -> list[float]:
    handler = Counter()
    node = service(SENDER, handler, secure)
    link = await node.dial(*address)
    envelope, probe = sized(), sized("cancel")
    trips: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(int(seconds * ROUND_TRIPS_PER_SECOND_OF_RUN)):
        begin = time.perf_counter()
        handler.answer = loop.create_future()
        link.send(probe)
        await handler.answer
        trips.append(time.perf_counter() - begin)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for _ in range(BATCH):
            link.send(envelope)
        await link.drain()
        await asyncio.sleep(0)  # one write per batch
    await node.stop()
    return trips


def _receiver(pipe: Pipe, way: str, secure: bool) -> None:
    if way == "bare":
        bare_receiver(pipe)
    else:
        factory: Callable[[], Any] | None = uvloop.new_event_loop if way == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(link_receiver(pipe, secure))


def _sender(pipe: Pipe, address: tuple[str, int], seconds: float, way: str, secure: bool) -> None:
    if way == "bare":
        pipe.send(bare_sender(address, seconds))
    else:
        factory: Callable[[], Any] | None = uvloop.new_event_loop if way == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            pipe.send(runner.run(link_sender(address, seconds, secure)))


def measure(way: str, secure: bool, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=_receiver, args=(theirs, way, secure))
    receiver.start()
    address = ours.recv()
    ours_too, theirs_too = context.Pipe()
    sender = context.Process(target=_sender, args=(theirs_too, address, seconds, way, secure))
    sender.start()
    trips = ours_too.recv()
    count, took = ours.recv()
    sender.join()
    receiver.join()
    cuts = statistics.quantiles(trips, n=100)
    name = "bare blocking socket" if way == "bare" else f"Connection, {way}"
    return {
        "what": name + (", TLS" if secure else ""),
        "messages_per_second": round(count / took),
        "round_trip_p50_us": round(cuts[49] * 1e6, 1),
        "round_trip_p99_us": round(cuts[98] * 1e6, 1),
    }


def run(quick: bool) -> list[Row]:
    """Medians of rounds in which every way has its turn, so that all see the same machine. The ratio is
    the median of the rounds' messages per second over the bare socket's in the same round."""
    seconds, rounds = (0.5, 1) if quick else (2.0, ROUNDS)
    measured = [[measure(way, secure, seconds) for way, secure in WAYS] for _ in range(rounds)]
    rows: list[Row] = []
    for way in range(len(WAYS)):
        figures = [each[way] for each in measured]
        rates = [figure["messages_per_second"] for figure in figures]
        bare = [each[0]["messages_per_second"] for each in measured]
        p50, p99 = (
            statistics.median(figure[f"round_trip_{name}_us"] for figure in figures)
            for name in ("p50", "p99")
        )
        rows.append(
            Row(
                figures[0]["what"],
                statistics.median(rates),
                "msg/s",
                statistics.median(rate / floor for rate, floor in zip(rates, bare, strict=True)),
                f"round trip p50 {p50:.0f} us, p99 {p99:.0f} us",
            )
        )
    return rows
