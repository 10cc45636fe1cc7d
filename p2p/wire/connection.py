"""Connection to a peer over a stream: handshake, messages, heartbeats and goodbyes.

The bytes below it are those of `p2p.wire.frame_transport`, with TLS or without. The link ends as soon as one side
has said goodbye or has timed out; the transport follows (`FrameTransport.linger`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import msgspec

from p2p.base.errors import Code, ConnectFailed, HandshakeRefused, P2PError, RemoteProtocolError
from p2p.base.limits import HEARTBEAT_INTERVAL, MAX_BAD_MESSAGES
from p2p.base.network_group import is_local, network_group
from p2p.ground.tokens import Tokens
from p2p.wire import tls
from p2p.wire.frame_transport import FrameTransport
from p2p.wire.handshake import HandshakeMachine, HandshakeState, HandshakeTerms, Role, read_goodbye
from p2p.wire.link import Carrier, LinkOwner, Others, PeerInfo
from p2p.wire.liveness import Liveness
from p2p.wire.messages import Codec, Envelope, Goodbye, PeerAddress, Probe, ProbeAck, pack
from p2p.wire.read_turns import ReadTurns

MSGPACK = "msgpack"  # in Capabilities.codecs

_encode_msgpack = msgspec.msgpack.Encoder().encode  # `Codec.encode` without the call around it

HEARTBEAT_RATE = 20.0  # a second, of a peer: they are answered, and no budget counts them
HEARTBEAT_BURST = 200.0
LINK_TYPES = frozenset({"handshake", "handshake_ack", "heartbeat", "goodbye", "probe", "probe_ack"})


class StreamOrigin(msgspec.Struct, frozen=True):
    """Origin of a stream, as far as its socket does not show it."""

    dialled: tuple[str, int] | None = None  # host and port, on the dialling side
    carrier: Carrier = "tcp"
    address: str = ""  # the peer's IP address; empty: the socket's
    punched: bool = False


DIRECT = StreamOrigin()


class ConnectionHost(Protocol):
    """Maker of connections (`p2p.wire.direct_links.DirectConnectionService`), as they use it. `turns`: those of links that
    share the processor.
    """

    codec: Codec
    owner: LinkOwner
    turns: ReadTurns

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def probed(self, nonce: bytes, address: str) -> None:
        """Note a probe, which makes no link."""
        ...

    def refused(self, address: str, refusal: HandshakeRefused) -> None:
        """Note a handshake that was refused by either side."""
        ...


class PeerConnection(FrameTransport):
    """Implementation of `p2p.wire.link.PeerLink`, and the handshake that leads to it.

    `established` is done when the link is up, or has the `ConnectFailed` or `HandshakeRefused` that
    prevented it. `peer` may be asked for from then on.
    """

    def __init__(
        self,
        role: Role,
        terms: HandshakeTerms,
        host: ConnectionHost,
        *,
        nonce: bytes,
        expect: str | None = None,
        route: StreamOrigin = DIRECT,
    ) -> None:
        super().__init__(host.now, host.turns)
        self.established: asyncio.Future[PeerConnection] = self._loop.create_future()
        self.established.add_done_callback(_retrieve)
        self.role = role
        self.bad_messages = 0
        self.was_probe = False
        self.address = route.address
        self._route = route
        self._terms = terms
        self._host = host
        self._codec = host.codec
        self._handler = host.owner
        self._nonce = nonce
        self._expect = expect
        self._machine: HandshakeMachine | None = None  # until the link is up
        self._peer: PeerInfo | None = None
        self._peer_id = ""
        self._json = True
        self._encrypted = False
        self._encode_message: Callable[[Envelope], bytes] = partial(host.codec.encode, as_json=True)
        self._application_types = frozenset(host.codec.payloads) - LINK_TYPES
        self._liveness: Liveness | None = None
        self._beats = Tokens(HEARTBEAT_BURST)  # of the peer
        self._beat: asyncio.TimerHandle | None = None

    # Link

    @property
    def peer(self) -> PeerInfo:
        if self._peer is None:
            raise RuntimeError("the handshake has not finished")
        return self._peer

    @property
    def closed(self) -> bool:
        return self._closing

    def send(self, envelope: Envelope) -> None:
        """Queue a message.

        Raises:
            ValueError: it is longer than `MAX_FRAME`.
        """
        if not self._closing:
            self._put(self._encode_message(envelope))

    def send_packed(self, payload: bytes) -> None:
        """Queue a message already encoded as msgpack.

        Raises:
            ValueError: it is longer than `MAX_FRAME`.
        """
        if not self._closing:
            if self._json:
                payload = self._codec.encode(self._codec.decode(payload), as_json=True)
            self._put(payload)

    async def drain(self) -> None:
        await self._wait_drained()

    def close(self, code: Code, reason: str = "") -> None:
        if not self._closing:
            self._send_goodbye(code, reason)
            self._ended(code, reason)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "open" if self._machine is None else "in handshake"
        return f"<Connection {self.role.value} {self._peer_id or self.address} {state}>"

    # Handshake

    def opened(self) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 - just set by connection_made
        if not self.address:
            self.address = _address(transport.get_extra_info("peername"))[0]
        if self._route.carrier == "tcp" and not is_local(self.address):
            self.flow = network_group(self.address)
        security: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._encrypted = security is not None
        try:
            key = None if security is None else tls.peer_public_key(security)
        except RemoteProtocolError as error:
            self._end_handshake(HandshakeRefused(error.code, error.reason, by_us=True))
            return
        self._machine = HandshakeMachine(
            self.role,
            self._terms,
            nonce=self._nonce,
            expect=self._expect,
            tls_key=key,
            seen_at=(self.address, self._peer_port()),
        )
        self._send_messages(self._machine.start())

    def _peer_port(self) -> int:
        """Return the port of the peer's end, 0 if something else carries the stream."""
        if self._transport is None or self._route.carrier != "tcp":
            return 0
        return _address(self._transport.get_extra_info("peername"))[1]

    def expire(self, seconds: float) -> None:
        """End the handshake: the peer took longer than `seconds`."""
        if self._machine is None:
            refusal = HandshakeRefused(Code.TIMEOUT, f"no handshake in {seconds:g} s", by_us=True)
        else:
            refusal = self._machine.expired(seconds)
        self._end_handshake(refusal)

    def _handshake_step(self, machine: HandshakeMachine, frame: bytearray) -> None:
        try:
            envelope = self._codec.decode(frame)
            if envelope.type == "probe" and self._answers_probe(machine):
                self._answer_probe(self._codec.payload("probe", envelope.payload))
                return
            self._send_messages(machine.receive(envelope))
            if machine.state is HandshakeState.PROVEN:
                self._peer = self._proven(machine)
                refusal = self._handler.admit(self._peer)
                self._send_messages(machine.admit(*(refusal or (None,))))
                self._bring_up(self._peer)
        except HandshakeRefused as error:
            self._end_handshake(error)

    def _answers_probe(self, machine: HandshakeMachine) -> bool:
        first = machine.state is HandshakeState.AWAIT_HANDSHAKE
        return self.role is Role.ACCEPT and first and self._route.carrier == "tcp"

    def _answer_probe(self, probe: Probe) -> None:
        self._put(self._encode("probe_ack", ProbeAck(self.address, self._peer_port())))
        self.was_probe = True
        self.linger()
        self._failed(ConnectFailed("a probe, which makes no link"))
        self._host.probed(probe.nonce, self.address)

    def _proven(self, machine: HandshakeMachine) -> PeerInfo:
        claims = machine.peer
        assert claims is not None  # noqa: S101 - State.PROVEN
        return PeerInfo(
            node_id=claims.node_id,
            public_key=claims.public_key,
            version=claims.version,
            network=claims.network,
            capabilities=claims.capabilities,
            address=self.address,
            listen_port=claims.port,
            outbound=self.role is Role.DIAL,
            encrypted=self._encrypted,
            carrier=self._route.carrier,
            dialled=self._route.dialled,
            observed=machine.observed if self._route.carrier == "tcp" else ("", 0),
            punched=self._route.punched,
            local=_address(self._transport and self._transport.get_extra_info("sockname")),
        )

    def _bring_up(self, peer: PeerInfo) -> None:
        self._machine = None
        self._peer_id = peer.node_id
        ours = self._terms.capabilities.codecs
        self._json = not (MSGPACK in ours and MSGPACK in peer.capabilities.codecs)
        if not self._json:
            self._encode_message = _encode_msgpack
        self._lift_handshake_limits()
        self._liveness = Liveness(self._clock())
        self._tick()
        if not self.established.done():
            self.established.set_result(self)
        self._guard(self._handler.link_up, self)

    def _end_handshake(self, refusal: HandshakeRefused) -> None:
        if self._closing:
            return
        if refusal.by_us:
            self._send_goodbye(refusal.code, refusal.reason, refusal.others)
        else:
            self.hang_up()
        self._host.refused(self.address, refusal)
        self._failed(refusal)

    def _failed(self, error: P2PError) -> None:
        if not self.established.done():
            self.established.set_exception(error)

    # Messages

    def received(self, frames: list[bytearray], until: float) -> int:
        if self._machine is not None:
            for frame in frames:
                self._handshake_step(self._machine, frame)
            return len(frames)
        decode, handle = self._codec.decode, self._handler.message
        application, peer_id = self._application_types, self._peer_id
        for count, frame in enumerate(frames, start=1):
            envelope = decode(frame)
            if envelope.type in application:
                if envelope.from_ != peer_id and envelope.sig is None and envelope.id is None:
                    raise _impostor(envelope)
                try:
                    handle(self, envelope)
                except RemoteProtocolError:
                    raise
                except Exception as error:
                    self._handler_failed(error, f"message {envelope.type}")
            else:
                self._link_message(envelope)
            if self._closing or perf_counter() >= until:
                return count
        return len(frames)

    def _link_message(self, envelope: Envelope) -> None:
        kind = envelope.type
        if envelope.from_ != self._peer_id and kind in LINK_TYPES:
            raise _impostor(envelope)
        if kind == "heartbeat":
            beat = self._codec.payload(kind, envelope.payload)
            now = self._clock()
            if not self._beats.take(now, HEARTBEAT_RATE, HEARTBEAT_BURST):
                raise RemoteProtocolError(Code.ABUSE, "too many heartbeats")
            self.stats.last_heartbeat = now
            if self._liveness is not None:
                answer = self._liveness.received(beat, now)
                self.stats.rtt = self._liveness.rtt
                if answer is not None:
                    self._put(self._encode("heartbeat", answer))
        elif kind == "goodbye":
            code, reason = read_goodbye(self._codec.payload(kind, envelope.payload))
            self.hang_up()
            self._ended(code, reason)
        elif kind in LINK_TYPES:
            raise RemoteProtocolError(Code.UNEXPECTED, f"{kind} on an established link")
        else:
            # A newer version may send further types; a peer that sends nothing else is of no use.
            self.bad_messages += 1
            self.stats.extra["unknown_types"] = self.stats.extra.get("unknown_types", 0) + 1
            if self.bad_messages > MAX_BAD_MESSAGES:
                raise RemoteProtocolError(
                    Code.UNKNOWN_TYPE, f"unknown message types, the last one {kind[:40]!r}"
                )

    def refused(self, error: RemoteProtocolError) -> None:
        if self._machine is not None:
            self._end_handshake(self._machine.refusal(error.code, error.reason))
        else:
            self.close(error.code, error.reason)

    def is_goodbye(self, frame: bytearray) -> bool:
        try:
            return self._codec.decode(frame).type == "goodbye"
        except RemoteProtocolError:
            return False

    def overflowed(self) -> None:
        """Drop the waiting messages of a peer that does not read, so that at least the goodbye fits."""
        waiting = self.outbox_bytes
        self._drop_unwritten()
        self.close(Code.SLOW, f"{waiting} bytes were waiting")

    def _handler_failed(self, error: Exception, where: str) -> None:
        """Count a fault of this node, which is no reason to drop a peer, and report it to the loop."""
        self.stats.extra["handler_errors"] = self.stats.extra.get("handler_errors", 0) + 1
        self._loop.call_exception_handler(
            {"message": f"link handler failed in {where}", "exception": error, "protocol": self}
        )

    def _guard(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            self._handler_failed(error, getattr(call, "__name__", "call"))

    # Time

    def _tick(self) -> None:
        liveness = self._liveness
        if self._closing or liveness is None:
            return
        now = self._clock()
        liveness.bytes_received(self.stats.last_seen)
        beat = liveness.tick(now)
        if liveness.dead(now):
            self.close(Code.TIMEOUT, "no message for too long")
            return
        if beat is not None:
            self._put(self._encode("heartbeat", beat))
        wait = min(max(liveness.next_tick() - now, 0.001), HEARTBEAT_INTERVAL)
        self._beat = self._loop.call_later(wait, self._tick)

    # Ending

    def _send_goodbye(self, code: Code, reason: str, others: Others = ()) -> None:
        peers = [PeerAddress(*other) for other in others] or msgspec.UNSET
        self._put(self._encode("goodbye", Goodbye(code.value, reason, peers)))
        self.linger()

    def _ended(self, code: Code | None, reason: str) -> None:
        """Notify the handler that the link is over, once, from the loop (not inside its own call)."""
        if self._beat is not None:
            self._beat.cancel()
        if self._liveness is not None:
            self._liveness = None
            self._loop.call_soon(self._guard, self._handler.link_down, self, code, reason)

    def gone(self, error: Exception | None) -> None:
        why = str(error) if error is not None else "the peer closed the connection"
        self._failed(ConnectFailed(why + self._likely_cause(error)))
        self._ended(None, why)

    def _likely_cause(self, error: Exception | None) -> str:
        """Return a likely cause for a connection that broke in the handshake without a message."""
        if isinstance(error, ssl.SSLError):
            return " (its certificate or ours was not accepted)"
        if self.role is Role.DIAL and not self.stats.bytes_received and not self._encrypted:
            return " without a message (does it demand TLS? P2P_SECURITY is off here)"
        return ""

    # Encoding

    def _encode(self, kind: str, payload: msgspec.Struct) -> bytes:
        envelope = Envelope(
            type=kind,
            from_=self._terms.identity.node_id,
            to=self._peer_id,
            timestamp=int(time.time() * 1000),
            payload=msgspec.Raw(pack(payload)),
        )
        return self._codec.encode(envelope, as_json=self._json)

    def _send_messages(self, messages: list[tuple[str, msgspec.Struct]]) -> None:
        for kind, payload in messages:
            self._put(self._encode(kind, payload))


def _impostor(envelope: Envelope) -> RemoteProtocolError:
    return RemoteProtocolError(
        Code.WRONG_IDENTITY, f"an unsigned {envelope.type[:40]!r} in the name of another node"
    )


def _address(name: Any) -> tuple[str, int]:
    """Return the IP address, IPv4 addresses on IPv6 sockets in their own form, and the port of a socket's
    name.
    """
    if not isinstance(name, tuple) or len(name) < 2:
        return "", 0
    return str(name[0]).removeprefix("::ffff:"), int(name[1])


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the exception of a future as retrieved: an owner that gave up does not read it."""
    if not future.cancelled():
        future.exception()
