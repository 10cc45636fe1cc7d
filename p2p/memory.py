"""A link without sockets: two ends in one process, for tests of what is above links.

Messages are encoded and decoded as on the wire and arrive on a later turn of the loop, in order. The
same conformance kit holds for it and for `p2p.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from p2p.errors import Code, RemoteProtocolError
from p2p.framing import HEADER
from p2p.identity import Identity
from p2p.limits import MAX_FRAME, OUTBOX_HIGH_WATER, OUTBOX_LIMIT, PROTOCOL_VERSION
from p2p.link import LinkHandler, LinkStats, PeerInfo
from p2p.messages import Capabilities, Codec, Envelope

Later = Callable[[Callable[[], Any]], Any]


class MemoryLink:
    """One end. `hold` stops its deliveries to the other end, as a reader that does not read would."""

    def __init__(
        self,
        peer: PeerInfo,
        codec: Codec,
        handler: LinkHandler,
        clock: Callable[[], float],
        later: Later,
    ) -> None:
        now = clock()
        self.stats = LinkStats(opened_at=now, last_seen=now)
        self.other: MemoryLink | None = None
        self._peer = peer
        self._codec = codec
        self._handler = handler
        self._clock = clock
        self._later = later
        self._closed = False
        self._held = False
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def peer(self) -> PeerInfo:
        return self._peer

    @property
    def outbox_bytes(self) -> int:
        return self._out_bytes

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, envelope: Envelope) -> None:
        if not self._closed:
            self.send_packed(self._codec.encode(envelope))

    def send_packed(self, payload: bytes) -> None:
        if self._closed:
            return
        if len(payload) > MAX_FRAME:
            raise ValueError(f"a message of {len(payload)} bytes, the limit is {MAX_FRAME}")
        self.stats.messages_sent += 1
        self.stats.bytes_sent += len(payload) + HEADER
        self._out.append(payload)
        self._out_bytes += len(payload) + HEADER
        if self._out_bytes > OUTBOX_LIMIT:
            self._out.clear()
            self.close(Code.SLOW, f"{self._out_bytes} bytes were waiting")
            return
        if self._out_bytes >= OUTBOX_HIGH_WATER:
            self._drained.clear()
        self._later(self._deliver)

    async def drain(self) -> None:
        while not self._closed and self._out_bytes >= OUTBOX_HIGH_WATER:
            await self._drained.wait()

    def close(self, code: Code, reason: str = "") -> None:
        other = self.other
        if self._closed:
            return
        while self._out and not self._held:  # what was sent before the goodbye arrives before it
            self._deliver()
        self._end(code, reason)
        if other is not None:
            self._later(lambda: other._end(code, reason))

    def sever(self) -> None:
        """Break both ends without a goodbye; what is under way is lost."""
        for end in (self, self.other):
            if end is not None:
                end._out.clear()
                end._end(None, "the connection broke")

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        for _ in range(len(self._out)):
            self._later(self._deliver)

    def _deliver(self) -> None:
        if self._held or not self._out:
            return
        payload = self._out.popleft()
        self._out_bytes -= len(payload) + HEADER
        if self._out_bytes < OUTBOX_HIGH_WATER:
            self._drained.set()
        if self.other is not None:
            self.other._receive(payload)

    def _receive(self, payload: bytes) -> None:
        if self._closed:
            return
        self.stats.messages_received += 1
        self.stats.bytes_received += len(payload) + HEADER
        self.stats.last_seen = self._clock()
        try:
            envelope = self._codec.decode(payload)
            unsigned = envelope.sig is None and envelope.id is None
            if unsigned and envelope.from_ != self._peer.node_id:
                raise RemoteProtocolError(Code.WRONG_IDENTITY, "in the name of another node")
            self._handler.message(self, envelope)
        except RemoteProtocolError as error:
            self.close(error.code, error.reason)

    def _end(self, code: Code | None, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._drained.set()
            self._later(lambda: self._handler.link_down(self, code, reason))


def memory_links(
    left: tuple[Identity, LinkHandler],
    right: tuple[Identity, LinkHandler],
    *,
    codec: Codec | None = None,
    network: str = "test",
    clock: Callable[[], float] = time.monotonic,
    later: Later | None = None,
) -> tuple[MemoryLink, MemoryLink]:
    """Both ends of a new link, dialled by `left`; `link_up` is called on both handlers.

    `later` runs a call on a later turn, in order (default: the running loop's `call_soon`).
    """
    codec = codec or Codec()
    later = later or asyncio.get_running_loop().call_soon

    def info(of: Identity, *, outbound: bool) -> PeerInfo:
        return PeerInfo(
            node_id=of.node_id,
            public_key=of.public_key,
            version=PROTOCOL_VERSION,
            network=network,
            capabilities=Capabilities(PROTOCOL_VERSION, codecs=["msgpack"], agent="memory"),
            address="127.0.0.1",
            listen_port=0,
            outbound=outbound,
            encrypted=False,
        )

    ours = MemoryLink(info(right[0], outbound=True), codec, left[1], clock, later)
    theirs = MemoryLink(info(left[0], outbound=False), codec, right[1], clock, later)
    ours.other, theirs.other = theirs, ours
    left[1].link_up(ours)
    right[1].link_up(theirs)
    return ours, theirs
