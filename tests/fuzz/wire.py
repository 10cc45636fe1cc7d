"""Framing, handshake and messages between nodes."""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import msgspec

from p2p.base.errors import HandshakeRefused, RemoteProtocolError
from p2p.base.identity import Identity
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import broadcast_id
from p2p.wire.framing import FrameDecoder
from p2p.wire.handshake import HandshakeMachine, HandshakeState, HandshakeTerms, Role
from p2p.wire.messages import PAYLOADS, Capabilities, Codec, Envelope, pack
from tests.fuzz.targets import Pieces, piece

ME, PEER, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
LIMIT = 2000
codec = Codec()


# Framing


def decode(pieces: list[bytes], room: int) -> tuple[list[bytes], str]:
    """Frames of a stream that arrives in pieces, and the error that ended it."""
    decoder = FrameDecoder(LIMIT, room)
    frames: list[bytes] = []
    try:
        for part in pieces:
            while part:
                view = decoder.writable()
                count = min(len(view), len(part))
                view[:count] = part[:count]
                decoder.wrote(count)
                part = part[count:]
                while taken := decoder.take(3):
                    frames += map(bytes, taken)
                assert decoder.capacity <= max(room, 4, LIMIT + 4)
    except RemoteProtocolError as error:
        return frames, str(error.code)
    return frames, ""


def fuzz_framing(data: bytes) -> None:
    """The same frames, and the same fault after them, however the stream is cut."""
    source = Pieces(data)
    room = 1 + source.byte() * 16
    cuts = [1 + source.byte() for _ in range(4)]
    stream = source.rest()
    pieces, at = [], 0
    while at < len(stream):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(stream[at : at + size])
        at += size
    found, whole = decode(pieces, room), decode([stream], LIMIT * 4)
    assert found == whole
    assert (
        b"".join(struct.pack(">I", len(f)) + f for f in found[0])
        == stream[: sum(4 + len(f) for f in found[0])]
    )


def seeds_framing() -> list[bytes]:
    head = bytes([4, 0, 3, 200, 9])
    frame = struct.pack(">I", 5) + b"hello"
    return [head + frame * 3, head + struct.pack(">I", LIMIT + 1), head + b"\x16\x03\x01\x02"]


# Handshake


def terms(own: Identity) -> HandshakeTerms:
    return HandshakeTerms(own, "net", 7000, Capabilities("1.0.0"))


def fuzz_handshake(data: bytes) -> None:
    """Nobody is proven by bytes of a fuzzer: it has no key."""
    source = Pieces(data)
    first = source.byte()
    role = Role.DIAL if first & 1 else Role.ACCEPT
    expect = PEER.node_id if first & 2 else None
    machine = HandshakeMachine(role, terms(ME), nonce=b"n" * 32, expect=expect)
    machine.start()
    with suppress(HandshakeRefused, RemoteProtocolError):
        while source:
            machine.receive(codec.decode(source.piece()))
            assert machine.state in (HandshakeState.AWAIT_HANDSHAKE, HandshakeState.AWAIT_ACK)
    assert machine.state is not HandshakeState.PROVEN
    assert machine.state is not HandshakeState.DONE


def seeds_handshake() -> list[bytes]:
    """Both roles with a peer that is honest until its proof."""
    found = []
    for role, other in ((Role.ACCEPT, Role.DIAL), (Role.DIAL, Role.ACCEPT)):
        ours = HandshakeMachine(role, terms(ME), nonce=b"n" * 32)
        theirs = HandshakeMachine(other, terms(PEER), nonce=b"m" * 32)
        to_us, to_them = theirs.start(), ours.start()
        heard = b""
        for _ in range(3):
            for kind, payload in to_us:
                envelope = Envelope(kind, PEER.node_id, "", 0, msgspec.Raw(pack(payload)))
                if kind == "handshake":
                    heard += piece(codec.encode(envelope, as_json=True))
                to_them += ours.receive(envelope)
            to_us = []
            for kind, payload in to_them:
                envelope = Envelope(kind, ME.node_id, "", 0, msgspec.Raw(pack(payload)))
                to_us += theirs.receive(envelope)
            to_them = []
        found.append(bytes([role is Role.DIAL]) + heard)
    return found


# Messages of the mesh

KINDS = (*sorted(PAYLOADS), "news")


def fuzz_messages(data: bytes) -> None:
    """Frames as they are, and frames with envelopes of the right shape around any payload. Only a
    `RemoteProtocolError` may come of it, and everything that is sent because of it can be encoded."""
    source = Pieces(data)
    router = MessageRouter(ME, rng=random.Random(1), wall_ms=lambda: 0, fragile=True)
    router.handle("news", lambda received: True, origin=lambda origin, payload: True)
    router.link_up(0.0, PEER.node_id, notices=True)
    router.link_up(0.0, OTHER.node_id)
    now = 0.0
    with suppress(RemoteProtocolError):
        while source:
            how = source.byte()
            now += (how >> 4) / 4
            if how & 1:
                router.receive(now, PEER.node_id, codec.decode(source.piece()))
                continue
            kind = KINDS[source.byte() % len(KINDS)]
            payload = one_value(source.piece())
            envelope = Envelope(kind, PEER.node_id, "", 0, msgspec.Raw(payload))
            if how & 2:
                envelope.to, envelope.from_ = "*", (PEER, OTHER)[how >> 3 & 1].node_id
                envelope.id = broadcast_id(kind, envelope.from_, payload)
            router.receive(now, PEER.node_id, envelope)
            if how & 4:
                router.tick(now)
            with suppress(RemoteProtocolError):
                codec.payload(kind, payload)
    for outgoing in router.take_outgoing():
        codec.decode(codec.encode(outgoing.envelope))
    router.tick(now + 1000.0)
    router.link_down(now + 1000.0, PEER.node_id)
    assert router.gossip.stored_bytes == 0
    assert router.gossip.missing == 0


def one_value(data: bytes) -> bytes:
    """The bytes if they are one msgpack value, as the payload of a decoded envelope is; else a value with them."""
    try:
        msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return pack(data)
    return data


def seeds_messages() -> list[bytes]:
    ids = pack({"ids": [b"i" * 16, b"j" * 16]})
    ihave, graft = (bytes([4, KINDS.index(kind)]) + piece(ids) for kind in ("ihave", "graft"))
    news = bytes([2, KINDS.index("news")]) + piece(pack("news"))
    beat = Envelope("heartbeat", PEER.node_id, "", 0, msgspec.Raw(pack({"sequence": 1, "echo": 0})))
    whole = b"\x01" + piece(codec.encode(beat)) + b"\x01" + piece(codec.encode(beat, as_json=True))
    return [whole, ihave + news + graft, news * 3 + ihave + b"\x14" + news[1:]]
