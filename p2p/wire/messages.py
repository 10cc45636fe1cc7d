"""Messages: the envelope of every message, the payloads of the peer protocol, and the two codecs.

On the wire a payload that begins with `{` is JSON, anything else is msgpack. Inside the node an
envelope's payload is always msgpack: JSON is translated at the edge, by the payload type registered
for the message's `type`, so that bytes (base64 in JSON) and relayed copies stay the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from p2p.base.errors import MalformedMessage
from p2p.ground.peer_texts import Name, Sentence, Word, Words

EVERYONE = "*"


class Envelope(msgspec.Struct, rename={"from_": "from"}, omit_defaults=True):
    """One message. `to` is a node id, `*` for everyone, or empty for the peer at the other end.

    `id` is set on broadcasts, `hops` counts relays. `key` and `sig` prove the origin of a message
    that came through another node (see `signed_bytes`); a direct one is proven by its link.
    """

    type: Name
    from_: Name
    to: Name
    timestamp: int  # ms since the epoch, by the sender's clock: information, never trusted
    payload: msgspec.Raw
    id: bytes | None = None
    hops: int = 0
    key: bytes | None = None
    sig: bytes | None = None

    READING: ClassVar[float] = 1.0  # what a byte of the payload costs, compared with msgpack


class JsonEnvelope(Envelope):
    """Envelope that arrived as JSON. Lists and numbers of a character or two are the dearest to translate."""

    READING: ClassVar[float] = 10.0


class Capabilities(msgspec.Struct, rename="camel"):
    version: Word
    supported_protocols: Words = []
    codecs: Words = []  # besides JSON, which everyone reads: "msgpack"
    agent: Sentence = ""


class Handshake(msgspec.Struct, rename="camel"):
    """First message of both sides. `nonce` is fresh; the other side signs it in its ack."""

    node_id: Word
    public_key: bytes
    version: Word
    network: Sentence
    port: int  # where this node accepts links, 0 if it does not
    nonce: bytes
    capabilities: Capabilities


class HandshakeAck(msgspec.Struct, rename="camel"):
    """`signature` covers both nonces and both ids: it proves the key also where there is no TLS."""

    node_id: Word
    signature: bytes
    # IP address and port of the receiver, as the sender's socket shows them
    observed_address: Word = ""
    observed_port: int | msgspec.UnsetType = msgspec.UNSET  # absent in 0.1.0, and over Grenache


class Probe(msgspec.Struct, rename="camel"):
    """First and only message of a connection that tests an address instead of making a link.

    With a nonce it is a dial-back that the accepting node requested; without one its sender learns its observed
    address.
    """

    nonce: bytes = b""


class ProbeAck(msgspec.Struct, rename="camel"):
    """Answer to a probe: address and port of its sender as the socket shows them."""

    observed_address: Word
    observed_port: int


class Reachability(msgspec.Struct, rename="camel"):
    """Statement of a node about itself, to each neighbour: its verified external addresses, and its NAT.

    Without addresses, and `reachable` false, the node cannot be dialled from outside of its network.
    """

    reachable: bool | None = None  # None: not known yet
    addresses: list[tuple[Word, int]] = []  # verified by dial-back
    nat: Word = ""  # a `p2p.reachability.nat_kind.NatKind`, or one of a newer version
    mapped: bool = False  # an address is a port mapping of the router


class Goodbye(msgspec.Struct, rename="camel"):
    """Last message of a side that closes a link, or declines it in the handshake.

    `peers`: with the code `full` in a handshake, other nodes that the declined one may dial.
    """

    code: Word
    reason: Sentence = ""
    peers: list[PeerAddress] | msgspec.UnsetType = msgspec.UNSET  # unset by an older version


class Heartbeat(msgspec.Struct, rename="camel"):
    """Heartbeat. `echo` returns the sequence number of the last heartbeat received: round trips by the
    sender's own clock.
    """

    sequence: int
    echo: int = 0


class PeerAddress(msgspec.Struct, rename="camel", omit_defaults=True):
    node_id: Word
    address: Word
    port: int
    # How it is dialled; a `p2p.wire.link.Carrier`, or one that is not known here
    carrier: Word = "tcp"


class PeerExchange(msgspec.Struct, rename="camel"):
    peers: list[PeerAddress]


class IHave(msgspec.Struct, rename="camel", omit_defaults=True):
    """Lazy announcement: broadcasts that the sender holds (Plumtree), with their ages in milliseconds."""

    ids: list[bytes]
    ages: list[int] = []  # empty from an older version, and in repeated announcements


class Graft(msgspec.Struct, rename="camel", omit_defaults=True):
    """Request to send these broadcasts and, with `push`, all of them from now on (Plumtree)."""

    ids: list[bytes]
    push: bool = True  # an older version takes it for true always
    few_links: bool = False  # with `push`: no other links could push to the sender


class Prune(msgspec.Struct, rename="camel", omit_defaults=True):
    """Request to announce from now on instead of pushing (Plumtree)."""

    refusal: bool = False  # in place of that: the sender does not push, it does so to enough others


class Branch(msgspec.Struct, rename="camel", omit_defaults=True):
    """Request about the broadcasts of some origins, by node id, whatever holds for others. Sent only to peers that list
    the type.
    """

    push: list[str] = []
    leave: list[str] = []  # announce instead of pushing
    reset: list[str] = []  # treat them as all others again


class RpcRequest(msgspec.Struct, rename="camel"):
    id: int
    method: Word
    deadline: int  # ms that the caller will still wait, from arrival
    body: bytes  # msgpack


class Load(msgspec.Struct, rename="camel"):
    """Load of the node that answered, for the choice of the next one. Seconds; advice, not proof."""

    in_flight: float = 0.0  # requests inside when this one was done
    latency: float = 0.0  # what a request arriving now would take
    service: float = 0.0  # what one takes without a queue
    waited: float = 0.0  # this request, in the queue
    served: float = 0.0  # this request, in service


class RpcResponse(msgspec.Struct, rename="camel", omit_defaults=True):
    id: int
    body: bytes = b""  # msgpack
    error: Word = ""  # a stable code; empty for success
    message: Sentence = ""
    load: Load | None = None
    retry_after: int = 0  # ms; with "busy": not before this


class RpcCancel(msgspec.Struct, rename="camel"):
    id: int


class RelaySegment(msgspec.Struct, rename="camel", omit_defaults=True):
    """Part of a stream between two nodes, through relays or over their link: see `p2p.mesh.relay_stream`.

    `stream` and `peer` name the ends of the sender and of the receiver. Relayed only to peers that list the type.
    """

    stream: bytes
    peer: bytes = b""  # empty in an opening
    seq: int = 0  # number of the first byte of `data`
    data: bytes = b""
    ack: int = 0  # number of the byte that the sender expects
    fresh: bool = False  # the sender had no other stream with the receiver since its start
    reset: bool = False  # the sender has no such stream


class RefusedMessages(msgspec.Struct, rename="camel"):
    """Notice that messages of the receiver are dropped. Sent only to peers that list the type."""

    message_type: Word  # of the latest one
    scope: Word  # the budget that was exceeded: "link" or "network"; "relay": messages to `to` are not relayed
    count: int  # dropped on this link so far
    reason: Sentence = ""  # a sentence for people
    to: Word = ""  # node id


PAYLOADS: dict[str, type[msgspec.Struct]] = {
    "handshake": Handshake,
    "handshake_ack": HandshakeAck,
    "goodbye": Goodbye,
    "probe": Probe,
    "probe_ack": ProbeAck,
    "reachability": Reachability,
    "heartbeat": Heartbeat,
    "peerexchange": PeerExchange,
    "ihave": IHave,
    "graft": Graft,
    "prune": Prune,
    "branch": Branch,
    "request": RpcRequest,
    "response": RpcResponse,
    "cancel": RpcCancel,
    "refused": RefusedMessages,
    "relay_stream": RelaySegment,
}

_packer = msgspec.msgpack.Encoder()
_envelope_msgpack = msgspec.msgpack.Decoder(Envelope)
_envelope_json = msgspec.json.Decoder(JsonEnvelope)
_json = msgspec.json.Encoder()


def pack(payload: Any) -> bytes:
    """Encode a payload as msgpack."""
    return _packer.encode(payload)


class Codec:
    """Encoder and decoder of envelopes; knows the payload type of each message type."""

    def __init__(self, payloads: dict[str, type[msgspec.Struct]] | None = None) -> None:
        self.payloads = {**PAYLOADS, **(payloads or {})}
        self._decoders = {
            name: msgspec.msgpack.Decoder(kind) for name, kind in self.payloads.items()
        }

    def payload(self, message_type: str, raw: bytes | msgspec.Raw) -> Any:
        """Decode the typed payload of an envelope.

        Raises:
            MalformedMessage: it does not have the shape of its type.
        """
        decoder = self._decoders.get(message_type)
        if decoder is None:
            raise MalformedMessage(f"unknown message type {message_type[:40]!r}")
        try:
            return decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedMessage(f"{message_type}: {error}") from error

    def decode(self, frame: bytes | bytearray | memoryview) -> Envelope:
        """Decode the envelope in a frame's payload; JSON or msgpack by its first byte.

        Raises:
            MalformedMessage: no envelope, or (JSON only) a payload of the wrong shape.
        """
        try:
            if len(frame) and frame[0] == 0x7B:  # "{"
                envelope: Envelope = _envelope_json.decode(frame)
                kind = self.payloads.get(envelope.type)
                value = msgspec.json.decode(envelope.payload, type=kind or Any)
                envelope.payload = msgspec.Raw(_packer.encode(value))
                return envelope
            return _envelope_msgpack.decode(frame)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError) as error:
            raise MalformedMessage(
                str(error)
            ) from error  # OverflowError: an integer of JSON beyond 64 bits

    def encode(self, envelope: Envelope, *, as_json: bool = False) -> bytes:
        """Encode `envelope` as the payload of a frame (without the length prefix)."""
        if not as_json:
            return _packer.encode(envelope)
        kind = self.payloads.get(envelope.type)
        value = msgspec.msgpack.decode(envelope.payload, type=kind or Any)
        return _json.encode(
            msgspec.structs.replace(envelope, payload=msgspec.Raw(_json.encode(value)))
        )


def signed_bytes(envelope: Envelope) -> bytes:
    """Return the bytes that the origin of a relayed message signs: everything but `hops`."""
    return pack(
        [
            "exchange-node relay",
            envelope.type,
            envelope.from_,
            envelope.to,
            envelope.timestamp,
            envelope.id,
            bytes(envelope.payload),
        ]
    )
