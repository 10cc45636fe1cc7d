"""TLS session with one node through relays: the frames of a link, inside a `RelayStream`. No I/O.

Each side proves its node id by its certificate, as on a direct link (`p2p.wire.tls`); the side that opens the stream is the
TLS client. A relay sees the sizes and times of segments.
"""

from __future__ import annotations

import ssl
from collections import deque
from typing import Final, cast

from p2p.base.errors import RemoteProtocolError
from p2p.base.identity import node_id_of
from p2p.mesh.relay_stream import RelayStream
from p2p.wire import tls
from p2p.wire.byte_stream import StreamError
from p2p.wire.framing import FrameDecoder, pack_length
from p2p.wire.messages import RelaySegment

READ: Final = 256 * 1024  # bytes read from TLS at once


class EncryptedSession:
    """One end of a session with the node `peer`. After each call its driver sends what `segments` returns."""

    def __init__(
        self, peer: str, stream: RelayStream, context: ssl.SSLContext, *, server: bool
    ) -> None:
        self.peer = peer
        self.stream = stream
        self.server = server
        self.established = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._frames = FrameDecoder()
        # Messages that the peer may not have: the stream's length after each, and the message.
        self._unconfirmed: deque[tuple[int, bytes]] = deque()
        if not server:
            self._handshake()

    def receive(self, now: float, segment: RelaySegment) -> list[bytearray]:
        """Process a segment; returns the messages that are complete.

        Raises:
            StreamError: the session has to end.
        """
        data = self.stream.receive(now, segment)
        while self._unconfirmed and self._unconfirmed[0][0] <= self.stream.acknowledged:
            self._unconfirmed.popleft()
        if not data:
            return []
        self._incoming.write(data)
        if not self.established:
            self._handshake()
        return self._read() if self.established else []

    def send(self, message: bytes) -> None:
        """Send a message. Only when `established`."""
        self._tls.write(pack_length(len(message)) + message)
        self._flush()
        self._unconfirmed.append((self.stream.written, message))

    def unconfirmed(self) -> list[bytes]:
        """Return the messages that the peer has not acknowledged."""
        return [message for _, message in self._unconfirmed]

    def segments(self, now: float) -> list[RelaySegment]:
        """Return the segments to send now. Raises as `receive`."""
        return self.stream.segments(now)

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._flush()
        except ssl.SSLError as error:
            raise StreamError(f"TLS: {error.reason or error}") from error
        try:
            proven = node_id_of(tls.peer_public_key(self._tls))
        except RemoteProtocolError as error:
            raise StreamError(error.reason) from error
        if proven != self.peer:
            raise StreamError(f"{proven} answered in the place of {self.peer}")
        self.established = True
        return self._flush()

    def _read(self) -> list[bytearray]:
        messages: list[bytearray] = []
        try:
            while True:
                count = cast(int, self._tls.read(READ, self._frames.writable()))
                if not count:
                    raise StreamError("the peer ended the TLS session")
                self._frames.wrote(count)
                messages += self._frames.take(READ)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise StreamError(f"TLS: {error.reason or error}") from error
        except RemoteProtocolError as error:
            raise StreamError(error.reason) from error
        self._flush()  # a key update has to be answered
        return messages

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.stream.write(self._outgoing.read())
