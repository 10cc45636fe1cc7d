"""Encrypted relaying: messages to nodes without a link, in a TLS session with each of them. No I/O.

Theory of operation. The first message to a node opens a session (`p2p.mesh.encrypted_session`) and waits for it. A node that
does not answer within `OPEN_TIMEOUT` is taken for one that cannot: of an earlier version, or behind a relay of one. What waits goes
to it in clear then, signed as before, and so does what follows; a session is tried again now and then.

Rules of this file:
- A node that ever had a session gets nothing in clear for `CAPABLE_FOR` seconds because segments are lost: a relay could drop
  them on purpose.
- A message is given to one session. When a session ends, what its peer has not acknowledged is sent again only if the peer
  says that it had no session before: it has just started, and cannot have received it.
- While a session is in use, another one that the peer opens (after its restart) replaces it only once the peer has proven itself in
  it, so an old copy of an opening changes nothing.
- Segments take the link to the peer if there is one, so a session that a punched link has made superfluous loses nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from p2p.adaptive.peer_metrics import Outcome
from p2p.base.errors import RemoteProtocolError
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.keyed_heap import KeyedHeap
from p2p.ground.tokens import Tokens, TokenTable
from p2p.mesh.encrypted_session import EncryptedSession
from p2p.mesh.relay_stream import NAME_LENGTH, RelayStream
from p2p.mesh.routed_messages import Outbox, Received, RelayEncryption
from p2p.wire.byte_stream import StreamError
from p2p.wire.messages import Codec, Envelope, RelaySegment

log = logging.getLogger(__name__)

TYPE: Final = "relay_stream"
OPEN_TIMEOUT: Final = 2.0  # seconds without an answer, then clear messages
CAPABLE_FOR: Final = 24 * 3600.0  # seconds after a session without clear messages
HOLD: Final = 10.0  # seconds that a message waits for a session
HELD_BYTES: Final = 1024 * 1024  # of one peer
MAX_BYTES: Final = 64 * 1024 * 1024  # of all messages that are held or not acknowledged
MAX_PEERS: Final = 512
FIRST_PAUSE: Final = 15.0  # seconds until the next try after a session that failed, doubling ...
MAX_PAUSE: Final = 600.0  # ... to this
RETRY: Final = 1.0  # seconds, with a node that is known to be able to
OPENINGS_RATE: Final = 20.0  # sessions a second that others open: TLS costs a millisecond ...
OPENINGS_BURST: Final = 50.0  # ... and at once
LINK_OPENINGS_RATE: Final = 5.0  # of these: that one link brings, so that none keeps out the others
LINK_OPENINGS_BURST: Final = 20.0
RESETS_RATE: Final = 20.0


class Held(msgspec.Struct, frozen=True):
    """A message that waits for a session."""

    expires: float
    type: str
    payload: bytes


@dataclass(slots=True)
class _Peer:
    node: str
    session: EncryptedSession | None = None
    rival: EncryptedSession | None = None  # opened by the peer while `session` is there
    rival_fresh: bool = False
    held: deque[Held] = field(default_factory=deque)
    held_bytes: int = 0
    counted: int = 0  # bytes in `EncryptedRelaying.bytes`
    opened_at: float = 0.0
    clear: bool = False  # messages are not encrypted
    retry_at: float = 0.0  # no session is opened before
    pause: float = FIRST_PAUSE


class SegmentCarrier(Protocol):
    """Sender of what the sessions of a node have to send."""

    def send_segment(self, now: float, to: str, segment: RelaySegment) -> None: ...

    def send_clear(self, now: float, to: str, type: str, payload: bytes) -> None:  # noqa: A002 - of the wire
        """Relay a message without a session."""
        ...

    def sample(self, now: float, node: str, outcome: Outcome, seconds: float) -> None:
        """Record a round trip (`ok`) or a wait in vain (`timeout`)."""
        ...


class EncryptedRelaying:
    """Sessions of one node. `outbox` names this node; `carrier` sends."""

    def __init__(
        self, outbox: Outbox, encryption: RelayEncryption, carrier: SegmentCarrier
    ) -> None:
        self.bytes = 0
        self.counters: dict[str, int] = {
            "opened": 0,  # sessions that others opened included
            "established": 0,
            "clear": 0,  # openings without an answer
            "lost": 0,  # messages, with their session or for want of one
            "refused": 0,  # openings and resets beyond their rate
        }
        self._outbox = outbox
        self._encryption = encryption
        self._carrier = carrier
        self._codec = Codec()
        self._peers: BoundedMap[str, _Peer] = BoundedMap(MAX_PEERS, self._evicted)
        self._able: BoundedMap[str, float] = BoundedMap(10_000)  # time of the last session
        self._deadlines: KeyedHeap[str, float] = KeyedHeap()
        self._openings = Tokens(OPENINGS_BURST)
        self._link_openings = TokenTable(LINK_OPENINGS_RATE, LINK_OPENINGS_BURST, MAX_PEERS)
        self._resets = Tokens(RESETS_RATE)

    # Sending

    def wanted(self, now: float, node: str) -> bool:
        """Return False if messages to a node are relayed in clear. Then a session may be tried beside."""
        peer = self._peers.get(node)
        if peer is None or not peer.clear:
            return True
        if peer.session is None and now >= peer.retry_at:
            self._open(now, peer)
            self._pump(now, peer)
        return False

    def send(self, now: float, node: str, message_type: str, payload: bytes) -> str | None:
        """Send a message in a session, once there is one; returns the reason if it cannot wait."""
        peer = self._peers.renew(node)
        if peer is None:
            peer = self._peers[node] = _Peer(node)
        size = len(payload)
        if peer.held_bytes + size > HELD_BYTES and peer.held:
            return f"{peer.held_bytes} bytes wait for an encrypted session with it"
        if self.bytes + size > MAX_BYTES:
            return f"{self.bytes} bytes wait in encrypted sessions"
        peer.held.append(Held(now + HOLD, message_type, payload))
        peer.held_bytes += size
        self._pump(now, peer)
        return None

    def take_held(self, node: str) -> list[Held]:
        """Return the messages to a node that no session has taken; they are no longer held."""
        peer = self._peers.get(node)
        if peer is None:
            return []
        held = list(peer.held)
        peer.held.clear()
        peer.held_bytes = 0
        self._count(peer)
        return held

    # Receiving

    def receive(self, received: Received) -> list[Envelope] | None:
        """Process a segment, relayed or over the link of its sender; returns the messages that are complete, None for a
        segment that breaks the rules.
        """
        segment = self._codec.payload(TYPE, received.payload)
        if received.broadcast or not _well_named(segment):
            return None
        now, node = received.now, received.origin
        peer = self._peers.renew(node)
        if segment.reset:
            if peer is not None:
                self._on_reset(now, peer, segment)
            return []
        session = self._session_of(peer, segment)
        if session is None and not segment.peer:
            peer, session = self._opened_by(now, node, segment, received.via)
        if peer is None or session is None:
            if segment.peer:
                self._reset(now, node, segment)
            return []
        return self._arrived(now, peer, session, segment)

    def _session_of(self, peer: _Peer | None, segment: RelaySegment) -> EncryptedSession | None:
        if peer is None:
            return None
        for session in (peer.session, peer.rival):
            if session is None or segment.peer not in (b"", session.stream.own):
                continue
            known = session.stream.peer
            if known == segment.stream or (not known and segment.peer):
                return session
        return None

    def _opened_by(
        self, now: float, node: str, segment: RelaySegment, via: str
    ) -> tuple[_Peer | None, EncryptedSession | None]:
        """Accept a session that a node opens, unless it is the loser of two openings at once."""
        peer = self._peers.get(node)
        session = None if peer is None else peer.session
        crossed = session is not None and not session.server and not session.stream.peer
        if crossed and self._outbox.node_id < node:
            return None, None
        if not self._may_open(now, via):
            self.counters["refused"] += 1
            return None, None
        if peer is None:
            peer = self._peers[node] = _Peer(node)
        stream = RelayStream(
            self._encryption.random_bytes(NAME_LENGTH),
            peer=segment.stream,
            fresh=node not in self._able,
        )
        opened = EncryptedSession(node, stream, self._encryption.server, server=True)
        self.counters["opened"] += 1
        if session is None or crossed:
            peer.session, peer.opened_at = opened, now
        else:
            peer.rival, peer.rival_fresh = opened, segment.fresh
        return peer, opened

    def _may_open(self, now: float, via: str) -> bool:
        """Charge an opening to the link that brought it and to all."""
        return self._link_openings.take(now, via) and self._openings.take(
            now, OPENINGS_RATE, OPENINGS_BURST
        )

    def _arrived(
        self, now: float, peer: _Peer, session: EncryptedSession, segment: RelaySegment
    ) -> list[Envelope]:
        before = session.established
        envelopes: list[Envelope] = []
        try:
            messages = session.receive(now, segment)
        except StreamError as error:
            self._failed(now, peer, session, str(error))
            return envelopes
        if session.established and not before:
            self._established(now, peer, session)
        self._pump(now, peer)
        try:
            for message in messages:
                envelope = self._codec.decode(message)
                envelope.from_ = peer.node
                envelopes.append(envelope)
        except RemoteProtocolError as error:
            self._failed(now, peer, session, error.reason)
        return envelopes

    def _established(self, now: float, peer: _Peer, session: EncryptedSession) -> None:
        self.counters["established"] += 1
        self._able[peer.node] = now
        peer.clear, peer.pause = False, FIRST_PAUSE
        if session is peer.rival:
            before, peer.session, peer.rival = peer.session, session, None
            if before is not None:
                self._give_back(now, peer, before, again=peer.rival_fresh)

    def _on_reset(self, now: float, peer: _Peer, segment: RelaySegment) -> None:
        session = peer.session
        if session is None or segment.peer != session.stream.own:
            return
        if session.stream.peer == segment.stream:
            self._drop(now, peer, session, again=segment.fresh)
            self._pump(now, peer)

    def _reset(self, now: float, node: str, segment: RelaySegment) -> None:
        if not self._resets.take(now, RESETS_RATE, RESETS_RATE):
            self.counters["refused"] += 1
            return
        fresh = node not in self._able
        answer = RelaySegment(segment.peer, segment.stream, reset=True, fresh=fresh)
        self._carrier.send_segment(now, node, answer)

    # Sessions

    def _open(self, now: float, peer: _Peer) -> None:
        stream = RelayStream(
            self._encryption.random_bytes(NAME_LENGTH), fresh=peer.node not in self._able
        )
        peer.session = EncryptedSession(peer.node, stream, self._encryption.client, server=False)
        peer.opened_at = now
        self.counters["opened"] += 1

    def _pump(self, now: float, peer: _Peer) -> None:
        """Give the session what is held, and send its segments."""
        if peer.session is None and peer.held and now >= peer.retry_at:
            self._open(now, peer)
        session = peer.session
        if session is not None and session.established:
            while peer.held and session.stream.room:
                held = peer.held.popleft()
                peer.held_bytes -= len(held.payload)
                envelope = self._outbox.envelope(peer.node, held.type, held.payload)
                session.send(self._codec.encode(envelope))
        for each in (peer.session, peer.rival):
            if each is not None:
                try:
                    segments = each.segments(now)
                    while each.stream.samples:  # first: they may change the relay
                        self._carrier.sample(now, peer.node, *each.stream.samples.pop(0))
                    for segment in segments:
                        self._carrier.send_segment(now, peer.node, segment)
                except StreamError as error:
                    self._failed(now, peer, each, str(error))
        self._schedule(peer)
        self._count(peer)

    def _failed(self, now: float, peer: _Peer, session: EncryptedSession, reason: str) -> None:
        """End a session that breaks the rules or does not answer."""
        log.info("encrypted session with %s: %s", peer.node, reason)
        if session.stream.peer:
            answer = RelaySegment(session.stream.own, session.stream.peer, reset=True)
            self._carrier.send_segment(now, peer.node, answer)
        if session is peer.session:
            peer.retry_at = now + RETRY
        self._drop(now, peer, session, again=False)
        self._schedule(peer)

    def _drop(self, now: float, peer: _Peer, session: EncryptedSession, *, again: bool) -> None:
        if session is peer.rival:
            peer.rival = None
        elif session is peer.session:
            peer.session, peer.rival, peer.opened_at = peer.rival, None, now
            self._give_back(now, peer, session, again=again)

    def _give_back(
        self, now: float, peer: _Peer, session: EncryptedSession, *, again: bool
    ) -> None:
        """Send what the peer has not acknowledged `again`, or give it up."""
        left = session.unconfirmed()
        if not again:
            self.counters["lost"] += len(left)
            return
        for message in reversed(left):
            envelope = self._codec.decode(message)
            payload = bytes(envelope.payload)
            peer.held.appendleft(Held(now + HOLD, envelope.type, payload))
            peer.held_bytes += len(payload)

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        return self._deadlines.least()

    def tick(self, now: float) -> None:
        """Repeat, acknowledge, expire and give up as far as due."""
        due = []
        while (node := self._deadlines.pop(now)) is not None:
            due.append(node)
        for node in due:
            peer = self._peers.get(node)
            if peer is not None:
                self._expire(now, peer)
                self._pump(now, peer)

    def _expire(self, now: float, peer: _Peer) -> None:
        while peer.held and peer.held[0].expires <= now:
            peer.held_bytes -= len(peer.held.popleft().payload)
            self.counters["lost"] += 1
        session = peer.session
        if session is None or session.established or now < peer.opened_at + OPEN_TIMEOUT:
            return
        able = self._able.get(peer.node)
        if able is not None and now < able + CAPABLE_FOR:
            return
        self.counters["clear"] += 1
        peer.session, peer.clear = None, True
        peer.retry_at = now + peer.pause
        peer.pause = min(2 * peer.pause, MAX_PAUSE)
        for held in self.take_held(peer.node):
            self._carrier.send_clear(now, peer.node, held.type, held.payload)

    def _schedule(self, peer: _Peer) -> None:
        times: list[float | None] = [
            session.stream.next_deadline()
            for session in (peer.session, peer.rival)
            if session is not None
        ]
        if peer.held:
            times.append(peer.held[0].expires)
            if peer.session is None:
                times.append(peer.retry_at)
        if peer.session is not None and not peer.session.established:
            due = peer.opened_at + OPEN_TIMEOUT
            able = self._able.get(peer.node)
            if able is None or due >= able + CAPABLE_FOR:
                times.append(due)
        at = min((at for at in times if at is not None), default=None)
        if at is None:
            self._deadlines.discard(peer.node)
        else:
            self._deadlines.set(peer.node, at)

    def _count(self, peer: _Peer) -> None:
        stream = None if peer.session is None else peer.session.stream
        waiting = 0 if stream is None else stream.written - stream.acknowledged
        held = waiting + peer.held_bytes
        self.bytes += held - peer.counted
        peer.counted = held

    def _evicted(self, node: str, peer: _Peer) -> None:
        self.bytes -= peer.counted
        self._deadlines.discard(node)
        left = 0 if peer.session is None else len(peer.session.unconfirmed())
        self.counters["lost"] += len(peer.held) + left

    # Status

    def is_encrypted(self, node: str) -> bool | None:
        """Return True with a session, False if messages go in clear, None before the first one."""
        peer = self._peers.get(node)
        if peer is None:
            return None
        if peer.session is not None and peer.session.established:
            return True
        return False if peer.clear else None

    def rtt(self, node: str) -> float | None:
        """Return the round trip to a node in its session, in seconds."""
        peer = self._peers.get(node)
        return None if peer is None or peer.session is None else peer.session.stream.rtt

    @property
    def sessions(self) -> int:
        """Number of nodes with an established session."""
        return sum(
            peer.session is not None and peer.session.established for peer in self._peers.values()
        )


def _well_named(segment: RelaySegment) -> bool:
    return len(segment.stream) == NAME_LENGTH and len(segment.peer) in (0, NAME_LENGTH)
